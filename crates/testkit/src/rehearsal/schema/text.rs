//! Strings of an instance: from the hints by the property's name, within length, pattern and format.

use serde_json::Value;

use super::super::passages::Passage;
use super::{Hints, Place, pattern};

/// Strings are padded to at most this many characters.
const LONGEST: usize = 1 << 20;
/// Quotes are short, as a model's are, and stay within its output limit.
const LONGEST_QUOTE: usize = 120;

const ANSWERS: [&str; 9] =
    ["answer", "final_answer", "text", "content", "summary", "message", "response", "reply", "result"];
const QUERIES: [&str; 7] = ["query", "q", "search", "search_query", "question", "keywords", "input"];
const CITATIONS: [&str; 9] =
    ["citations", "citation", "sources", "references", "passages", "passage_ids", "citation_ids", "cited", "evidence"];
const IDS: [&str; 8] = ["id", "passage", "passage_id", "source", "source_id", "citation", "reference", "document"];
const QUOTES: [&str; 4] = ["quote", "text", "excerpt", "snippet"];

/// An array of this name holds citations.
pub(super) fn cites(name: &str) -> bool {
    CITATIONS.contains(&name.to_lowercase().as_str())
}

/// Whether a hint has something for an optional property of this name.
pub(super) fn knows(name: &str, place: Place<'_>, hints: &Hints) -> bool {
    hinted(Place { name, ..place }, hints).is_some() || cites(name) && !hints.passages.is_empty()
}

pub(super) fn string(schema: &Value, place: Place<'_>, hints: &Hints) -> String {
    let hinted = hinted(place, hints).unwrap_or_default();
    if let Some(expression) = schema["pattern"].as_str() {
        let fits = |text: &str| regex::Regex::new(expression).is_ok_and(|regex| regex.is_match(text));
        let fitted = fit(schema, hinted);
        if fits(&fitted) {
            return fitted;
        }
        return pattern::shortest(expression).unwrap_or(fitted);
    }
    match schema["format"].as_str() {
        Some("date-time") => "2026-01-01T00:00:00Z".into(),
        Some("date") => "2026-01-01".into(),
        Some("time") => "00:00:00Z".into(),
        Some("duration") => "PT1S".into(),
        Some("email") => "someone@example.com".into(),
        Some("uri" | "url" | "iri" | "uri-reference") => "https://example.com/".into(),
        Some("uuid") => "00000000-0000-4000-8000-000000000000".into(),
        Some("ipv4") => "192.0.2.1".into(),
        Some("ipv6") => "2001:db8::1".into(),
        Some("hostname") => "example.com".into(),
        _ => fit(schema, hinted),
    }
}

/// Cuts and pads to the schema's lengths, which count characters.
fn fit(schema: &Value, text: String) -> String {
    let length = |key: &str| schema[key].as_u64().and_then(|length| usize::try_from(length).ok());
    let mut text = match length("maxLength") {
        Some(most) if text.chars().count() > most => text.chars().take(most).collect(),
        _ => text,
    };
    let fewest = length("minLength").unwrap_or(0).min(LONGEST);
    let missing = fewest.saturating_sub(text.chars().count());
    text.extend(std::iter::repeat_n('x', missing));
    text
}

fn hinted(place: Place<'_>, hints: &Hints) -> Option<String> {
    let name = place.name.to_lowercase();
    let name = name.as_str();
    if let Some(passage) = place.cited {
        return cited(name, passage).filter(|text| !text.is_empty());
    }
    let text = match name {
        _ if ANSWERS.contains(&name) => &hints.answer,
        _ if QUERIES.contains(&name) => &hints.query,
        _ => return None,
    };
    (!text.is_empty()).then(|| text.clone())
}

fn cited(name: &str, passage: &Passage) -> Option<String> {
    match name {
        _ if IDS.contains(&name) => Some(passage.id.clone()),
        _ if QUOTES.contains(&name) => Some(passage.text.trim().chars().take(LONGEST_QUOTE).collect()),
        "title" => Some(passage.title.clone()),
        _ => None,
    }
}
