//! From a rule's reply to the turn that the model would have made.

use serde_json::Value;

use super::agent;
use super::conversation::Conversation;
use super::schema::{Hints, instance};
use super::script::{Reply, ScriptedCall};
use super::template::{render, render_json};

/// A finished turn, before it takes the shape of a body or a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) content: Option<String>,
    pub(super) tool_calls: Vec<ToolCall>,
    pub(super) finish_reason: String,
    pub(super) usage: Option<Usage>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ToolCall {
    pub(super) id: String,
    pub(super) name: String,
    /// JSON text, or whatever a script wants in its place.
    pub(super) arguments: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) input: u64,
    pub(super) output: u64,
}

/// Four bytes make a token, the last one may be short.
pub(super) fn tokens(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX)
}

impl Answer {
    pub(super) fn compose(reply: &Reply, conversation: &Conversation) -> Self {
        let (content, tool_calls) = said(reply, conversation);
        let mut answer = Self { content, tool_calls, finish_reason: String::new(), usage: None };
        let whole = answer.shorten(conversation.max_tokens);
        answer.finish_reason = match &reply.finish_reason {
            Some(scripted) => scripted.clone(),
            None if !whole => "length".into(),
            None if !answer.tool_calls.is_empty() => "tool_calls".into(),
            None => "stop".into(),
        };
        answer.usage = (!reply.no_usage).then(|| answer.count(reply, conversation));
        answer
    }

    /// Keeps the text within the tokens that the client allows; false when something was left out.
    fn shorten(&mut self, max_tokens: Option<u64>) -> bool {
        let limit = max_tokens.and_then(|tokens| usize::try_from(tokens.saturating_mul(4)).ok());
        let (Some(limit), Some(content)) = (limit, self.content.as_mut()) else {
            return true;
        };
        if content.len() <= limit {
            return true;
        }
        content.truncate(content.floor_char_boundary(limit));
        self.tool_calls.clear();
        false
    }

    fn count(&self, reply: &Reply, conversation: &Conversation) -> Usage {
        let calls = self.tool_calls.iter().map(|call| call.name.len() + call.arguments.len());
        let written = self.content.as_ref().map_or(0, String::len) + calls.sum::<usize>();
        let scripted = reply.usage.as_ref();
        Usage {
            input: scripted.and_then(|usage| usage.input).unwrap_or_else(|| tokens(conversation.input_bytes())),
            output: scripted.and_then(|usage| usage.output).unwrap_or_else(|| tokens(written)),
        }
    }
}

fn said(reply: &Reply, conversation: &Conversation) -> (Option<String>, Vec<ToolCall>) {
    if reply.agent {
        return agent::play(conversation);
    }
    let content = if let Some(json) = &reply.json {
        Some(render_json(json, conversation).to_string())
    } else if let Some(template) = &reply.from_tool_result {
        Some(render(template, conversation))
    } else if reply.echo {
        Some(conversation.last_user().to_owned())
    } else if reply.from_schema {
        let schema = conversation.schema.clone().unwrap_or(Value::Bool(true));
        Some(instance(&schema, &Hints::default()).to_string())
    } else {
        reply.text.clone()
    };
    let calls = reply.tool_calls.iter().enumerate();
    (content, calls.map(|(at, call)| scripted_call(call, at, conversation)).collect())
}

fn scripted_call(call: &ScriptedCall, at: usize, conversation: &Conversation) -> ToolCall {
    let arguments = match &call.arguments {
        Value::Null => "{}".to_owned(),
        Value::String(raw) => render(raw, conversation),
        table => render_json(table, conversation).to_string(),
    };
    let id = call.id.clone().unwrap_or_else(|| call_id(conversation, at));
    ToolCall { id, name: call.name.clone(), arguments }
}

/// Unique within the conversation, and the same each time.
pub(super) fn call_id(conversation: &Conversation, at: usize) -> String {
    format!("call_{}_{at}", conversation.turn())
}
