//! From state to state by events about tool calls.

use std::sync::Arc;

use mar_proto::session::ToolIntent;
use mar_proto::types::{Message, Origin, Part, Role, ToolResult, part::Content};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::run::loop_detector::Observed;
use crate::run::state::{CallState, State};

impl State {
    pub(super) fn issue(&mut self, intent: &ToolIntent, at: OffsetDateTime) {
        let first = intent.attempt == 1;
        self.used.tool_calls += i64::from(first);
        if let Some(call) = self.calls.iter_mut().find(|call| call.call_id == intent.call_id) {
            call.state = CallState::Open { attempt: intent.attempt };
            call.issued_at = Some(at);
            call.question = None;
            call.recorded = intent.recorded_seq;
        }
        if first && intent.recorded_seq.is_some() {
            self.take_recorded(&intent.call_id);
        }
    }

    pub(super) fn set_call(&mut self, call_id: &str, state: CallState) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.call_id == call_id) {
            call.state = state;
        }
    }

    pub(super) fn return_call(&mut self, call_id: &str, result: ToolResult) {
        self.abandon_children(call_id);
        let received = result.passages.iter().map(|passage| (passage.passage_id.clone(), passage.title.clone()));
        self.passages.extend(received);
        self.receive(&result);
        self.tainted |= result.content.iter().any(|part| part.tainted);
        self.close_question(call_id);
        self.set_call(call_id, CallState::Returned(Box::new(result)));
        let results: Vec<Part> = self
            .calls
            .iter()
            .filter_map(|call| match &call.state {
                CallState::Returned(result) => {
                    let tainted = result.content.iter().any(|part| part.tainted);
                    let content = Some(Content::ToolResult((**result).clone()));
                    Some(Part { content, origin: Origin::Tool.into(), tainted })
                }
                _ => None,
            })
            .collect();
        if results.len() == self.calls.len() {
            self.observe();
            self.transcript.push(Arc::new(Message { role: Role::Tool.into(), parts: results }));
        }
    }

    /// Shows a turn's calls to the loop detector. What one turn asks for twice it cannot have learnt from, so it counts once.
    fn observe(&mut self) {
        let mut seen: Vec<Observed> = Vec::new();
        for call in &self.calls {
            let CallState::Returned(result) = &call.state else { continue };
            let observed = Observed {
                tool: call.tool.clone(),
                arguments: Sha256::digest(call.arguments_json.as_bytes()).into(),
                result: digest(result),
            };
            if !seen.contains(&observed) {
                seen.push(observed);
            }
        }
        let repeated = seen.into_iter().filter_map(|call| self.loops.observe(call)).count();
        self.looping |= repeated > 0;
    }
}

/// What the model saw of a result.
fn digest(result: &ToolResult) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([u8::from(result.is_error)]);
    for part in &result.content {
        hash.update(part.encode_length_delimited_to_vec());
    }
    hash.finalize().into()
}
