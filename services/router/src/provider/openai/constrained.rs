//! Tool calling for models without it: each turn is one JSON object whose `action` names a tool or the answer.
//!
//! The schema offers one branch per tool and one for the answer, with `action` first, so that the model picks before it
//! fills in. Earlier turns are told in the same form, results as text.

use serde_json::{Map, Value, json};

use super::conversation::Turn;
use super::ordered::Ordered;
use super::{request, sanitise};
use crate::prompt::{Prompt, Tool};

/// The key that names the choice.
pub const ACTION: &str = "action";
/// The key under which arguments go when they cannot stand beside `action`.
const ARGUMENTS: &str = "arguments";

/// The actions of one turn.
#[derive(Clone, Debug)]
pub struct ActionSpace {
    /// The action that ends the run, and the key of its answer.
    answer: String,
    tools: Vec<Action>,
    structured: bool,
}

#[derive(Clone, Debug)]
struct Action {
    alias: String,
    shape: Shape,
}

/// Where a tool's arguments stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Beside `action`.
    Flat,
    /// Under `arguments`, because the schema is no plain list of properties or has one named `action`.
    Nested,
}

/// What a constrained turn says.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// The answer, as text: JSON text when it has a schema.
    Answer(String),
    /// A call of the tool of this alias.
    Call {
        /// As the model wrote it.
        alias: String,
        /// JSON text.
        arguments: String,
    },
}

impl ActionSpace {
    /// The actions for a prompt.
    pub fn new(prompt: &Prompt) -> Self {
        let mut answer = "answer".to_owned();
        while prompt.tools.iter().any(|tool| tool.alias == answer) {
            answer.insert_str(0, "final_");
        }
        let tools = prompt
            .tools
            .iter()
            .map(|tool| Action { alias: tool.alias.clone(), shape: Shape::of(&tool.input_schema.value) });
        Self { answer, tools: tools.collect(), structured: prompt.output_schema.is_some() }
    }

    /// Whether there is anything to choose.
    pub fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    /// The action that ends the run, and the key of its answer.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// Whether the answer has a schema.
    pub fn structured(&self) -> bool {
        self.structured
    }

    /// The schema of a turn. `answer` is the schema of the answer, if it has one.
    pub fn schema(&self, prompt: &Prompt, answer: Option<Value>, warnings: &mut Vec<String>) -> Ordered {
        let tools = prompt.tools.iter().zip(&self.tools).map(|(tool, action)| action.branch(tool, warnings));
        let mut branches: Vec<_> = tools.collect();
        let answer = answer.unwrap_or_else(|| json!({"type": "string"}));
        branches.push(branch(&self.answer, vec![(self.answer.clone(), answer, true)]));
        Ordered::object([("oneOf", Ordered::List(branches))])
    }

    /// What the model is told about it.
    pub fn instructions(&self, prompt: &Prompt) -> String {
        let mut text = format!("Reply with one JSON object and nothing else. Its \"{ACTION}\" says what to do next:\n");
        for (tool, action) in prompt.tools.iter().zip(&self.tools) {
            text.push_str(&action.told(tool));
        }
        let answer = &self.answer;
        match &prompt.output_schema {
            Some(schema) => text.push_str(&format!(
                "{{\"{ACTION}\":\"{answer}\",\"{answer}\":...}} gives the final answer; it fits this JSON Schema: {}\n",
                schema.text
            )),
            None => {
                text.push_str(&format!("{{\"{ACTION}\":\"{answer}\",\"{answer}\":\"...\"}} gives the final answer.\n"))
            }
        }
        text.push_str("Each tool's result comes as the next message. ");
        text.push_str("Use a tool when you need what it gives, and answer when you have it.");
        text
    }

    /// An entry of the conversation as the model would have written it.
    pub fn messages(&self, turn: Turn, prompt: &Prompt, warnings: &mut Vec<String>) -> Vec<Value> {
        match turn {
            Turn::System(text) => vec![json!({"role": "system", "content": text})],
            Turn::User(said) => vec![request::user(said)],
            Turn::Assistant { text, calls } if calls.is_empty() => {
                let content = if self.has_tools() { self.answer_text(&text) } else { text };
                vec![json!({"role": "assistant", "content": content})]
            }
            Turn::Assistant { text, calls } => {
                if !text.is_empty() {
                    warnings.push("text beside tool calls was left out".to_owned());
                }
                let told = calls.into_iter().flat_map(|call| {
                    let made = self.call_text(prompt, &call.alias, &call.arguments);
                    let result = format!("Result of {}:\n{}", call.alias, call.result);
                    [json!({"role": "assistant", "content": made}), json!({"role": "user", "content": result})]
                });
                told.collect()
            }
        }
    }

    /// Reads a turn back; none when it is no such object.
    pub fn decode(&self, text: &str) -> Option<Choice> {
        let Ok(Value::Object(mut turn)) = serde_json::from_str(text) else {
            return None;
        };
        let action = turn.remove(ACTION)?.as_str()?.to_owned();
        if action == self.answer {
            let answer = turn.remove(&self.answer)?;
            return Some(Choice::Answer(match answer {
                Value::String(text) if !self.structured => text,
                value => value.to_string(),
            }));
        }
        let nested = self.tools.iter().any(|tool| tool.alias == action && tool.shape == Shape::Nested);
        let arguments = if nested { turn.remove(ARGUMENTS)? } else { Value::Object(turn) };
        Some(Choice::Call { alias: action, arguments: arguments.to_string() })
    }

