//! Calls that were issued and of which nobody knows whether they took effect.
//!
//! In this order, each only where the operator declares it of the tool: repeated under the same key, asked about by a
//! probe, decided on by a human. What is left is told to the model. Until then the outcome is unknown.

use mar_proto::session::{
    ApprovalQuestion, ApprovalRequested, CallDoubted, CallProbed, EventContent, ToolOutcome, event_leaf::Body,
};
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::OnUnknown;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use super::absorb::{Plan, UNKNOWN_TEXT};
use super::event::{Draft, bare, tool_intent, tool_returned, tool_unanswered};
use super::input::{CallReturn, Probed};
use super::state::{Approval, Call, CallState, State};
use super::{Effect, MAX_CALL_ATTEMPTS};
use crate::log::stamp;

/// What a human is asked.
const QUESTION: &str = "the call was issued and nobody knows whether it took effect; approving issues it again with the \
                        same key, denying tells the model that its outcome is unknown";

impl Plan {
    /// A call was issued and nobody knows what it did. One that the gateway only decides on has done nothing before it is
    /// handed over, or whose result is recorded.
    pub(super) fn doubt(&mut self, call: &Call, attempt: i64, back: Option<&CallReturn>, at: OffsetDateTime) {
        let decided_only = call.is_made_elsewhere() || call.recorded.is_some();
        let stopped = self.state.stop.is_some();
        let repeatable = decided_only || call.definition.as_ref().is_some_and(|tool| tool.idempotent);
        if repeatable && attempt < MAX_CALL_ATTEMPTS && !stopped {
            return self.issue(call, attempt + 1, at);
        }
        if decided_only {
            let text = "UPSTREAM_UNAVAILABLE: nobody could decide on this call; it was not made";
            let draft = tool_unanswered(call, ToolOutcome::NotSent, "UPSTREAM_UNAVAILABLE", text);
            return self.emit(at, about(draft, back));
        }
        let doubted = matches!(call.state, CallState::Doubted { .. });
        if doubted || stopped || (call.probe().is_none() && !asks_human(call)) {
            return self.emit(at, about(unknown(call), back));
        }
        let probe = call.probe().map(|probe| probe.tool.clone()).unwrap_or_default();
        let body = CallDoubted { call_id: call.call_id.clone(), attempt, probe: probe.clone() };
        self.emit(at, bare(Body::CallDoubted(body)));
        if probe.is_empty() {
            self.ask_human(call, attempt, at);
        } else {
            self.effects.push(Effect::Probe { call_id: call.call_id.clone(), attempt });
        }
    }

    /// Another owner found the call in doubt: whom its predecessor asked is not heard any more.
    pub(super) fn ask_again(&mut self, call_id: String, attempt: i64) {
        if self.state.stop.is_none() {
            self.effects.push(Effect::Probe { call_id, attempt });
        }
    }

    /// Calls whose probe is being asked, with the attempt in doubt.
    pub(super) fn doubted_calls(&self) -> Vec<(Call, i64)> {
        let doubted = self.state.calls.iter().filter_map(|call| match call.state {
            CallState::Doubted { attempt } => Some((call.clone(), attempt)),
            _ => None,
        });
        doubted.collect()
    }

    /// What the probe of a call says.
    pub(super) fn probed(&mut self, probed: &Probed, at: OffsetDateTime) {
        let fits = |call: &&Call| {
            call.call_id == probed.call_id && call.state == CallState::Doubted { attempt: probed.attempt }
        };
        let Some(call) = self.state.calls.iter().find(fits).cloned() else { return };
        if self.draining && probed.answer != ProbeAnswer::Happened {
            // Nothing may begin; the next owner finds it in doubt and asks again.
            return;
        }
        self.emit(at, evidence(probed));
        let stopped = self.state.stop.is_some();
        match probed.answer {
            ProbeAnswer::Happened => self.emit(at, tool_returned(&call, &happened(probed))),
            ProbeAnswer::DidNotHappen if stopped => {
                let text = "the run was stopped; the call did not take effect";
                self.emit(at, tool_unanswered(&call, ToolOutcome::NotSent, "CANCELLED", text));
            }
            ProbeAnswer::DidNotHappen if probed.attempt < MAX_CALL_ATTEMPTS => {
                self.issue(&call, probed.attempt + 1, at);
            }
            ProbeAnswer::DidNotHappen => {
                let text = "UPSTREAM_UNAVAILABLE: the call was tried again and again and did not take effect";
                self.emit(at, tool_unanswered(&call, ToolOutcome::Error, "UPSTREAM_UNAVAILABLE", text));
            }
            ProbeAnswer::Unknown | ProbeAnswer::Unspecified if asks_human(&call) && !stopped => {
                self.ask_human(&call, probed.attempt, at);
            }
            ProbeAnswer::Unknown | ProbeAnswer::Unspecified => self.emit(at, unknown(&call)),
        }
    }

