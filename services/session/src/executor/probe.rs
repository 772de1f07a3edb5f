//! Asking the probe of a call in doubt.

use std::sync::Arc;
use std::time::Duration;

use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::tool::{CallFacts, Dispatch, InvokeToolRequest, InvokeToolResponse, ProbeAnswer};
use mar_proto::types::Probe;
use time::OffsetDateTime;

use super::call::MAX_TIME;
use super::{Executor, Shared};
use crate::clients::{Refusal, RunContext};
use crate::run::{Call, CallState, Input, Probed};

/// How often a probe that cannot be reached is asked.
const ATTEMPTS: u32 = 3;
/// Pause before it is tried again, doubled with each attempt.
const PAUSE: Duration = Duration::from_millis(500);

impl Executor {
    /// Asks whether a call in doubt took effect. That it did not counts only once it can happen no more.
    pub(super) fn probe(&mut self, call_id: &str, attempt: i64) {
        self.context.agent.clone_from(&self.state.agent);
        let call = self.state.calls.iter().find(|call| call.call_id == call_id);
        let Some(call) = call.filter(|call| call.state == CallState::Doubted { attempt }) else { return };
        let inquiry = Inquiry {
            shared: Arc::clone(&self.shared),
            context: self.context.clone(),
            request: self.question(call),
            deadline: self.time_left().min(MAX_TIME),
            settled_at: settled_at(call),
        };
        let id = call.call_id.clone();
        let effect = async move {
            let mut probed = inquiry.ask().await;
            (probed.call_id, probed.attempt) = (id, attempt);
            Input::Probed(Box::new(probed))
        };
        let call_id = call_id.to_owned();
        self.start(effect, move || {
            let probed = Probed { call_id, attempt, ..unknown("CANCELLED") };
            Some(Input::Probed(Box::new(probed)))
        });
    }

    fn question(&self, call: &Call) -> InvokeToolRequest {
        InvokeToolRequest {
            call_id: call.call_id.clone(),
            tool: call.tool.clone(),
            arguments_json: call.arguments_json.clone(),
            idempotency_key: call.idempotency_key(self.state.run),
            facts: Some(CallFacts {
                step: self.state.step,
                tool_calls: self.state.used.tool_calls - 1,
                tainted: self.state.tainted,
            }),
            descriptor: None,
            approval: None,
            definition: None,
            probe: true,
            decide_only: false,
            recorded: None,
        }
    }
}

/// When a call that has not taken effect will not any more.
fn settled_at(call: &Call) -> Option<OffsetDateTime> {
    let settles = time::Duration::milliseconds(call.probe().map_or(0, |probe: &Probe| probe.settles_after_ms));
    call.issued_at?.checked_add(settles)
}

/// A question on its way.
struct Inquiry {
    shared: Arc<Shared>,
    context: RunContext,
    request: InvokeToolRequest,
    deadline: Duration,
    settled_at: Option<OffsetDateTime>,
}

impl Inquiry {
    async fn ask(&self) -> Probed {
        let began = self.shared.clock.monotonic();
        let (mut asked, mut failures) = (0, 0);
        let mut probed = loop {
            // What was asked before it was settled tells nothing of afterwards.
            let now = self.shared.clock.now();
            asked += 1;
            let response = self.shared.peers.invoke_tool(&self.context, self.request.clone(), self.deadline).await;
            let unsettled =
                self.settled_at.and_then(|at| Duration::try_from(at - now).ok()).filter(|left| !left.is_zero());
            match (answered(response), unsettled) {
                (Ok(probed), Some(left)) if probed.answer == ProbeAnswer::DidNotHappen => {
                    self.shared.clock.sleep(left).await;
                }
                (Ok(probed), _) => break probed,
                (Err(reason), _) => {
                    failures += 1;
                    if failures == ATTEMPTS {
                        break unknown(&reason);
                    }
                    self.shared.clock.sleep(PAUSE * 2_u32.pow(failures - 1)).await;
                }
            }
        };
        let took = self.shared.clock.monotonic().saturating_sub(began);
        probed.duration_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        probed.asked = asked;
        probed
    }
}

/// What became of one question: an answer, or why it reached nobody.
fn answered(response: Result<InvokeToolResponse, Refusal>) -> Result<Probed, String> {
    let response = match response {
        Ok(response) => response,
        Err(refusal) if refusal.transient => return Err(refusal.reason),
        Err(refusal) => return Ok(unknown(&refusal.reason)),
    };
    let mut probed = match response.outcome {
        Some(Outcome::Probed(told)) => Probed {
            answer: told.answer(),
            evidence: told.evidence,
            result: told.result.unwrap_or_default(),
            ..unknown("")
        },
        Some(Outcome::Failed(failed)) if failed.dispatch() == Dispatch::NotSent => {
            return Err(failed.reason);
        }
        Some(Outcome::Failed(failed)) => unknown(&failed.reason),
        Some(Outcome::Denied(denied)) => unknown(&denied.reason),
        Some(Outcome::Result(_) | Outcome::ApprovalRequired(_) | Outcome::HandedOver(_)) | None => unknown("INTERNAL"),
    };
    probed.decision_json = response.decision_json;
    probed.policy_hashes = response.policy_hashes;
    Ok(probed)
}

fn unknown(reason: &str) -> Probed {
    Probed {
        call_id: String::new(),
        attempt: 0,
        answer: ProbeAnswer::Unknown,
        reason: reason.to_owned(),
        result: Default::default(),
        evidence: None,
        asked: 1,
        decision_json: String::new(),
        policy_hashes: Vec::new(),
        duration_ms: 0,
    }
}
