//! Whether the words that an answer quotes stand in what the run received.
//!
//! A quote is looked for in the text of the results that carry its passage, and passages that came in one result are not told
//! apart. Both sides are made plain first: white space is one space, typographic quotation marks and apostrophes are straight
//! ones, an ellipsis is three dots. Nothing else is made equal: letters count as they are.

use std::sync::Arc;

use mar_proto::types::{ToolResult, part::Content};
use serde_json::Value;

use super::state::State;

/// What a result brought: its passages, and its words, made plain. It outlives the result's place in the conversation, so
/// that elided and summarised results can be quoted like any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    passages: Vec<String>,
    text: String,
}

impl Source {
    /// `None` for a result without passages, of which nobody can quote.
    pub(super) fn of(result: &ToolResult) -> Option<Self> {
        if result.passages.is_empty() {
            return None;
        }
        let mut text = String::new();
        for part in &result.content {
            if let Some(Content::Text(words)) = &part.content {
                match serde_json::from_str::<Value>(words) {
                    // Nothing that is quoted is looked for in what escapes make of it.
                    Ok(value) if value.is_object() || value.is_array() => add_strings(&value, &mut text),
                    _ => add(words, &mut text),
                }
            }
        }
        Some(Self { passages: result.passages.iter().map(|passage| passage.passage_id.clone()).collect(), text })
    }
}

impl State {
    /// Takes in what a result can be quoted for.
    pub(super) fn receive(&mut self, result: &ToolResult) {
        self.sources.extend(Source::of(result).map(Arc::new));
    }

    /// Whether these words stand in what the run received of a passage. No words stand nowhere.
    pub(super) fn stands(&self, quote: &str, passage_id: &str) -> bool {
        let quote = plain(quote);
        let carries = |source: &&Arc<Source>| source.passages.iter().any(|id| id == passage_id);
        !quote.is_empty() && self.sources.iter().filter(carries).any(|source| source.text.contains(&quote))
    }
}

/// The strings of a JSON text, each behind a line that no quote has.
fn add_strings(value: &Value, text: &mut String) {
    match value {
        Value::String(words) => add(words, text),
        Value::Array(entries) => entries.iter().for_each(|entry| add_strings(entry, text)),
        Value::Object(entries) => entries.values().for_each(|entry| add_strings(entry, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn add(words: &str, text: &mut String) {
    text.push_str(&plain(words));
    text.push('\n');
}

fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !plain.is_empty() {
            plain.push(' ');
        }
        for letter in word.chars() {
            match letter {
                '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' => plain.push('\''),
                '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' | '\u{ab}' | '\u{bb}' => plain.push('"'),
                '\u{2026}' => plain.push_str("..."),
                letter => plain.push(letter),
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use mar_proto::types::{Part, Passage};

    use super::*;

    fn result(texts: &[&str], passages: &[&str]) -> ToolResult {
        let part = |text: &&str| Part { content: Some(Content::Text((*text).to_owned())), ..Part::default() };
        let passage = |id: &&str| Passage { passage_id: (*id).to_owned(), ..Passage::default() };
        ToolResult {
            content: texts.iter().map(part).collect(),
            passages: passages.iter().map(passage).collect(),
            ..ToolResult::default()
        }
    }

    #[test]
    fn white_space_and_typography_are_made_equal_and_nothing_else() {
        let source =
            Source::of(&result(&["The  \u{201c}light\u{201d}\nisn\u{2019}t lit \u{2026} today"], &["a#1"])).unwrap();
        let stands = |quote: &str| source.text.contains(&plain(quote));
        assert!(stands("The \"light\" isn't\t lit ... today") && stands("  isn\u{2019}t lit\u{a0}\u{2026}"));
        assert!(!stands("the light") && !stands("The light") && !stands("lit today"));
    }

    #[test]
    fn json_is_quoted_as_it_reads_and_no_quote_spans_two_of_its_strings() {
        let found = r#"[{"id":"a#1","text":"It says \"now\".\nThen it stops."},{"id":"a#2","text":"More."}]"#;
        let source = Source::of(&result(&[found], &["a#1", "a#2"])).unwrap();
        let stands = |quote: &str| source.text.contains(&plain(quote));
        assert!(stands("It says \"now\". Then it stops.") && stands("More."));
        assert!(!stands("stops. More.") && !stands("\"text\""));
    }

    #[test]
    fn results_without_passages_are_not_kept() {
        assert_eq!(Source::of(&result(&["words"], &[])), None);
    }
}
