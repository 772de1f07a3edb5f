//! Judging a final answer: against its schema, and its citations against what the run received.

use std::collections::BTreeMap;

use mar_descriptor::Descriptor;
use mar_proto::session::Answer;
use mar_proto::types::{Citation, Message, Part, Passage, part::Content};
use serde_json::Value;

use super::cut::Cut;
use super::state::State;
use super::summary::SUMMARISE;

/// At most so many problems are told to the model.
const MAX_PROBLEMS: usize = 8;

/// What the loop reads of a sealed descriptor.
pub(super) struct Sealed {
    /// Output tokens of one generation.
    pub max_output_tokens: i64,
    /// JSON Schema that the answer has to fit, as JSON text; empty for free text.
    pub output_schema: String,
    /// Who summarises; `None` where nobody is sealed to.
    pub summariser: Option<Summariser>,
}

/// The role that earlier steps are summarised in, as it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summariser {
    /// What the model is told.
    pub prompt: String,
    /// Output tokens of one summary.
    pub max_output_tokens: i64,
}

/// Reads a sealed descriptor; `None` for bytes that are none, which the generator's signature rules out.
pub(super) fn sealed(canonical: &[u8]) -> Option<Sealed> {
    let descriptor = Descriptor::parse(canonical).ok()?;
    let role = descriptor.model.roles.get("reason").or_else(|| descriptor.model.roles.values().next())?;
    let summarising = descriptor.model.roles.get(SUMMARISE).zip(descriptor.prompt.roles.get(SUMMARISE));
    Some(Sealed {
        summariser: summarising.map(|(role, prompt)| Summariser {
            prompt: prompt.text.clone(),
            max_output_tokens: role.sampling.max_output_tokens,
        }),
        max_output_tokens: role.sampling.max_output_tokens,
        output_schema: descriptor.prompt.output_schema.unwrap_or_default(),
    })
}

/// The hash of each section of a sealed descriptor.
pub(super) fn section_hashes(canonical: &[u8]) -> BTreeMap<String, String> {
    let hashes = Descriptor::parse(canonical).and_then(|descriptor| descriptor.section_hashes());
    hashes
        .map(|hashes| hashes.into_iter().map(|(name, hash)| (name.to_owned(), hash.to_string())).collect())
        .unwrap_or_default()
}

/// The answer, or everything that is wrong with it, as the model is told.
pub(super) fn judge(state: &State, turn: &Message) -> Result<Answer, Vec<String>> {
    let texts = turn.parts.iter().filter_map(|part| match &part.content {
        Some(Content::Text(text) | Content::Refusal(text)) => Some(text.as_str()),
        _ => None,
    });
    let text = texts.collect::<Vec<_>>().join("");
    let empty = text.trim().is_empty();
    match state.cut {
        // A filter may leave nothing.
        Some(cut) if !empty || cut == Cut::Filter => return Err(vec![cut.problem(state.max_output_tokens)]),
        _ if empty => return Err(vec!["it is empty".to_owned()]),
        _ => {}
    }
    match serde_json::from_str(&state.output_schema) {
        Ok(schema) => judge_json(state, &schema, text.trim()),
        // Synthesis refuses a schema that is not JSON, so this one is empty.
        Err(_) => Ok(Answer { parts: visible(turn), json: String::new(), citations: Vec::new() }),
    }
}

/// What people see of a turn.
fn visible(turn: &Message) -> Vec<Part> {
    let shown = |part: &&Part| !matches!(part.content, Some(Content::Reasoning(_) | Content::ProviderOpaque(_)) | None);
    turn.parts.iter().filter(shown).cloned().collect()
}

fn judge_json(state: &State, schema: &Value, text: &str) -> Result<Answer, Vec<String>> {
    let value: Value = serde_json::from_str(text).map_err(|error| vec![format!("it is not JSON: {error}")])?;
    mar_task::schema::keys_are_distinct(text).map_err(|problem| vec![format!("it {problem}")])?;
    let validator = jsonschema::validator_for(schema).map_err(|_| vec!["its schema does not compile".to_owned()])?;
    let mut problems: Vec<String> = validator
        .iter_errors(&value)
        .take(MAX_PROBLEMS)
        .map(|error| format!("at {:?}: {error}", error.instance_path().as_str()))
        .collect();
    let mut citations = citations(&value);
    for Citation { passage, quote, quote_found } in &mut citations {
        let Some(passage) = passage else { continue };
        passage.title = state.passages.get(&passage.passage_id).cloned().unwrap_or_default();
        *quote_found = state.stands(quote, &passage.passage_id);
    }
    problems.extend(strangers(state, &citations));
    if !problems.is_empty() {
        problems.truncate(MAX_PROBLEMS);
        return Err(problems);
    }
    let shown = value.get("answer").and_then(Value::as_str).unwrap_or(text);
    let part = Part {
        content: Some(Content::Text(shown.to_owned())),
        origin: mar_proto::types::Origin::Model.into(),
        tainted: state.tainted,
    };
    Ok(Answer { parts: vec![part], json: text.to_owned(), citations })
}

/// The entries of a `citations` array whose entries have a `passage_id`, wherever the recipe's answer form is used.
fn citations(value: &Value) -> Vec<Citation> {
    let entries = value.get("citations").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    entries
        .iter()
        .filter_map(|entry| {
            let passage_id = text(entry, "passage_id")?;
            let document = passage_id.rsplit_once('#').map_or(passage_id.clone(), |(document, _)| document.to_owned());
            let passage = Passage { passage_id, document, title: String::new() };
            let quote = text(entry, "quote").unwrap_or_default();
            Some(Citation { passage: Some(passage), quote, quote_found: false })
        })
        .collect()
}

/// Cited passages that the run never received.
fn strangers(state: &State, citations: &[Citation]) -> Vec<String> {
    let cited = citations.iter().filter_map(|citation| citation.passage.as_ref());
    cited
        .filter(|passage| !state.passages.contains_key(&passage.passage_id))
        .map(|passage| {
            format!(
                "it cites {:?}, which no tool result contains; cite only passages that you received",
                passage.passage_id
            )
        })
        .collect()
}
