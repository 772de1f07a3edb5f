//! A conversation in the shape that chat completions have: each call of an assistant's message with its result beside it.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mar_proto::types::{Media, Message, Part, Role, ToolCall, ToolResult, media, part};
use serde_json::{Value, json};

use crate::prompt::Prompt;

/// Longer ids are replaced: OpenAI refuses them.
const MAX_ID: usize = 40;
/// What stands for the result of a call that has none; providers refuse a call without one.
const NO_RESULT: &str = "The call has no result.";

/// One entry of the conversation.
#[derive(Debug)]
pub enum Turn {
    /// The agent's instructions.
    System(String),
    /// What the caller says.
    User(Said),
    /// What the model said.
    Assistant {
        /// Its text.
        text: String,
        /// Its calls.
        calls: Vec<Call>,
    },
}

/// What a caller says.
#[derive(Debug, Default)]
pub struct Said {
    /// Text and media in their order, as content parts.
    pub pieces: Vec<Piece>,
}

/// A piece of what a caller says.
#[derive(Debug)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A content part that is not text.
    Media(Value),
}

/// A call with its result.
#[derive(Debug)]
pub struct Call {
    /// The id that binds both.
    pub id: String,
    /// The name that the provider sees.
    pub alias: String,
    /// The arguments as JSON text.
    pub arguments: String,
    /// The result as the model sees it.
    pub result: String,
}

impl Said {
    /// All of it as text, if there is nothing else in it.
    pub fn text(&self) -> Option<String> {
        let texts: Option<Vec<&str>> = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Media(_) => None,
            })
            .collect();
        texts.map(|texts| texts.join("\n\n"))
    }
}

/// Reads a prompt's messages. What has no place in chat completions is left out and said.
pub fn read(prompt: &Prompt, warnings: &mut Vec<String>) -> Vec<Turn> {
    let mut reader = Reader { prompt, warnings, answered: BTreeSet::new(), ids: BTreeSet::new(), calls: 0 };
    let messages = prompt.messages.iter().enumerate();
    messages.flat_map(|(at, message)| reader.message(at, message)).collect()
}

struct Reader<'a> {
    prompt: &'a Prompt,
    warnings: &'a mut Vec<String>,
    /// Results that stand beside their call already, by message and part.
    answered: BTreeSet<(usize, usize)>,
    ids: BTreeSet<String>,
    calls: usize,
}

impl<'a> Reader<'a> {
    fn warn(&mut self, warning: &str) {
        if !self.warnings.iter().any(|known| known == warning) {
            self.warnings.push(warning.to_owned());
        }
    }

    fn message(&mut self, at: usize, message: &Message) -> Vec<Turn> {
        match message.role() {
            Role::System => vec![Turn::System(self.text(message))],
            Role::Assistant => self.assistant(at, message),
            Role::User | Role::Tool | Role::Unspecified => self.user(at, message),
        }
    }

    fn text(&mut self, message: &Message) -> String {
        let mut texts = Vec::new();
        for part in &message.parts {
            match &part.content {
                Some(part::Content::Text(text) | part::Content::Refusal(text)) => texts.push(text.as_str()),
                other => self.left_out(other.as_ref()),
            }
        }
        texts.join("\n\n")
    }

    fn user(&mut self, at: usize, message: &Message) -> Vec<Turn> {
        let mut said = Said::default();
        for (index, part) in message.parts.iter().enumerate() {
            match &part.content {
                Some(part::Content::Text(text)) => said.pieces.push(Piece::Text(text.clone())),
                Some(part::Content::Media(media)) => match media_part(media) {
                    Some(value) => said.pieces.push(Piece::Media(value)),
                    None => self.warn("media of a kind that chat completions do not take was left out"),
                },
                Some(part::Content::ToolResult(result)) => {
                    if !self.answered.contains(&(at, index)) {
                        self.warn("a tool result without its call was sent as text");
                        let alias = self.prompt.alias_of(&result.tool);
                        let text = self.result_text(result);
                        said.pieces.push(Piece::Text(format!("Result of {alias}:\n{text}")));
                    }
                }
                other => self.left_out(other.as_ref()),
            }
        }
        if said.pieces.is_empty() { Vec::new() } else { vec![Turn::User(said)] }
    }

