//! The plain agent of the default script: searches once with the user's words, then answers from what it found.

use serde_json::Value;

use super::answer::{ToolCall, call_id};
use super::conversation::{Conversation, Message, OfferedTool};
use super::passages::{self, Passage};
use super::schema::{Choice, Hints, Wish, choice, instance};

/// The longest query made from a user's message, in characters.
const QUERY_LIMIT: usize = 200;
/// How much of a passage is quoted in an answer, in characters.
const QUOTE_LIMIT: usize = 240;
const CITED: usize = 3;

/// The agent's next turn: text, or tool calls.
pub(super) fn play(conversation: &Conversation) -> (Option<String>, Vec<ToolCall>) {
    let received = received_result(conversation);
    if received.is_none()
        && let Some(tool) = search_tool(&conversation.tools)
    {
        let hints = Hints { query: query(conversation), ..Hints::default() };
        let arguments = instance(&tool.parameters, &hints);
        let arguments = if arguments.is_object() { arguments } else { serde_json::json!({ "query": hints.query }) };
        let id = call_id(conversation, 0);
        return (None, vec![ToolCall { id, name: tool.name.clone(), arguments: arguments.to_string() }]);
    }
    let hints = answer_hints(conversation, received);
    let content = match &conversation.schema {
        None => cited_text(&hints),
        Some(schema) => fill(schema, hints, received.is_none()).to_string(),
    };
    (Some(content), Vec::new())
}

fn fill(schema: &Value, mut hints: Hints, nothing_received: bool) -> Value {
    hints.wish = match choice(schema) {
        Choice::None => None,
        Choice::Of { search: true, .. } if nothing_received => Some(Wish::Search),
        Choice::Of { .. } => Some(Wish::Answer),
    };
    instance(schema, &hints)
}

/// The result that the agent has just received: tool messages, or, where tool choice is expressed as constrained JSON,
/// whatever follows the assistant's own search. Of several, the one with passages.
fn received_result(conversation: &Conversation) -> Option<&str> {
    let messages = &conversation.messages;
    let asked = messages.iter().rposition(|message| message.role == "assistant")?;
    let (last, _) = messages[asked + 1..].split_last()?;
    if last.role != "tool" && !chose_search(&messages[asked]) {
        return None;
    }
    let mut texts = messages[asked + 1..].iter().map(|message| message.text.as_str());
    texts.find(|text| !passages::find(text).is_empty()).or(Some(&last.text))
}

fn chose_search(message: &Message) -> bool {
    let turn: Option<Value> = serde_json::from_str(&message.text).ok();
    let fields = turn.as_ref().and_then(Value::as_object);
    let mut names = fields.into_iter().flat_map(|fields| fields.values()).filter_map(Value::as_str);
    names.next().is_some_and(is_search) || names.any(is_search)
}

/// A name or id, not a sentence that happens to talk of searching.
fn is_search(name: &str) -> bool {
    name.to_lowercase().contains("search") && !name.contains(char::is_whitespace)
}

fn search_tool(tools: &[OfferedTool]) -> Option<&OfferedTool> {
    let named = tools.iter().find(|tool| tool.name.to_lowercase().contains("search"));
    named.or_else(|| tools.iter().find(|tool| tool.description.to_lowercase().contains("search")))
}

fn query(conversation: &Conversation) -> String {
    conversation.last_user().trim().chars().take(QUERY_LIMIT).collect()
}

fn answer_hints(conversation: &Conversation, received: Option<&str>) -> Hints {
    let mut found = received.map(passages::find).unwrap_or_default();
    found.truncate(CITED);
    let answer = match (found.first(), received) {
        (Some(first), _) => quote(first),
        (None, Some(_)) => "No source was found for this question.".to_owned(),
        (None, None) => format!("This is a rehearsed answer to: {}", query(conversation)),
    };
    Hints { wish: None, answer, query: query(conversation), passages: found }
}

fn quote(passage: &Passage) -> String {
    let text = if passage.text.trim().is_empty() { &passage.title } else { &passage.text };
    text.trim().chars().take(QUOTE_LIMIT).collect()
}

fn cited_text(hints: &Hints) -> String {
    let cited: String = hints.passages.iter().map(|passage| format!(" [{}]", passage.id)).collect();
    format!("{}{cited}", hints.answer)
}
