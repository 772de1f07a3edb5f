//! Reading the log of the run that a fork was forked from.

use std::sync::Arc;

use mar_proto::session::{EventContent, ToolOutcome, event_leaf::Body, event_shared};
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::tool::{InvokeToolResponse, RecordedResult};
use mar_proto::types::ToolResult;
use uuid::Uuid;

use super::{Executor, STORE_BACKOFF, Shared};
use crate::log;
use crate::run::{Call, CallReturn, Event, Input, Recalled, Recollection, error_result};
use crate::store::{self, EventRow};

/// Events read at a time.
const READ_EVENTS: i64 = 256;
/// Payload read at a time.
const READ_BYTES: usize = 1 << 20;

/// Why a log tells nothing.
#[derive(Debug)]
enum Untold {
    /// Its payloads were erased or pruned.
    Gone,
    /// It cannot be read.
    Broken,
}

impl Executor {
    /// Reads what a fork goes on from, as often as it takes while the store is away.
    pub(super) fn recall(&self) {
        let Some(fork) = self.state.fork.clone() else { return };
        let reader = self.reader(fork.origin);
        let effect = async move {
            match reader.recall(fork.through_seq, fork.own_task).await {
                Ok(recalled) => Input::Recalled(Box::new(recalled)),
                Err(untold) => {
                    let (reason, message) = match untold {
                        Untold::Gone => ("PAYLOADS_GONE", "the payloads of the run that it was forked from are gone"),
                        Untold::Broken => ("INTERNAL", "the log of the run that it was forked from cannot be read"),
                    };
                    Input::SynthesisFailed { reason: reason.to_owned(), message: message.to_owned() }
                }
            }
        };
        self.start(effect, || None);
    }

    /// Where the result of a call is recorded; `None` for one that is to be made.
    pub(super) fn recording(&self, call: &Call) -> Option<Recording> {
        let (fork, seq) = (self.state.fork.as_ref()?, call.recorded?);
        Some(Recording { reader: self.reader(fork.origin), seq })
    }

    fn reader(&self, origin: Uuid) -> Reader {
        Reader { shared: Arc::clone(&self.shared), tenant: self.context.caller.tenant.clone(), origin }
    }
}

/// The log of a fork's origin.
struct Reader {
    shared: Arc<Shared>,
    tenant: String,
    origin: Uuid,
}

/// A result in the log of a fork's origin.
pub(super) struct Recording {
    reader: Reader,
    seq: i64,
}

impl Reader {
    async fn recall(&self, through_seq: i64, own_task: bool) -> Result<Recalled, Untold> {
        let mut recollection = Recollection::new(through_seq, own_task);
        let mut next = 0;
        loop {
            let rows = self.rows(next, READ_EVENTS).await?;
            let Some(last) = rows.last() else { return Ok(recollection.finish()) };
            next = last.seq + 1;
            for row in &rows {
                recollection.take(row.seq, &told(self.origin, row)?);
            }
        }
    }

    async fn rows(&self, from: i64, limit: i64) -> Result<Vec<EventRow>, Untold> {
        let mut pause = STORE_BACKOFF.0;
        loop {
            match self.shared.store.event_read(&self.tenant, self.origin, from, limit, READ_BYTES).await {
                Ok(rows) => return Ok(rows),
                Err(error) if error.is_unavailable() => {
                    let error = mar_runtime::status::chain(&error);
                    tracing::warn!(run.origin = %self.origin, error = %error, "a fork waits for the store");
                    self.shared.clock.sleep(pause).await;
                    pause = (pause * 2).min(STORE_BACKOFF.1);
                }
                Err(error) => {
                    let error = mar_runtime::status::chain(&error);
                    tracing::error!(run.origin = %self.origin, error = %error, "a fork cannot read its origin");
                    return Err(Untold::Broken);
                }
            }
        }
    }
}

fn told(run: Uuid, row: &EventRow) -> Result<Event, Untold> {
    let (leaf, event) = log::decode(run, row).map_err(|_: store::Error| Untold::Broken)?;
    let gone = row.content.is_none() && !leaf.commitments.is_empty();
    if gone { Err(Untold::Gone) } else { Ok(event) }
}

