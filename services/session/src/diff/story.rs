//! What a run consists of.

use std::collections::BTreeMap;

use mar_proto::session::{
    Agent, EventContent, RunAdmitted, RunAspect, RunEnded, SummaryCommitted, Task, ToolReturned, TurnCommitted,
    event_leaf::Body, event_shared,
};
use mar_proto::types::{HaltingPolicy, Message, Part, part::Content};
use prost::Message as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::call::CallStory;
use crate::run::{Event, call_digest};

/// Something that a run has in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// SHA-256 of all of it.
    pub bits: [u8; 32],
    /// As people read it.
    pub text: String,
}

impl Thing {
    pub fn of(bytes: &[u8], text: impl Into<String>) -> Self {
        Self { bits: Sha256::digest(bytes).into(), text: text.into() }
    }

    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { bits: Sha256::digest(text.as_bytes()).into(), text }
    }
}

/// What a run consists of.
#[derive(Debug, Default)]
pub struct Story {
    /// By the number of the aspect, then by place.
    pub things: BTreeMap<i32, BTreeMap<String, Thing>>,
    /// Every call, in order.
    pub calls: Vec<CallStory>,
    /// Messages of earlier runs that prompts do without.
    left_out: i64,
}

impl Story {
    /// Takes the next event in.
    pub fn take(&mut self, event: &Event) {
        let content = &event.content;
        match &event.body {
            Body::RunAdmitted(admitted) => self.admitted(admitted, content),
            Body::AgentSealed(_) => self.agent(content.agent.as_ref()),
            Body::GenerationStarted(started) => self.shortens(&started.elided, started.history_left_out),
            Body::TurnCommitted(turn) => self.turn(turn, content.turn.as_ref()),
            Body::SummaryCommitted(summary) => self.summary(summary, content.summary.as_ref()),
            Body::EventShared(shared) => {
                self.shortens(&shared.elided, shared.history_left_out);
                match &shared.body {
                    Some(event_shared::Body::Turn(turn)) => self.turn(turn, content.turn.as_ref()),
                    Some(event_shared::Body::Summary(summary)) => self.summary(summary, content.summary.as_ref()),
                    Some(event_shared::Body::Result(back)) => self.result(back, content),
                    _ => {}
                }
            }
            Body::ToolReturned(back) => {
                self.decided(&back.call_id, content);
                self.result(back, content);
            }
            Body::ApprovalRequested(asked) => self.decided(&asked.call_id, content),
            Body::CallHandedOver(handed) => self.decided(&handed.call_id, content),
            Body::RunEnded(ended) => self.end(ended, content),
            _ => {}
        }
    }

    fn put(&mut self, aspect: RunAspect, place: impl Into<String>, thing: Thing) {
        self.things.entry(aspect.into()).or_default().insert(place.into(), thing);
    }

    fn admitted(&mut self, admitted: &RunAdmitted, content: &EventContent) {
        let task = content.task.clone().unwrap_or_default();
        self.put(RunAspect::Task, "type", Thing::text(&task.r#type));
        for (index, part) in task.input.iter().enumerate() {
            self.put(RunAspect::Task, format!("input {index}"), part_thing(part));
        }
        let rest = Task { r#type: String::new(), input: Vec::new(), ..task };
        self.put(
            RunAspect::Task,
            "everything else",
            Thing::of(&rest.encode_to_vec(), "parameters, tools, constraints"),
        );
        let history = content.history.clone().unwrap_or_default();
        for (index, message) in history.messages.iter().enumerate() {
            self.put(RunAspect::Task, format!("history {index}"), message_thing(message));
        }
        for (index, message) in history.older.iter().enumerate() {
            self.put(RunAspect::Task, format!("older history {index}"), message_thing(message));
        }
        if let Some(summary) = &history.summary {
            self.put(RunAspect::Task, "history summary", message_thing(summary));
        }
        for (field, value) in limits(&admitted.limits.unwrap_or_default()) {
            self.put(RunAspect::Limits, field, Thing::text(value));
        }
    }

    fn agent(&mut self, agent: Option<&Agent>) {
        let Some(agent) = agent else { return };
        for (index, message) in agent.prompt.iter().enumerate() {
            let role = message.role().as_str_name().trim_start_matches("ROLE_").to_lowercase();
            self.put(RunAspect::Prompt, format!("message {index} ({role})"), message_thing(message));
        }
        let canonical = agent.descriptor.as_ref().map(|sealed| sealed.canonical.clone()).unwrap_or_default();
        let Ok(Value::Object(sections)) = serde_json::from_slice::<Value>(&canonical) else { return };
        let aspects = [
            ("prompt", RunAspect::Prompt),
            ("model", RunAspect::Models),
            ("agent", RunAspect::Tools),
            ("policy", RunAspect::Policy),
            ("halting", RunAspect::Limits),
        ];
        for (name, aspect) in aspects {
            if let Some(section) = sections.get(name) {
                self.flatten(aspect, name, section);
            }
        }
    }

    /// Every leaf of a section in a place of its own; what has a name stands under it, wherever it is in its list.
    fn flatten(&mut self, aspect: RunAspect, place: &str, value: &Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, field) in fields {
                    self.flatten(aspect, &format!("{place}.{name}"), field);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    let name = ["name", "model"].iter().find_map(|key| item.get(key)?.as_str());
                    let key = name.map_or_else(|| index.to_string(), str::to_owned);
                    self.flatten(aspect, &format!("{place}.{key}"), item);
                }
            }
            Value::String(text) => self.put(aspect, place, Thing::text(text)),
            other => self.put(aspect, place, Thing::text(other.to_string())),
        }
    }

