//! The bodies of the chat completions API.

use serde_json::{Value, json};

use super::answer::{Answer, Usage};

/// Answers carry no clock: the start of 2026 in Unix seconds.
const CREATED: u64 = 1_767_225_600;
/// Characters per streamed piece when a script does not say.
const CHUNK_SIZE: usize = 24;

/// What identifies one completion in each of its bodies.
#[derive(Debug, Clone)]
pub(super) struct Heading {
    pub(super) number: u64,
    pub(super) model: String,
}

impl Heading {
    fn body(&self, object: &str, choices: Value) -> Value {
        let id = format!("chatcmpl-rehearsal-{}", self.number);
        json!({ "id": id, "object": object, "created": CREATED, "model": self.model, "choices": choices })
    }
}

/// A whole answer.
pub(super) fn completion(heading: &Heading, answer: &Answer) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.content, "refusal": null });
    if !answer.tool_calls.is_empty() {
        let calls = answer.tool_calls.iter();
        message["tool_calls"] = calls
            .map(|call| json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } }))
            .collect();
    }
    let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": answer.finish_reason });
    let mut body = heading.body("chat.completion", json!([choice]));
    if let Some(usage) = answer.usage {
        body["usage"] = usage_body(usage);
    }
    body
}

/// The data of each server-sent event of a streamed answer, `[DONE]` left out.
pub(super) fn chunks(heading: &Heading, answer: &Answer, size: Option<usize>, include_usage: bool) -> Vec<Value> {
    let size = size.unwrap_or(CHUNK_SIZE);
    let mut deltas =
        vec![json!({ "role": "assistant", "content": if answer.content.is_some() { json!("") } else { Value::Null } })];
    for piece in pieces(answer.content.as_deref().unwrap_or(""), size) {
        deltas.push(json!({ "content": piece }));
    }
    for (index, call) in answer.tool_calls.iter().enumerate() {
        let opening = json!({ "name": call.name, "arguments": "" });
        deltas.push(
            json!({ "tool_calls": [{ "index": index, "id": call.id, "type": "function", "function": opening }] }),
        );
        for piece in pieces(&call.arguments, size) {
            deltas.push(json!({ "tool_calls": [{ "index": index, "function": { "arguments": piece } }] }));
        }
    }
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish });
        let mut body = heading.body("chat.completion.chunk", json!([choice]));
        if include_usage && answer.usage.is_some() {
            body["usage"] = Value::Null;
        }
        body
    };
    let mut made: Vec<Value> = deltas.into_iter().map(|delta| chunk(delta, Value::Null)).collect();
    made.push(chunk(json!({}), json!(answer.finish_reason)));
    if let Some(usage) = answer.usage.filter(|_| include_usage) {
        let mut last = heading.body("chat.completion.chunk", json!([]));
        last["usage"] = usage_body(usage);
        made.push(last);
    }
    made
}

/// The API's error envelope.
pub(super) fn error(kind: &str, code: &str, message: &str, param: Option<&str>) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
}

/// The list of models.
pub(super) fn models(names: &[String]) -> Value {
    let model = |name: &String| json!({ "id": name, "object": "model", "created": CREATED, "owned_by": "rehearsal" });
    json!({ "object": "list", "data": names.iter().map(model).collect::<Vec<_>>() })
}

fn usage_body(usage: Usage) -> Value {
    let total = usage.input.saturating_add(usage.output);
    json!({ "prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": total })
}

/// Splits after every `size` characters.
fn pieces(text: &str, size: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(size).map_or(rest.len(), |(at, _)| at);
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}
