//! Issuing a tool call.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use mar_proto::session::{ApprovalState, ToolOutcome, WaitReason};
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::tool::{ApprovalGiven, ApprovalRequired, CallFacts, Dispatch, InvokeToolRequest, InvokeToolResponse};
use mar_proto::types::{self, ToolResult};

use super::recall::{Recording, Replay};
use super::{Executor, Shared};
use crate::clients::{Refusal, RunContext};
use crate::crash::Point;
use crate::run::{ApprovalWanted, Call, CallReturn, CallState, Input, error_result};

/// The tool with which an agent asks its caller: what it waits for is input, not a result.
const ASK: &str = "tools/caller.ask";
/// The longest that one call may take; upstreams have their own, shorter limits.
pub(super) const MAX_TIME: Duration = Duration::from_secs(600);
/// Pause before an idempotent call is repeated, doubled with each attempt.
const REPEAT_PAUSE: Duration = Duration::from_millis(200);

impl Executor {
    /// What people have said to a call.
    fn approval_given(&self, call: &Call) -> Option<ApprovalGiven> {
        let asked = self
            .state
            .approvals
            .get(call.approval.as_deref()?)
            .filter(|asked| asked.state == ApprovalState::Approved)?;
        let approved = asked.decisions.iter().filter(|one| one.approved);
        let approvers = approved.map(|one| one.principal.clone()).collect();
        Some(ApprovalGiven { call_digest: asked.digest.clone(), approvers })
    }

    /// Issues an open call.
    pub(super) fn invoke(&mut self, call_id: &str, attempt: i64) {
        self.context.agent.clone_from(&self.state.agent);
        let call = self.state.calls.iter().find(|call| call.call_id == call_id);
        let Some(call) = call.filter(|call| call.state == CallState::Open { attempt }) else { return };
        let (approval, recording) = (self.approval_given(call), self.recording(call));
        // What was only asked about has not been tried.
        let repeated = attempt > 1 && approval.is_none();
        let doubled = 2_u32.pow(u32::try_from(attempt.clamp(1, 8) - 1).unwrap_or(0));
        let invocation = Invocation {
            call_id: call.call_id.clone(),
            attempt,
            asks: call.tool == ASK,
            request: self.request(call, approval, recording.is_some()),
            pause: repeated.then(|| REPEAT_PAUSE * doubled / 2),
            deadline: self.time_left().min(MAX_TIME),
            recording,
            shared: Arc::clone(&self.shared),
            context: self.context.clone(),
        };
        let (call_id, stopped) = (call_id.to_owned(), "the run was stopped while the call was in flight");
        self.start(invocation.perform(), move || {
            let mut back = returned(ToolOutcome::Unknown, "OUTCOME_UNKNOWN", error_result(stopped));
            back.call_id = call_id;
            back.attempt = attempt;
            Some(Input::Returned(Box::new(back)))
        });
    }

    fn request(&self, call: &Call, approval: Option<ApprovalGiven>, recorded: bool) -> InvokeToolRequest {
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
            approval,
            definition: call.definition.clone().filter(|_| call.is_made_elsewhere() || recorded),
            probe: false,
            decide_only: recorded,
            recorded: None,
        }
    }
}

/// A call on its way to the gateway, and what it needs of its run.
struct Invocation {
    call_id: String,
    attempt: i64,
    /// Whether it asks the run's caller.
    asks: bool,
    request: InvokeToolRequest,
    /// Before a call that was tried already.
    pause: Option<Duration>,
    deadline: Duration,
    /// The result that its fork's origin has of it.
    recording: Option<Recording>,
    shared: Arc<Shared>,
    context: RunContext,
}

impl Invocation {
    async fn perform(mut self) -> Input {
        let (shared, run) = (Arc::clone(&self.shared), self.context.run);
        if let Some(pause) = self.pause {
            shared.clock.sleep(pause).await;
        }
        let began = shared.clock.monotonic();
        let replay = match self.recording.take() {
            Some(recording) => Some(recording.taken().await),
            None => None,
        };
        let recorded = replay.as_ref().and_then(Replay::brought);
        let request = InvokeToolRequest { recorded, ..mem::take(&mut self.request) };
        shared.crash.pass_in(Point::CallSent, run).await;
        let response = shared.peers.invoke_tool(&self.context, request, self.deadline).await;
        shared.crash.pass_in(Point::ResultInHand, run).await;
        let took = shared.clock.monotonic().saturating_sub(began);
        let replayed = match (&response, replay) {
            (Ok(response), Some(replay)) => replay.let_through(response),
            _ => None,
        };
        match replayed {
            Some(back) => self.returned(back, took),
            None => self.answered(response, took),
        }
    }

