//! `{{placeholder}}` replacement in scripted texts.

use serde_json::Value;

use super::conversation::Conversation;

const NAMES: [&str; 4] = ["last_user", "last_tool_result", "model", "turn"];

/// The first placeholder that does not exist, if any.
pub(super) fn unknown_placeholder(template: &str) -> Option<&str> {
    pieces(template).find_map(|piece| match piece {
        Piece::Placeholder(name) if !NAMES.contains(&name) => Some(name),
        _ => None,
    })
}

/// Replaces every placeholder in one pass: what is inserted is not looked at again.
pub(super) fn render(template: &str, conversation: &Conversation) -> String {
    let mut out = String::with_capacity(template.len());
    for piece in pieces(template) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Placeholder("last_user") => out.push_str(conversation.last_user()),
            Piece::Placeholder("last_tool_result") => out.push_str(conversation.last_tool_result()),
            Piece::Placeholder("model") => out.push_str(&conversation.model),
            Piece::Placeholder("turn") => out.push_str(&conversation.turn().to_string()),
            Piece::Placeholder(_) => {}
        }
    }
    out
}

/// Renders every string inside `value`; keys stay as they are.
pub(super) fn render_json(value: &Value, conversation: &Conversation) -> Value {
    match value {
        Value::String(text) => Value::String(render(text, conversation)),
        Value::Array(items) => items.iter().map(|item| render_json(item, conversation)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, field)| (key.clone(), render_json(field, conversation))).collect()
        }
        other => other.clone(),
    }
}

enum Piece<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

fn pieces(template: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(start) = rest.find("{{") else {
            return Some(Piece::Text(std::mem::take(&mut rest)));
        };
        if start > 0 {
            let (text, tail) = rest.split_at(start);
            rest = tail;
            return Some(Piece::Text(text));
        }
        let Some(end) = rest.find("}}") else {
            return Some(Piece::Text(std::mem::take(&mut rest)));
        };
        let name = rest[2..end].trim();
        rest = &rest[end + 2..];
        Some(Piece::Placeholder(name))
    })
}
