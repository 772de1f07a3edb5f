//! Letting go of a run that waits for somebody: no task, no lease, until a command or its time wakes it.

use std::time::Duration;

use super::{Executor, Halt};
use crate::crash::Point;
use crate::store::Hold;

/// Refusals with nothing to read in between: more than commands that were taken before could cause one after another.
const REFUSALS: usize = 5;

impl Executor {
    /// Parks the run if it waits for people and nothing is on its way; whether it did.
    pub(super) async fn park(&mut self) -> Result<bool, Halt> {
        let mut wait = self.store_wait();
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
                    self.shared.crash.pass_in(Point::ParkDone, self.state.run).await;
                    return Ok(true);
                }
                // A command came, or the run has another owner: then nothing is read, and the next try says the same.
                Ok(false) if refused == REFUSALS => return Err(Halt::Fenced),
                Ok(false) => {
                    refused += 1;
                    self.commands.due();
                }
                Err(error) => self.rest(&mut wait, &error).await?,
            }
        }
        Ok(false)
    }

    /// Lets go of a run that somebody else has written to, if this replica holds it all the same: its predecessor, taken for
    /// dead, was quicker to write than its new owner to say that it is one, or its store gave an ownership out again that
    /// the log knows of. Kept, nobody would execute it while this replica lives; let go of, it is claimed again, when `rest`
    /// has passed. Where the store does not let it go, `Runs::sweep` does.
    pub(super) async fn give_up(&self, rest: Duration) {
        let hold = Hold { owner: &self.owner, epoch: self.held };
        let mut wait = self.store_wait();
        loop {
            match self.shared.store.run_leave(self.state.run, hold, self.state.epoch, rest).await {
                Ok(true) => tracing::info!(run.id = %self.state.run, run.epoch = self.held, "run is let go of"),
                Ok(false) => {}
                Err(error) if error.is_unavailable() => match self.rest(&mut wait, &error).await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                Err(error) => {
                    let error = mar_runtime::status::chain(&error);
                    tracing::warn!(run.id = %self.state.run, error, "run is not let go of");
                }
            }
            return;
        }
    }

    async fn try_park(&mut self) -> Result<bool, crate::store::Error> {
        self.try_note_state().await?;
        self.try_note_approvals().await?;
        let wake = self.state.wake_at().unwrap_or(self.state.expires_at);
        let hold = Hold { owner: &self.owner, epoch: self.state.epoch };
        self.shared.store.run_park(&self.context.caller.tenant, self.state.run, hold, wake).await
    }
}
