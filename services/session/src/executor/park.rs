//! Letting go of a run that waits for somebody: no task, no lease, until a command or its time wakes it.

use super::{Executor, Halt, STORE_BACKOFF};
use crate::crash::Point;
use crate::store::Hold;

/// Refusals with nothing to read in between: more than commands that were taken before could cause one after another.
const REFUSALS: usize = 5;

impl Executor {
    /// Parks the run if it waits for people and nothing is on its way; whether it did.
    pub(super) async fn park(&mut self) -> Result<bool, Halt> {
        let mut pause = STORE_BACKOFF.0;
        let mut refused = 0;
        while self.state.is_parked() && self.pending.is_empty() && self.receiver.is_empty() && !self.commands.asks() {
            if !self.fetch_commands().await {
                // The next turn waits for the store with an eye on time.
                return Ok(false);
            }
            if !self.pending.is_empty() || self.commands.asks() {
                return Ok(false);
            }
            match self.try_park().await {
                Ok(true) => {
                    self.shared.crash.pass(Point::ParkDone).await;
                    return Ok(true);
                }
                // A command came, or the run has another owner: then nothing is read, and the next try says the same.
                Ok(false) if refused == REFUSALS => return Err(Halt::Fenced),
                Ok(false) => {
                    refused += 1;
                    self.commands.due();
                }
                Err(error) => self.rest(&mut pause, &error).await?,
            }
        }
        Ok(false)
    }

    async fn try_park(&mut self) -> Result<bool, crate::store::Error> {
        self.try_note_state().await?;
        self.try_note_approvals().await?;
        let wake = self.state.wake_at().unwrap_or(self.state.expires_at);
        let hold = Hold { owner: &self.owner, epoch: self.state.epoch };
        self.shared.store.run_park(&self.context.caller.tenant, self.state.run, hold, wake).await
    }
}