    fn turn(&mut self, turn: &TurnCommitted, message: Option<&Message>) {
        let step = turn.step.to_string();
        self.put(RunAspect::Selection, &step, Thing::text(&turn.model));
        let Some(message) = message else { return };
        let mut said = message.clone();
        said.parts.retain(|part| !matches!(part.content, Some(Content::ToolCall(_))));
        self.put(RunAspect::Turns, &step, message_thing(&said));
        let calls = message.parts.iter().filter_map(|part| match &part.content {
            Some(Content::ToolCall(call)) => Some(call),
            _ => None,
        });
        for (index, call) in calls.enumerate() {
            let place = format!("{step}/{index}");
            let text = format!("{} {}", call.tool, call.arguments_json);
            let digest = call_digest(&call.tool, &call.arguments_json);
            self.put(RunAspect::Calls, &place, Thing::of(&digest, text));
            self.calls.push(CallStory { place, digest, verdict: None, result: None });
        }
    }

    /// Results that a reference stands for from now on, and messages of earlier runs that are left out.
    fn shortens(&mut self, elided: &[String], left_out: i64) {
        for call_id in elided {
            let place = format!("result {}", call_id.split_once('/').map_or(call_id.as_str(), |(_, place)| place));
            self.put(RunAspect::Shortened, place, Thing::text("a reference stands in its place"));
        }
        self.left_out += left_out;
        if left_out > 0 {
            let text = format!("{} messages are left out", self.left_out);
            self.put(RunAspect::Shortened, "earlier runs", Thing::text(text));
        }
    }

    /// A summary, by the step that it is.
    fn summary(&mut self, summary: &SummaryCommitted, message: Option<&Message>) {
        let step = summary.step.to_string();
        self.put(RunAspect::Selection, &step, Thing::text(&summary.model));
        let (what, count) = (if summary.history { "of earlier runs" } else { "of steps" }, summary.replaces);
        let said = message.map(|message| words(&message.parts)).unwrap_or_default();
        let text = format!("in the place of {count} messages: {said}");
        let mut bytes = message.map(prost::Message::encode_to_vec).unwrap_or_default();
        bytes.extend_from_slice(&count.to_be_bytes());
        self.put(RunAspect::Shortened, format!("summary {what} {step}"), Thing::of(&bytes, text));
    }

    fn call(&mut self, call_id: &str) -> Option<&mut CallStory> {
        let place = call_id.split_once('/').map_or(call_id, |(_, place)| place);
        self.calls.iter_mut().rev().find(|call| call.place == place)
    }

    fn decided(&mut self, call_id: &str, content: &EventContent) {
        let verdict = super::call::verdict(&content.decision_json);
        if let (Some(call), Some(verdict)) = (self.call(call_id), verdict) {
            call.verdict.get_or_insert(verdict);
        }
    }

    fn result(&mut self, back: &ToolReturned, content: &EventContent) {
        let mut result = content.tool_result.clone().unwrap_or_default();
        // Names of the run's and the provider's own.
        result.call_id.clear();
        result.provider_call_id.clear();
        let outcome = back.outcome().as_str_name().trim_start_matches("TOOL_OUTCOME_");
        let text = format!("{outcome} {}{}", back.reason, words(&result.content));
        let mut bytes = result.encode_to_vec();
        bytes.extend_from_slice(outcome.as_bytes());
        if let Some(call) = self.call(&back.call_id) {
            call.result = Some(Thing::of(&bytes, text));
        }
    }

    fn end(&mut self, ended: &RunEnded, content: &EventContent) {
        let state = ended.state().as_str_name().trim_start_matches("RUN_STATE_");
        self.put(RunAspect::Outcome, "state", Thing::text(state));
        if ended.halt_reason != 0 {
            let reason = ended.halt_reason().as_str_name().trim_start_matches("HALT_REASON_");
            self.put(RunAspect::Outcome, "halt reason", Thing::text(reason));
        }
        if let Some(failure) = &ended.failure {
            self.put(RunAspect::Outcome, "failure", Thing::text(format!("{}: {}", failure.reason, failure.message)));
        }
        if let Some(answer) = &content.answer {
            self.put(RunAspect::Answer, "answer", Thing::of(&answer.encode_to_vec(), words(&answer.parts)));
        }
    }
}

fn message_thing(message: &Message) -> Thing {
    Thing::of(&message.encode_to_vec(), words(&message.parts))
}

fn part_thing(part: &Part) -> Thing {
    Thing::of(&part.encode_to_vec(), words(std::slice::from_ref(part)))
}

fn words(parts: &[Part]) -> String {
    let word = |part: &Part| match &part.content {
        Some(Content::Text(text) | Content::Refusal(text)) => text.clone(),
        _ => "[a part that is no text]".to_owned(),
    };
    parts.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn limits(policy: &HaltingPolicy) -> Vec<(&'static str, String)> {
    let count = |value: Option<i64>| value.map(|value| value.to_string()).unwrap_or_default();
    let span = |value: Option<prost_types::Duration>| {
        value.map(|span| format!("{}.{:09} s", span.seconds, span.nanos)).unwrap_or_default()
    };
    vec![
        ("max_steps", count(policy.max_steps)),
        ("max_tool_calls", count(policy.max_tool_calls)),
        ("max_depth", count(policy.max_depth)),
        ("max_input_tokens", count(policy.max_input_tokens)),
        ("max_output_tokens", count(policy.max_output_tokens)),
        ("max_cost_nano_usd", count(policy.max_cost_nano_usd)),
        ("max_active_time", span(policy.max_active_time)),
        ("expire_after", span(policy.expire_after)),
        ("on_budget", policy.on_budget().as_str_name().trim_start_matches("ON_BUDGET_").to_owned()),
    ]
}