impl Recording {
    /// Reads it. A log that tells nothing leaves nothing to be given, and the call is decided on all the same.
    pub(super) async fn taken(self) -> Replay {
        Replay { recorded: self.read().await.ok() }
    }

    async fn read(&self) -> Result<CallReturn, Untold> {
        let rows = self.reader.rows(self.seq, 1).await?;
        let row = rows.first().filter(|row| row.seq == self.seq).ok_or(Untold::Broken)?;
        let event = told(self.reader.origin, row)?;
        let back = match event.body {
            Body::ToolReturned(back) => back,
            Body::EventShared(shared) => match shared.body {
                Some(event_shared::Body::Result(back)) => back,
                _ => return Err(Untold::Broken),
            },
            _ => return Err(Untold::Broken),
        };
        let EventContent { tool_result, .. } = event.content;
        Ok(CallReturn {
            call_id: String::new(),
            attempt: 0,
            outcome: back.outcome(),
            reason: back.reason.clone(),
            result: tool_result.unwrap_or_default(),
            decision_json: String::new(),
            policy_hashes: Vec::new(),
            recorded: true,
            size_bytes: back.size_bytes,
            duration_ms: 0,
        })
    }
}

/// A recorded result on its way to the agent.
pub(super) struct Replay {
    /// As the log has it; `None` where its payload is gone.
    recorded: Option<CallReturn>,
}

impl Replay {
    /// What the gateway is to decide on beside the call: the answer of a tool. What the runtime itself said of a call, a
    /// denial or a failure, no policy was asked about in the first place.
    pub(super) fn brought(&self) -> Option<RecordedResult> {
        let back = self.recorded.as_ref().filter(|back| is_answer(back))?;
        Some(RecordedResult { result: Some(back.result.clone()), size_bytes: back.size_bytes })
    }

    /// The result as the agent may receive it, with the decision that was made now; `None` where the gateway lets nothing
    /// through, or has not said so.
    pub(super) fn let_through(self, response: &InvokeToolResponse) -> Option<CallReturn> {
        let mut back = match (&response.outcome, self.recorded) {
            (Some(Outcome::Result(result)), Some(back)) if is_answer(&back) => received(back, result),
            // Nothing is sent, and so nobody has to approve it.
            (Some(Outcome::HandedOver(_) | Outcome::ApprovalRequired(_)), Some(back)) if !is_answer(&back) => back,
            (Some(Outcome::HandedOver(_) | Outcome::ApprovalRequired(_)), None) => {
                let text =
                    "RECORDING_GONE: the result of this call is recorded, and its payload is gone; it was not made";
                returned(ToolOutcome::NotSent, "RECORDING_GONE", text)
            }
            _ => return None,
        };
        back.decision_json.clone_from(&response.decision_json);
        back.policy_hashes.clone_from(&response.policy_hashes);
        Some(back)
    }
}

/// Whether a tool, or child runs, have said it.
fn is_answer(back: &CallReturn) -> bool {
    let failed = || matches!(&*back.reason, "TOOL_ERROR" | "CHILDREN_FAILED");
    back.outcome == ToolOutcome::Ok || back.outcome == ToolOutcome::Error && failed()
}

/// What the gateway has made of a recorded result. Only what it left as it was is that result.
fn received(back: CallReturn, now: &ToolResult) -> CallReturn {
    let was = &back.result;
    let kept = (&was.content, &was.passages, was.is_error, was.truncated)
        == (&now.content, &now.passages, now.is_error, now.truncated);
    if kept { back } else { CallReturn { result: now.clone(), recorded: false, ..back } }
}

fn returned(outcome: ToolOutcome, reason: &str, text: &str) -> CallReturn {
    CallReturn {
        call_id: String::new(),
        attempt: 0,
        outcome,
        reason: reason.to_owned(),
        result: error_result(text),
        decision_json: String::new(),
        policy_hashes: Vec::new(),
        recorded: false,
        size_bytes: 0,
        duration_ms: 0,
    }
}
