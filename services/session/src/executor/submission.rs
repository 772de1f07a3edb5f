//! Results that callers bring. They pass the gateway as an upstream's do before the run takes them.

use std::sync::Arc;
use std::time::Duration;

use mar_proto::session::WaitReason;
use mar_proto::tool::receive_result_response::Outcome;
use mar_proto::tool::{CallFacts, ReceiveResultRequest};
use uuid::Uuid;

use super::Executor;
use crate::run::{CallState, Command, Input, Submission, error_result};

/// For how long the gateway may take. It calls nobody.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause before a gateway that is down is asked again: doubling between these.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl Executor {
    /// Whether a call waits for a result of the caller's.
    pub(super) fn is_handed(&self, call_id: &str) -> bool {
        let wanted = CallState::Handed { reason: WaitReason::ToolResult };
        self.state.calls.iter().any(|call| call.call_id == call_id && call.state == wanted)
    }

    /// Asks the gateway what the agent may receive of a result. The command stays in the store meanwhile: a stop, or the end
    /// of this process, leaves it to whoever looks next.
    pub(super) fn receive(&mut self, id: Uuid, mut given: Submission) {
        self.context.agent.clone_from(&self.state.agent);
        let call = self.state.calls.iter().find(|call| call.call_id == given.result.call_id);
        let request = ReceiveResultRequest {
            call_id: given.result.call_id.clone(),
            tool: call.map(|call| call.tool.clone()).unwrap_or_default(),
            result: Some(given.result.clone()),
            facts: Some(CallFacts {
                step: self.state.step,
                tool_calls: self.state.used.tool_calls,
                tainted: self.state.tainted,
            }),
            descriptor: None,
            definition: call.and_then(|call| call.definition.clone()),
        };
        let (shared, context) = (Arc::clone(&self.shared), self.context.clone());
        let effect = async move {
            let mut pause = BACKOFF.0;
            let call_id = given.result.call_id.clone();
            loop {
                match shared.peers.receive_result(&context, request.clone(), DEADLINE).await {
                    Ok(response) => {
                        given.result = match response.outcome {
                            Some(Outcome::Result(result)) => result,
                            Some(Outcome::Denied(denied)) => {
                                error_result(&format!("{}: {}", denied.reason, denied.message))
                            }
                            None => error_result("INTERNAL: the gateway gave no outcome"),
                        };
                        given.decision_json = response.decision_json;
                        given.policy_hashes = response.policy_hashes;
                        given.size_bytes = response.size_bytes;
                        break;
                    }
                    Err(refusal) if refusal.transient => {
                        tracing::warn!(run.id = %context.run, call.id = call_id, error = %refusal, "result waits for the gateway");
                        shared.clock.sleep(refusal.retry_after.unwrap_or(pause).max(pause)).await;
                        pause = (pause * 2).min(BACKOFF.1);
                    }
                    Err(refusal) => {
                        tracing::warn!(run.id = %context.run, call.id = call_id, error = %refusal, "result is refused");
                        given.result = error_result(&refusal.to_string());
                        break;
                    }
                }
            }
            given.result.call_id = call_id;
            Input::Commanded { id, command: Command::ToolResult(Box::new(given)) }
        };
        self.start(effect, || None);
    }
}