    /// What the gateway's answer is to the run.
    fn answered(self, response: Result<InvokeToolResponse, Refusal>, took: Duration) -> Input {
        match response {
            Ok(InvokeToolResponse {
                outcome: Some(Outcome::ApprovalRequired(wanted)),
                decision_json,
                policy_hashes,
                ..
            }) => approval_wanted(self.call_id, self.attempt, wanted, decision_json, policy_hashes),
            Ok(InvokeToolResponse { outcome: Some(Outcome::HandedOver(to)), decision_json, policy_hashes, .. })
                if to.executor() != types::Executor::Unspecified =>
            {
                let reason = match to.executor() {
                    types::Executor::Runtime => WaitReason::ChildRun,
                    _ if self.asks => WaitReason::Input,
                    _ => WaitReason::ToolResult,
                };
                let Self { call_id, attempt, .. } = self;
                Input::HandedOver { call_id, attempt, reason, decision_json, policy_hashes }
            }
            Ok(response) => self.returned(answered(response), took),
            Err(refusal) => {
                let (run, call) = (self.context.run, &self.call_id);
                tracing::warn!(run.id = %run, call.id = %call, error = %refusal, "tool call got no answer");
                self.returned(unanswered(&refusal), took)
            }
        }
    }

    fn returned(self, back: CallReturn, took: Duration) -> Input {
        let duration_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        let Self { call_id, attempt, .. } = self;
        Input::Returned(Box::new(CallReturn { call_id, attempt, duration_ms, ..back }))
    }
}

/// What a policy wants to be asked before the call is made.
fn approval_wanted(
    call_id: String,
    attempt: i64,
    wanted: ApprovalRequired,
    decision_json: String,
    policy_hashes: Vec<String>,
) -> Input {
    let lapses = wanted.expires_after.map(|span| time::Duration::new(span.seconds, span.nanos));
    Input::ApprovalWanted(Box::new(ApprovalWanted {
        call_id,
        attempt,
        digest: wanted.call_digest,
        message: wanted.message,
        group: wanted.group,
        needed: wanted.needed,
        expires_after: lapses.unwrap_or(time::Duration::HOUR),
        decision_json,
        policy_hashes,
    }))
}

fn returned(outcome: ToolOutcome, reason: &str, result: ToolResult) -> CallReturn {
    CallReturn {
        call_id: String::new(),
        attempt: 0,
        outcome,
        reason: reason.to_owned(),
        result,
        decision_json: String::new(),
        policy_hashes: Vec::new(),
        recorded: false,
        size_bytes: 0,
        duration_ms: 0,
    }
}

/// The gateway's answer.
fn answered(response: InvokeToolResponse) -> CallReturn {
    let mut back = match response.outcome {
        Some(Outcome::Result(result)) if result.is_error => returned(ToolOutcome::Error, "TOOL_ERROR", result),
        Some(Outcome::Result(result)) => returned(ToolOutcome::Ok, "", result),
        Some(Outcome::Denied(denied)) => {
            let text = format!("{}: {}", denied.reason, denied.message);
            returned(ToolOutcome::Denied, &denied.reason, error_result(&text))
        }
        Some(Outcome::Failed(failed)) => {
            let known = matches!(failed.dispatch(), Dispatch::NotSent | Dispatch::Sent);
            let outcome = if known { ToolOutcome::Error } else { ToolOutcome::Unknown };
            let text = format!("{}: {}", failed.reason, failed.message);
            returned(outcome, &failed.reason, error_result(&text))
        }
        Some(Outcome::HandedOver(_)) => {
            let text = "NOT_IMPLEMENTED: nobody here makes calls of this tool";
            returned(ToolOutcome::NotSent, "NOT_IMPLEMENTED", error_result(text))
        }
        Some(Outcome::ApprovalRequired(_) | Outcome::Probed(_)) | None => {
            returned(ToolOutcome::Unknown, "OUTCOME_UNKNOWN", error_result("the gateway gave no outcome"))
        }
    };
    back.decision_json = response.decision_json;
    back.policy_hashes = response.policy_hashes;
    back.size_bytes = response.size_bytes;
    back
}

/// No answer of the gateway. Where the connection or the deadline broke, nobody knows what the call did.
fn unanswered(refusal: &Refusal) -> CallReturn {
    let unknown = refusal.transient && refusal.reason != "DRAINING" || refusal.reason == "INTERNAL";
    let outcome = if unknown { ToolOutcome::Unknown } else { ToolOutcome::Error };
    returned(outcome, &refusal.reason, error_result(&refusal.to_string()))
}