    fn answer_text(&self, text: &str) -> String {
        let answer = match serde_json::from_str::<Value>(text) {
            Ok(value) if self.structured => value,
            _ => Value::String(text.to_owned()),
        };
        object_text(&[(ACTION, &json!(self.answer)), (&self.answer, &answer)])
    }

    fn call_text(&self, prompt: &Prompt, alias: &str, arguments: &str) -> String {
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| Value::String(arguments.to_owned()));
        let shape = match prompt.tool_by_alias(alias) {
            Some(tool) => Shape::of(&tool.input_schema.value),
            None => Shape::Flat,
        };
        let action = json!(alias);
        match (&arguments, shape) {
            (Value::Object(fields), Shape::Flat) if !fields.contains_key(ACTION) => {
                let first = [(ACTION, &action)].into_iter();
                let fields: Vec<_> = first.chain(fields.iter().map(|(key, value)| (key.as_str(), value))).collect();
                object_text(&fields)
            }
            _ => object_text(&[(ACTION, &action), (ARGUMENTS, &arguments)]),
        }
    }
}

impl Shape {
    fn of(schema: &Value) -> Self {
        let no_fields = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&no_fields);
        let combined = ["oneOf", "anyOf", "allOf", "$ref", "not", "if", "patternProperties"];
        let open =
            properties.is_empty() && schema.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false));
        let plain = schema.is_object()
            && schema.get("type").is_none_or(|kind| kind == "object")
            && !combined.iter().any(|key| schema.get(*key).is_some());
        if plain && !open && !properties.contains_key(ACTION) { Self::Flat } else { Self::Nested }
    }
}

impl Action {
    fn branch(&self, tool: &Tool, warnings: &mut Vec<String>) -> Ordered {
        let schema = sanitise::schema(&tool.input_schema.value, &format!("tool {}", tool.alias), warnings);
        if self.shape == Shape::Nested {
            return branch(&self.alias, vec![(ARGUMENTS.to_owned(), schema, true)]);
        }
        let required = names(schema.get("required"));
        let properties = schema.get("properties").and_then(Value::as_object);
        let fields = properties
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.clone(), schema.clone(), required.contains(&name.as_str())));
        branch(&self.alias, fields.collect())
    }

    /// A line such as `{"action":"search","query":string,"limit"?:integer} Finds passages.`
    fn told(&self, tool: &Tool) -> String {
        let alias = &self.alias;
        let mut text = format!("{{\"{ACTION}\":\"{alias}\"");
        let mut notes = String::new();
        if self.shape == Shape::Nested {
            text.push_str(&format!(",\"{ARGUMENTS}\":{}", tool.input_schema.text));
        } else {
            let schema = &tool.input_schema.value;
            let required = names(schema.get("required"));
            let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
            let (first, then): (Vec<_>, Vec<_>) = properties.partition(|(name, _)| required.contains(&name.as_str()));
            let (first, then) =
                (first.into_iter().map(|field| (field, "")), then.into_iter().map(|field| (field, "?")));
            for ((name, schema), mark) in first.chain(then) {
                text.push_str(&format!(",\"{name}\"{mark}:{}", kind(schema)));
                if let Some(description) = schema.get("description").and_then(Value::as_str) {
                    notes.push_str(&format!(" {name}: {description}"));
                }
            }
        }
        format!("{text}}} {}{notes}\n", tool.description.trim())
    }
}

/// An object that is closed and begins with `action`; required fields come before the others.
fn branch(action: &str, fields: Vec<(String, Value, bool)>) -> Ordered {
    let (required, optional): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(_, _, required)| *required);
    let names = std::iter::once(ACTION.to_owned()).chain(required.iter().map(|(name, _, _)| name.clone()));
    let names = Ordered::List(names.map(Ordered::from).collect());
    let constant = (ACTION.to_owned(), Ordered::from(json!({"const": action})));
    let fields = required.into_iter().chain(optional).map(|(name, schema, _)| (name, Ordered::from(schema)));
    let properties = std::iter::once(constant).chain(fields).collect();
    Ordered::object([
        ("type", "object".into()),
        ("properties", Ordered::Object(properties)),
        ("required", names),
        ("additionalProperties", false.into()),
    ])
}

fn names(required: Option<&Value>) -> Vec<&str> {
    let names = required.and_then(Value::as_array).into_iter().flatten();
    names.filter_map(Value::as_str).collect()
}

/// A property's kind in a word, or its schema where a word does not do.
fn kind(schema: &Value) -> String {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let values: Vec<_> = values.iter().map(Value::to_string).collect();
        return values.join("|");
    }
    match schema.get("type").and_then(Value::as_str) {
        Some(kind @ ("string" | "integer" | "number" | "boolean" | "null")) => kind.to_owned(),
        _ => schema.to_string(),
    }
}

/// JSON text with the fields in this order.
fn object_text(fields: &[(&str, &Value)]) -> String {
    let fields = fields.iter().map(|(key, value)| format!("{}:{value}", Value::from(*key)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests;
