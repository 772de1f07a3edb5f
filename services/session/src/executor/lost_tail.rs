//! A log that its store has lost the end of: events that were durable, and acknowledged, are there no more.
//!
//! That is what a standby does that had not heard the last of its primary and takes its place. What the lost events began, a
//! successor that replays what is left knows nothing of, so the run does not go on as if they had never been: it is
//! stopped, with its reason in the log.

use super::{Executor, Halt};
use crate::run::{Command, LOG_TAIL_LOST};
use crate::store::Error;

impl Executor {
    /// Whether a store that takes nothing for a continuation of its log, or does not find what the log is known to have, has
    /// lost its end.
    pub(super) async fn tail_is_lost(&self, error: &Error) -> bool {
        if !matches!(error, Error::Invalid(_) | Error::Corrupt(_)) {
            return false;
        }
        let next = self.shared.store.event_next(&self.context.caller.tenant, self.state.run).await;
        matches!(next, Ok(next) if next < self.state.next_seq)
    }

    /// Has whoever goes on from what is left stop the run before anything else, and lets go of it. One whose admission is lost,
    /// too, is nobody's.
    pub(super) async fn stop_for_lost_tail(&mut self) -> Halt {
        let (run, next) = (self.state.run, self.state.next_seq);
        tracing::error!(run.id = %run, run.next_seq = next, "the store has lost events that were acknowledged");
        let command = Command::Cancel { reason: LOG_TAIL_LOST.to_owned(), principal: String::new() };
        match self.tell(run, &command).await {
            Ok(()) => Halt::TailLost,
            Err(halt) => halt,
        }
    }
}
