//! Reading the log of the run that a fork was forked from.

use std::sync::Arc;

use mar_proto::session::{EventContent, ToolOutcome, event_leaf::Body, event_shared};
use mar_proto::tool::InvokeToolResponse;
use mar_proto::tool::invoke_tool_response::Outcome;
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

/// Whether a decision is no obstacle to a result that is there: nothing is sent, and so nobody has to approve it.
pub(super) fn lets_through(response: &InvokeToolResponse) -> bool {
    matches!(response.outcome, Some(Outcome::HandedOver(_) | Outcome::ApprovalRequired(_)))
}

impl Recording {
    /// The result as it is recorded, with the decision that was made now.
    pub(super) async fn result(&self, response: InvokeToolResponse) -> CallReturn {
        let mut back = self.read().await.unwrap_or_else(|_| {
            let text = "RECORDING_GONE: the result of this call is recorded, and its payload is gone; it was not made";
            returned(ToolOutcome::NotSent, "RECORDING_GONE", text)
        });
        back.decision_json = response.decision_json;
        back.policy_hashes = response.policy_hashes;
        back
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
