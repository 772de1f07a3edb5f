//! Calls of which nobody knows whether they took effect, for people and for scripts.

use mar_proto::session::{CallDoubted, CallProbed, EventContent, event_leaf::Body};
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::part;
use serde_json::{Map, Value, json};

use crate::out::{Ink, one_line};
use crate::progress::describe::tool_name;
use crate::table::span;

/// Characters of the evidence on one line.
const SHOWN: usize = 120;

/// That a call is in doubt.
pub fn doubted(doubted: &CallDoubted, ink: Ink) -> String {
    let asked = match doubted.probe.as_str() {
        "" => "a human is asked".to_owned(),
        probe => format!("asks {}", ink.name(&tool_name(probe))),
    };
    format!("  doubted  {} {asked}", ink.warn("outcome unknown"))
}

/// What a probe said.
pub fn probed(probed: &CallProbed, content: &EventContent, ink: Ink) -> String {
    let answer = match probed.answer() {
        ProbeAnswer::Happened => ink.good("it took effect"),
        ProbeAnswer::DidNotHappen => ink.warn("it did not take effect"),
        ProbeAnswer::Unknown | ProbeAnswer::Unspecified => ink.bad("nobody knows"),
    };
    let took = span(std::time::Duration::from_millis(probed.duration_ms.try_into().unwrap_or_default()));
    let mut text = format!("  probed   {answer} {}", one_line(&probed.reason, SHOWN));
    let evidence = evidence(content);
    if !evidence.is_empty() {
        text.push_str(&one_line(&evidence, SHOWN));
    }
    format!("{}  {}", text.trim_end(), ink.dim(&took))
}

fn evidence(content: &EventContent) -> String {
    let parts = content.tool_result.iter().flat_map(|result| &result.content);
    let texts = parts.filter_map(|part| match &part.content {
        Some(part::Content::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join(" ")
}

/// What the events of doubt have beside those of all events; nothing for others.
pub fn event_fields(body: &Body, content: &EventContent) -> Map<String, Value> {
    let fields = match body {
        Body::CallDoubted(doubted) => json!({
            "call_id": doubted.call_id,
            "attempt": doubted.attempt,
            "probe": Some(&doubted.probe).filter(|name| !name.is_empty()),
        }),
        Body::CallProbed(probed) => json!({
            "call_id": probed.call_id,
            "attempt": probed.attempt,
            "answer": probed.answer().as_str_name().trim_start_matches("PROBE_ANSWER_"),
            "reason": Some(&probed.reason).filter(|reason| !reason.is_empty()),
            "evidence": evidence(content),
            "asked": probed.asked,
            "duration_ms": probed.duration_ms,
        }),
        _ => return Map::new(),
    };
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
