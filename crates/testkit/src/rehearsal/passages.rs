//! Passages of a search result: `{"id", "title", "text", "score"}` with an id like `doc#3`.

use serde_json::Value;

/// How many starting points for JSON are tried in a text, which bounds the work on a large one.
const ATTEMPTS: usize = 64;
const DEPTH: usize = 8;

/// A passage that a search tool returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Names the passage, as in `guide.md#2`.
    pub id: String,
    /// The document's title, or empty.
    pub title: String,
    /// The passage itself, or empty.
    pub text: String,
}

/// The passages in a tool result, in their order, each id once. Looks through wrapping objects and through JSON inside
/// strings, as MCP results have it.
pub(super) fn find(text: &str) -> Vec<Passage> {
    let mut found = Vec::new();
    collect_from_text(text, &mut found, 0);
    found
}

fn collect_from_text(text: &str, found: &mut Vec<Passage>, depth: usize) {
    let starts = text.char_indices().filter(|(_, c)| matches!(c, '[' | '{')).map(|(at, _)| at);
    for start in starts.take(ATTEMPTS) {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        if let Some(Ok(value)) = values.next() {
            let before = found.len();
            collect(&value, found, depth);
            if found.len() > before {
                return;
            }
        }
    }
}

fn collect(value: &Value, found: &mut Vec<Passage>, depth: usize) {
    if depth > DEPTH {
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found, depth + 1)),
        Value::Object(fields) => {
            let id = fields.get("id").and_then(Value::as_str).filter(|id| is_passage_id(id));
            match id {
                Some(id) if !found.iter().any(|known| known.id == id) => {
                    let text = |key: &str| value[key].as_str().unwrap_or("").to_owned();
                    found.push(Passage { id: id.to_owned(), title: text("title"), text: text("text") });
                }
                Some(_) => {}
                None => fields.values().for_each(|field| collect(field, found, depth + 1)),
            }
        }
        Value::String(text) if text.contains('#') => collect_from_text(text, found, depth + 1),
        _ => {}
    }
}

fn is_passage_id(id: &str) -> bool {
    id.rsplit_once('#').is_some_and(|(document, number)| {
        !document.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        find(text).into_iter().map(|passage| passage.id).collect()
    }

    #[test]
    fn finds_passages_however_they_are_wrapped() {
        assert_eq!(ids(r#"[{"id":"a.md#1","text":"x"},{"id":"b.md#12"},{"id":"a.md#1"}]"#), ["a.md#1", "b.md#12"]);
        assert_eq!(ids(r#"Tool result: {"passages":[{"id":"a#1"}]} end"#), ["a#1"]);
        let inner = r#"[{"id":"a#1"}]"#;
        let wrapped = serde_json::json!({"content": [{"type": "text", "text": inner}]});
        assert_eq!(ids(&wrapped.to_string()), ["a#1"]);
    }

    #[test]
    fn takes_nothing_else_for_a_passage() {
        assert!(ids("[]").is_empty());
        assert!(ids("see issue#4 {broken").is_empty());
        assert!(ids(r##"[{"id":"#1"},{"id":"a#"},{"id":"a#x"}]"##).is_empty());
    }
}
