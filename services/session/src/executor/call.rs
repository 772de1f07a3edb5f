//! Issuing a tool call.

use std::sync::Arc;
use std::time::Duration;

use mar_proto::session::{ApprovalState, ToolOutcome, WaitReason};
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::tool::{ApprovalGiven, ApprovalRequired, CallFacts, Dispatch, InvokeToolRequest, InvokeToolResponse};
use mar_proto::types::{self, ToolResult};

use super::Executor;
use super::recall::Replay;
use crate::clients::Refusal;
use crate::crash::Point;
use crate::run::{ApprovalWanted, Call, CallReturn, CallState, Input, error_result};

/// The tool with which an agent asks its caller: what it waits for is input, not a result.
const ASK: &str = "tools/caller.ask";
/// The longest that one call may take; upstreams have their own, shorter limits.
pub(super) const MAX_TIME: Duration = Duration::from_secs(600);
/// Pause before an idempotent call is repeated, doubled with each try.
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
        let approval = self.approval_given(call);
        // What was only asked about has not been tried.
        let repeated = attempt > 1 && approval.is_none();
        let recording = self.recording(call);
        let mut request = InvokeToolRequest {
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
            definition: call.definition.clone().filter(|_| call.is_made_elsewhere() || recording.is_some()),
            probe: false,
            decide_only: recording.is_some(),
            recorded: None,
        };
        let (shared, context) = (Arc::clone(&self.shared), self.context.clone());
        let deadline = self.time_left().min(MAX_TIME);
        let pause = REPEAT_PAUSE * 2_u32.pow(u32::try_from(attempt.clamp(1, 8) - 1).unwrap_or(0)) / 2;
        let id = call.call_id.clone();
        let asks = call.tool == ASK;
        let effect = async move {
            if repeated {
                shared.clock.sleep(pause).await;
            }
            let began = shared.clock.monotonic();
            let replay = match recording {
                Some(recording) => Some(recording.taken().await),
                None => None,
            };
            request.recorded = replay.as_ref().and_then(Replay::brought);
            shared.crash.pass_in(Point::CallSent, context.run).await;
            let response = shared.peers.invoke_tool(&context, request, deadline).await;
            shared.crash.pass_in(Point::ResultInHand, context.run).await;
            let took = shared.clock.monotonic().saturating_sub(began);
            let replayed = match (&response, replay) {
                (Ok(response), Some(replay)) => replay.let_through(response),
                _ => None,
            };
            let mut back = match (response, replayed) {
                (_, Some(back)) => back,
                (
                    Ok(InvokeToolResponse {
                        outcome: Some(Outcome::ApprovalRequired(wanted)),
                        decision_json,
                        policy_hashes,
                        ..
                    }),
                    _,
                ) => return approval_wanted(id, attempt, wanted, decision_json, policy_hashes),
                (
                    Ok(InvokeToolResponse {
                        outcome: Some(Outcome::HandedOver(to)), decision_json, policy_hashes, ..
                    }),
                    _,
                ) if to.executor() != types::Executor::Unspecified => {
                    let reason = match to.executor() {
                        types::Executor::Runtime => WaitReason::ChildRun,
                        _ if asks => WaitReason::Input,
                        _ => WaitReason::ToolResult,
                    };
                    return Input::HandedOver { call_id: id, attempt, reason, decision_json, policy_hashes };
                }
                (Ok(response), _) => answered(response),
                (Err(refusal), _) => {
                    tracing::warn!(run.id = %context.run, call.id = %id, error = %refusal, "tool call got no answer");
                    unanswered(&refusal)
                }
            };
            back.call_id = id;
            back.attempt = attempt;
            back.duration_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
            Input::Returned(Box::new(back))
        };
        let (call_id, stopped) = (call_id.to_owned(), "the run was stopped while the call was in flight");
        self.start(effect, move || {
            let mut back = returned(ToolOutcome::Unknown, "OUTCOME_UNKNOWN", error_result(stopped));
            back.call_id = call_id;
            back.attempt = attempt;
            Some(Input::Returned(Box::new(back)))
        });
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