    fn issue(&mut self, call: &Call, attempt: i64, at: OffsetDateTime) {
        let intent = tool_intent(&self.state, call, attempt);
        self.emit(at, intent);
        self.effects.push(Effect::Invoke { call_id: call.call_id.clone(), attempt });
    }

    fn ask_human(&mut self, call: &Call, attempt: i64, at: OffsetDateTime) {
        let Some(doubt) = call.doubt() else { return };
        let lapses = at.checked_add(Duration::milliseconds(doubt.expires_after_ms)).unwrap_or(self.state.expires_at);
        let place = call.call_id.split_once('/').map_or(&*call.call_id, |(_, place)| place).replace('/', "-");
        let body = ApprovalRequested {
            approval: format!("{place}-{attempt}"),
            call_id: call.call_id.clone(),
            group: doubt.group.clone(),
            needed: 1,
            expire_time: Some(stamp(lapses.min(self.state.expires_at))),
            policy_hashes: Vec::new(),
        };
        let question =
            ApprovalQuestion { call_digest: digest(&self.state, call, attempt), message: QUESTION.to_owned() };
        let content = EventContent { approval: Some(question), ..EventContent::default() };
        self.emit(at, (Body::ApprovalRequested(body), content));
    }
}

/// What becomes of a call that a human does not want, or nobody decided on in time: its outcome stays what it was.
pub(super) fn refused(call: &Call, approval: &Approval, said: &str) -> Draft {
    let (outcome, reason) = if approval.in_doubt {
        (ToolOutcome::Unknown, "OUTCOME_UNKNOWN")
    } else {
        (ToolOutcome::Denied, said.split_once(':').map_or(said, |(reason, _)| reason))
    };
    let text =
        if approval.in_doubt { format!("{UNKNOWN_TEXT} It is not issued again. {said}") } else { said.to_owned() };
    tool_unanswered(call, outcome, reason, &text)
}

/// The outcome is unknown, and stays so.
pub(super) fn unknown(call: &Call) -> Draft {
    tool_unanswered(call, ToolOutcome::Unknown, "OUTCOME_UNKNOWN", UNKNOWN_TEXT)
}

fn asks_human(call: &Call) -> bool {
    call.doubt().is_some_and(|doubt| doubt.on_unknown() == OnUnknown::AskHuman)
}

/// What a decision on a doubt is bound to: this attempt of this call, with its tool, definition, arguments and key.
fn digest(state: &State, call: &Call, attempt: i64) -> String {
    let definition = call.definition.as_ref().map(|tool| tool.definition_hash.as_str()).unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(b"mcp-agent-runtime/tool-call-doubt/v1\n");
    let key = call.idempotency_key(state.run);
    for part in [&*call.call_id, &*call.tool, definition, &*call.arguments_json, &*key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(attempt.to_be_bytes());
    format!("sha256:{}", hex::encode(hash.finalize()))
}

/// What the answer that brought the doubt tells besides.
fn about(mut draft: Draft, back: Option<&CallReturn>) -> Draft {
    if let (Some(back), Body::ToolReturned(returned)) = (back, &mut draft.0) {
        returned.duration_ms = back.duration_ms;
        returned.policy_hashes.clone_from(&back.policy_hashes);
        draft.1.decision_json.clone_from(&back.decision_json);
    }
    draft
}

fn evidence(probed: &Probed) -> Draft {
    let body = CallProbed {
        call_id: probed.call_id.clone(),
        attempt: probed.attempt,
        answer: probed.answer.into(),
        reason: probed.reason.clone(),
        asked: probed.asked,
        duration_ms: probed.duration_ms,
        policy_hashes: probed.policy_hashes.clone(),
    };
    let content = EventContent {
        tool_result: probed.evidence.clone(),
        decision_json: probed.decision_json.clone(),
        ..EventContent::default()
    };
    (Body::CallProbed(body), content)
}

/// The call as it took effect, by what the probe says.
fn happened(probed: &Probed) -> CallReturn {
    let size = probed.result.content.iter().map(prost::Message::encoded_len).sum::<usize>();
    // A policy may have withheld what the probe says that the call had answered.
    let (outcome, reason) =
        if probed.result.is_error { (ToolOutcome::Error, "TOOL_ERROR") } else { (ToolOutcome::Ok, "") };
    CallReturn {
        call_id: probed.call_id.clone(),
        attempt: probed.attempt,
        outcome,
        reason: reason.to_owned(),
        result: probed.result.clone(),
        decision_json: probed.decision_json.clone(),
        policy_hashes: probed.policy_hashes.clone(),
        recorded: false,
        size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
        duration_ms: probed.duration_ms,
    }
}
