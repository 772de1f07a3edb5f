//! Effects as tasks of the executor, and synthesis.

use std::sync::Arc;
use std::time::Duration;

use mar_proto::agent::GenerateAgentRequest;
use tracing::Instrument as _;

use super::Executor;
use crate::clients::Refusal;
use crate::guard::unwound;
use crate::run::Input;

/// Characters that the log tells of what is missing.
const MAX_DEPENDENCY: usize = 300;
/// Pause before synthesis is tried again: doubling between these.
const SYNTHESIS_BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

impl Executor {
    /// Runs an effect until it is done or stopped. Stopping drops it where it stands, and with it the call to the peer. One that
    /// panics stops its executor.
    pub(super) fn start<F>(&self, effect: F, stopped: impl FnOnce() -> Option<Input> + Send + 'static)
    where
        F: Future<Output = Input> + Send + 'static,
    {
        let (inbox, stop, broken) = (self.inbox.clone(), self.stop.clone(), self.broken.clone());
        let task = async move {
            let input = tokio::select! {
                biased;
                input = unwound(effect) => {
                    if input.is_none() {
                        broken.cancel();
                    }
                    input
                }
                () = stop.cancelled() => stopped(),
            };
            if let Some(input) = input {
                inbox.send(input);
            }
        };
        self.effects.spawn(task.instrument(self.span.clone()));
    }

    /// Has the agent synthesised, as often as it takes while a peer is down.
    pub(super) fn synthesise(&self) {
        let (shared, context, inbox) = (Arc::clone(&self.shared), self.context.clone(), self.inbox.clone());
        let request = GenerateAgentRequest {
            task: Some((*self.state.task).clone()),
            purpose: self.purpose.clone(),
            limits: Some(self.state.limits),
            parent_hash: self.state.parent.as_ref().map(|parent| parent.descriptor_hash.clone()).unwrap_or_default(),
        };
        let effect = async move {
            let mut pause = SYNTHESIS_BACKOFF.0;
            loop {
                match shared.peers.generate_agent(&context, request.clone()).await {
                    Ok(response) => return synthesised(response.agent),
                    Err(refusal) if refusal.transient => {
                        tracing::warn!(run.id = %context.run, error = %refusal, "synthesis waits");
                        inbox.send(Input::SynthesisDelayed { dependency: dependency(&refusal) });
                        shared.clock.sleep(refusal.retry_after.unwrap_or(pause).max(pause)).await;
                        pause = (pause * 2).min(SYNTHESIS_BACKOFF.1);
                    }
                    Err(refusal) => {
                        return Input::SynthesisFailed { reason: refusal.reason, message: refusal.message };
                    }
                }
            }
        };
        self.start(effect, || None);
    }
}

fn synthesised(agent: Option<mar_proto::session::Agent>) -> Input {
    match agent {
        Some(agent) if agent.descriptor.is_some() => Input::Synthesised(Box::new(agent)),
        _ => Input::SynthesisFailed {
            reason: "SYNTHESIS_FAILED".to_owned(),
            message: "the agent generator answered without an agent".to_owned(),
        },
    }
}

/// What a refused synthesis waits for: who refused it, and what that one says.
fn dependency(refusal: &Refusal) -> String {
    match refusal.reason.as_str() {
        "STORE_UNAVAILABLE" => "descriptor store".to_owned(),
        _ => format!("agent-generator: {}", refusal.message).chars().take(MAX_DEPENDENCY).collect(),
    }
}