    fn assistant(&mut self, at: usize, message: &Message) -> Vec<Turn> {
        let mut texts = Vec::new();
        let mut calls = Vec::new();
        for part in &message.parts {
            match &part.content {
                Some(part::Content::Text(text) | part::Content::Refusal(text)) => texts.push(text.as_str()),
                Some(part::Content::ToolCall(call)) => {
                    let call = self.call(at, call);
                    calls.push(call);
                }
                other => self.left_out(other.as_ref()),
            }
        }
        let text = texts.concat();
        if text.is_empty() && calls.is_empty() {
            return Vec::new();
        }
        vec![Turn::Assistant { text, calls }]
    }

    fn call(&mut self, at: usize, call: &ToolCall) -> Call {
        self.calls += 1;
        let own = &call.provider_call_id;
        let usable = !own.is_empty() && own.len() <= MAX_ID && !self.ids.contains(own);
        let id = if usable { own.clone() } else { format!("call_{}", self.calls) };
        self.ids.insert(id.clone());
        let result = match self.find_result(at, call) {
            Some(result) => self.result_text(result),
            None => {
                self.warn("a tool call without a result was given one that says so");
                NO_RESULT.to_owned()
            }
        };
        let arguments = if call.arguments_json.is_empty() { "{}" } else { &call.arguments_json };
        Call { id, alias: self.prompt.alias_of(&call.tool), arguments: arguments.to_owned(), result }
    }

    /// The result of a call in a later message, which is then taken.
    fn find_result(&mut self, at: usize, call: &ToolCall) -> Option<&'a ToolResult> {
        let prompt = self.prompt;
        for (index, message) in prompt.messages.iter().enumerate().skip(at + 1) {
            for (place, part) in message.parts.iter().enumerate() {
                if let Some(part::Content::ToolResult(result)) = &part.content
                    && answers(result, call)
                    && self.answered.insert((index, place))
                {
                    return Some(result);
                }
            }
        }
        None
    }

    fn result_text(&mut self, result: &ToolResult) -> String {
        let mut texts = Vec::new();
        for Part { content, .. } in &result.content {
            match content {
                Some(part::Content::Text(text)) => texts.push(text.as_str()),
                other => self.left_out(other.as_ref()),
            }
        }
        let text = texts.join("\n");
        if result.is_error { format!("Error: {text}") } else { text }
    }

    fn left_out(&mut self, content: Option<&part::Content>) {
        match content {
            Some(part::Content::Media(_)) => self.warn("media where chat completions take none was left out"),
            Some(part::Content::Reasoning(_)) => self.warn("reasoning of earlier turns was left out"),
            Some(part::Content::Citation(_)) => self.warn("citations of earlier turns were left out"),
            Some(part::Content::ProviderOpaque(_)) => self.warn("a part that only its maker can read was left out"),
            Some(part::Content::ToolCall(_)) => self.warn("a tool call outside an assistant's message was left out"),
            Some(part::Content::ToolResult(_)) => self.warn("a tool result in an odd place was left out"),
            Some(part::Content::Text(_) | part::Content::Refusal(_)) => self.warn("text in an odd place was left out"),
            None => {}
        }
    }
}

fn answers(result: &ToolResult, call: &ToolCall) -> bool {
    let same = |a: &str, b: &str| !a.is_empty() && a == b;
    if result.call_id.is_empty() || call.call_id.is_empty() {
        same(&result.provider_call_id, &call.provider_call_id)
    } else {
        result.call_id == call.call_id
    }
}

fn media_part(media: &Media) -> Option<Value> {
    let Some(media::Source::Inline(bytes)) = &media.source else {
        return None;
    };
    let encoded = STANDARD.encode(bytes);
    let url = format!("data:{};base64,{encoded}", media.media_type);
    match media.media_type.as_str() {
        "audio/wav" | "audio/x-wav" => {
            Some(json!({"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}))
        }
        "audio/mpeg" => Some(json!({"type": "input_audio", "input_audio": {"data": encoded, "format": "mp3"}})),
        "application/pdf" => Some(json!({"type": "file", "file": {"filename": "document.pdf", "file_data": url}})),
        kind if kind.starts_with("image/") => Some(json!({"type": "image_url", "image_url": {"url": url}})),
        _ => None,
    }
}
