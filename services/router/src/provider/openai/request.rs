//! From a call to the body of a chat completion request.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::constrained::ActionSpace;
use super::conversation::{self, Piece, Said, Turn};
use super::ordered::Ordered;
use super::sanitise::{self, fits_strict};
use super::wire::{ChatRequest, StreamOptions};
use crate::catalogue::{Model, ToolCalling};
use crate::prompt::Prompt;
use crate::provider::{Call, Failure, FailureClass};

/// The name that providers want for an output schema.
const SCHEMA_NAME: &str = "answer";

/// In what servers of this format differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// The field that bounds the output.
    pub max_tokens: MaxTokensField,
    /// The role of the agent's instructions.
    pub system_role: SystemRole,
    /// The server knows `stream_options.include_usage`.
    pub stream_usage: bool,
}

/// The field that bounds the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// `max_tokens`: what most servers know.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`: OpenAI's own newer field.
    MaxCompletionTokens,
}

/// The role of the agent's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemRole {
    /// `system`.
    #[default]
    System,
    /// `developer`.
    Developer,
}

/// How the answer is read back.
#[derive(Clone, Debug)]
pub enum Codec {
    /// As it stands.
    Plain,
    /// As a choice between tools and an answer.
    Constrained(ActionSpace),
}

/// A request ready to be sent.
#[derive(Debug)]
pub struct Translated {
    /// JSON.
    pub body: Vec<u8>,
    /// How the answer is read back.
    pub codec: Codec,
    /// What was dropped or changed.
    pub warnings: Vec<String>,
}

/// Translates a call.
///
/// # Errors
/// The model is offered tools and calls none.
pub fn translate(call: &Call, dialect: &Dialect, stream: bool) -> Result<Translated, Failure> {
    let (model, prompt) = (call.model.as_ref(), call.prompt.as_ref());
    let mut warnings = Vec::new();
    let turns = conversation::read(prompt, &mut warnings);
    let plan = Plan::new(model, prompt, &mut warnings)?;
    let mut messages = match &plan.space {
        Some(space) => turns.into_iter().flat_map(|turn| space.messages(turn, prompt, &mut warnings)).collect(),
        None => turns.into_iter().flat_map(native).collect(),
    };
    rename_system(&mut messages, &plan.instructions, dialect.system_role);
    let (max_tokens, max_completion_tokens) = match dialect.max_tokens {
        MaxTokensField::MaxTokens => (Some(call.max_output_tokens), None),
        MaxTokensField::MaxCompletionTokens => (None, Some(call.max_output_tokens)),
    };
    let sampling = &call.sampling;
    let steered = sampling.temperature.is_some() || sampling.top_p.is_some();
    if model.fixed_sampling && steered {
        warnings.push("the model takes no temperature and top_p: they were left out".to_owned());
    }
    let fraction = |text: &Option<String>| match text {
        Some(text) if !model.fixed_sampling => mar_descriptor::decimal::to_f64(text),
        _ => None,
    };
    let body = ChatRequest {
        model: &model.provider_model,
        messages,
        tools: plan.tools,
        response_format: plan.response_format,
        max_tokens,
        max_completion_tokens,
        temperature: fraction(&sampling.temperature),
        top_p: fraction(&sampling.top_p),
        seed: sampling.seed,
        stream,
        stream_options: (stream && dialect.stream_usage).then_some(StreamOptions { include_usage: true }),
    };
    let body = serde_json::to_vec(&body)
        .map_err(|_| Failure::new(FailureClass::Refused, "the request cannot be written as JSON"))?;
    let codec = match plan.space {
        Some(space) if space.has_tools() => Codec::Constrained(space),
        _ => Codec::Plain,
    };
    Ok(Translated { body, codec, warnings })
}

/// What the model is told beyond the conversation, for counting.
pub fn told(model: &Model, prompt: &Prompt) -> Vec<String> {
    if model.tool_calling == ToolCalling::Constrained {
        return vec![
            Plan::new(model, prompt, &mut Vec::new()).map_or_else(|_| String::new(), |plan| plan.instructions),
        ];
    }
    let tools = prompt.tools.iter();
    let tools = tools.map(|tool| format!("{} {} {}", tool.alias, tool.description, tool.input_schema.text));
    tools.chain(prompt.output_schema.iter().map(|schema| schema.text.clone())).collect()
}

