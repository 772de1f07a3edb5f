//! What the rules and the played agent read from a chat request.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// A tool that the request offers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OfferedTool {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) parameters: Value,
}

/// One message, reduced to what matters here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) role: String,
    pub(super) text: String,
    /// Ids of the tool calls that an assistant message makes.
    pub(super) calls: Vec<String>,
    /// The call that a tool message answers.
    pub(super) answers: Option<String>,
}

/// A valid chat request.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    pub(super) model: String,
    pub(super) messages: Vec<Message>,
    pub(super) tools: Vec<OfferedTool>,
    /// The JSON Schema of `response_format`, `{}` for its type `json_object`.
    pub(super) schema: Option<Value>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) max_tokens: Option<u64>,
    /// A client's own name for the conversation.
    label: Option<String>,
}

/// Why a request is refused, in the words of the API's `invalid_request_error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invalid {
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
}

fn invalid(param: &'static str, message: impl Into<String>) -> Invalid {
    Invalid { message: message.into(), param: Some(param) }
}

impl Conversation {
    pub(super) fn parse(body: &Value) -> Result<Self, Invalid> {
        if !body.is_object() {
            return Err(Invalid { message: "the body is not a JSON object".into(), param: None });
        }
        let model = body["model"].as_str().filter(|name| !name.is_empty());
        let model = model.ok_or_else(|| invalid("model", "`model` must be a non-empty string"))?;
        let messages = body["messages"].as_array().filter(|list| !list.is_empty());
        let messages = messages.ok_or_else(|| invalid("messages", "`messages` must be a non-empty array"))?;
        let messages = messages
            .iter()
            .enumerate()
            .map(|(at, message)| parse_message(at, message))
            .collect::<Result<Vec<_>, _>>()?;
        check_tool_answers(&messages)?;
        let label = ["user", "prompt_cache_key"].iter().find_map(|key| body[*key].as_str());
        Ok(Self {
            model: model.to_owned(),
            messages,
            tools: parse_tools(&body["tools"])?,
            schema: parse_format(&body["response_format"])?,
            stream: body["stream"].as_bool().unwrap_or(false),
            include_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            max_tokens: body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64()),
            label: label.map(str::to_owned),
        })
    }

    /// Assistant messages so far: 0 for the first answer.
    pub(super) fn turn(&self) -> usize {
        self.messages.iter().filter(|message| message.role == "assistant").count()
    }

    pub(super) fn last_role(&self) -> &str {
        self.messages.last().map_or("", |message| &message.role)
    }

    pub(super) fn last_user(&self) -> &str {
        self.last_of("user")
    }

    pub(super) fn last_tool_result(&self) -> &str {
        self.last_of("tool")
    }

    fn last_of(&self, role: &str) -> &str {
        let found = self.messages.iter().rev().find(|message| message.role == role);
        found.map_or("", |message| &message.text)
    }

    /// Tells conversations apart: by the request's `user` or `prompt_cache_key` where given, else by everything up to
    /// the first user message, so two conversations that open with the same words count as one.
    pub(super) fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        if let Some(label) = &self.label {
            label.hash(&mut hasher);
            return hasher.finish();
        }
        for message in &self.messages {
            message.role.hash(&mut hasher);
            message.text.hash(&mut hasher);
            if message.role == "user" {
                break;
            }
        }
        hasher.finish()
    }

    /// Bytes of everything the model reads, for counting input tokens.
    pub(super) fn input_bytes(&self) -> usize {
        let messages: usize = self.messages.iter().map(|message| message.text.len()).sum();
        let tools = self.tools.iter();
        let tools: usize =
            tools.map(|tool| tool.name.len() + tool.description.len() + tool.parameters.to_string().len()).sum();
        messages + tools + self.schema.as_ref().map_or(0, |schema| schema.to_string().len())
    }
}

fn parse_message(at: usize, message: &Value) -> Result<Message, Invalid> {
    let role = message["role"].as_str().unwrap_or("");
    if !["system", "developer", "user", "assistant", "tool"].contains(&role) {
        return Err(invalid("messages", format!("messages[{at}].role is not a known role")));
    }
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => {
            return Err(invalid("messages", format!("messages[{at}].content is neither text nor parts")));
        }
    };
    let mut calls = Vec::new();
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let id = call["id"].as_str();
        let id = id.ok_or_else(|| invalid("messages", format!("messages[{at}] has a tool call without id")))?;
        if call["function"]["arguments"].as_str().is_none() {
            let said = format!("messages[{at}]: the arguments of tool call `{id}` are not a string");
            return Err(invalid("messages", said));
        }
        calls.push(id.to_owned());
    }
    let answers = message["tool_call_id"].as_str().map(str::to_owned);
    Ok(Message { role: role.to_owned(), text, calls, answers })
}

/// The rule that providers enforce: the tool messages after an assistant message answer each of its calls once.
fn check_tool_answers(messages: &[Message]) -> Result<(), Invalid> {
    let mut open: Vec<&str> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        if message.role == "tool" {
            let answered = message.answers.as_deref().unwrap_or("");
            let Some(found) = open.iter().position(|id| *id == answered) else {
                let said = format!("messages[{at}].tool_call_id `{answered}` answers no open tool call");
                return Err(invalid("messages", said));
            };
            open.swap_remove(found);
            continue;
        }
        if let Some(id) = open.first() {
            return Err(invalid("messages", format!("messages[{at}]: tool call `{id}` has no answer before it")));
        }
        open = message.calls.iter().map(String::as_str).collect();
    }
    match open.first() {
        Some(id) => Err(invalid("messages", format!("tool call `{id}` has no answer"))),
        None => Ok(()),
    }
}

fn parse_tools(tools: &Value) -> Result<Vec<OfferedTool>, Invalid> {
    let offered = match tools {
        Value::Null => return Ok(Vec::new()),
        Value::Array(offered) => offered,
        _ => return Err(invalid("tools", "`tools` is not an array")),
    };
    let parse = |(at, tool): (usize, &Value)| {
        let function = &tool["function"];
        let name = function["name"].as_str().filter(|name| is_function_name(name));
        let name = name.ok_or_else(|| {
            invalid("tools", format!("tools[{at}].function.name must be 1 to 64 of a-z, A-Z, 0-9, _ and -"))
        })?;
        Ok(OfferedTool {
            name: name.to_owned(),
            description: function["description"].as_str().unwrap_or("").to_owned(),
            parameters: function["parameters"].clone(),
        })
    };
    offered.iter().enumerate().map(parse).collect()
}

fn is_function_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn parse_format(format: &Value) -> Result<Option<Value>, Invalid> {
    match format["type"].as_str() {
        None if format.is_null() => Ok(None),
        Some("text") => Ok(None),
        Some("json_object") => {
            // llama.cpp also takes a schema here.
            let schema = format.get("schema").cloned();
            Ok(Some(schema.unwrap_or_else(|| Value::Object(serde_json::Map::new()))))
        }
        Some("json_schema") => {
            let schema = &format["json_schema"]["schema"];
            if !schema.is_object() {
                return Err(invalid("response_format", "`response_format.json_schema.schema` is not an object"));
            }
            Ok(Some(schema.clone()))
        }
        _ => Err(invalid("response_format", "`response_format.type` is none of text, json_object, json_schema")),
    }
}