/// How tools and schema are told.
struct Plan {
    /// Set when the model's calls are constrained output.
    space: Option<ActionSpace>,
    instructions: String,
    tools: Vec<Value>,
    response_format: Option<Ordered>,
}

impl Plan {
    fn new(model: &Model, prompt: &Prompt, warnings: &mut Vec<String>) -> Result<Self, Failure> {
        match model.tool_calling {
            ToolCalling::Constrained => Ok(Self::constrained(prompt, warnings)),
            ToolCalling::None if !prompt.tools.is_empty() => {
                Err(Failure::new(FailureClass::Refused, "the model calls no tools"))
            }
            ToolCalling::Native | ToolCalling::None => Ok(Self::native(prompt)),
        }
    }

    fn native(prompt: &Prompt) -> Self {
        let tools = prompt.tools.iter().map(|tool| {
            json!({
                "type": "function",
                "function": {
                    "name": tool.alias,
                    "description": tool.description,
                    "parameters": tool.input_schema.value,
                },
            })
        });
        let format = prompt.output_schema.as_ref().map(|schema| {
            let strict = fits_strict(&schema.value);
            response_format(schema.value.clone().into(), strict)
        });
        Self { space: None, instructions: String::new(), tools: tools.collect(), response_format: format }
    }

    fn constrained(prompt: &Prompt, warnings: &mut Vec<String>) -> Self {
        let space = ActionSpace::new(prompt);
        let answer = prompt.output_schema.as_ref();
        let answer = answer.map(|schema| sanitise::schema(&schema.value, "the output schema", warnings));
        let (instructions, format) = if space.has_tools() {
            (space.instructions(prompt), Some(space.schema(prompt, answer, warnings)))
        } else {
            let told = prompt.output_schema.as_ref().map_or_else(String::new, |schema| {
                format!("Answer with one JSON value that fits this JSON Schema, and nothing else: {}", schema.text)
            });
            (told, answer.map(Ordered::from))
        };
        Self {
            space: Some(space),
            instructions,
            tools: Vec::new(),
            // Constrained output is exact, whatever the flag says; OpenAI's own rules for strict schemas do not apply.
            response_format: format.map(|schema| response_format(schema, true)),
        }
    }
}

fn response_format(schema: Ordered, strict: bool) -> Ordered {
    let named = [("name", SCHEMA_NAME.into()), ("strict", strict.into()), ("schema", schema)];
    Ordered::object([("type", "json_schema".into()), ("json_schema", Ordered::object(named))])
}

fn native(turn: Turn) -> Vec<Value> {
    match turn {
        Turn::System(text) => vec![json!({"role": "system", "content": text})],
        Turn::User(said) => vec![user(said)],
        Turn::Assistant { text, calls } => {
            let content = if text.is_empty() { Value::Null } else { text.into() };
            let mut message = json!({"role": "assistant", "content": content});
            if !calls.is_empty() {
                let told = calls.iter().map(|call| {
                    json!({
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.alias, "arguments": call.arguments},
                    })
                });
                message["tool_calls"] = told.collect();
            }
            let results =
                calls.iter().map(|call| json!({"role": "tool", "tool_call_id": call.id, "content": call.result}));
            std::iter::once(message).chain(results).collect()
        }
    }
}

/// A caller's message.
pub fn user(said: Said) -> Value {
    if let Some(text) = said.text() {
        return json!({"role": "user", "content": text});
    }
    let pieces = said.pieces.into_iter().map(|piece| match piece {
        Piece::Text(text) => json!({"type": "text", "text": text}),
        Piece::Media(value) => value,
    });
    json!({"role": "user", "content": pieces.collect::<Vec<_>>()})
}

/// Adds the instructions to the first system message, or as one, and names the role as the server wants it.
fn rename_system(messages: &mut Vec<Value>, instructions: &str, role: SystemRole) {
    let system = |message: &&mut Value| message["role"] == "system";
    if !instructions.is_empty() {
        match messages.iter_mut().find(system) {
            Some(first) => {
                let text = first["content"].as_str().unwrap_or_default();
                first["content"] = format!("{text}\n\n{instructions}").into();
            }
            None => messages.insert(0, json!({"role": "system", "content": instructions})),
        }
    }
    if role == SystemRole::Developer {
        for message in messages.iter_mut().filter(system) {
            message["role"] = "developer".into();
        }
    }
}

#[cfg(test)]
mod tests;
