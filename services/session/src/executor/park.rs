//! Letting go of a run that waits for somebody: no task, no lease, until a command or its time wakes it.

use time::OffsetDateTime;

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
    /// dead, was quicker to write than its new owner to say that it is one. Kept, nobody would execute it while this
    /// replica lives; let go of, it is claimed again, from `wake` on.
    pub(super) async fn give_up(&self, wake: OffsetDateTime) {
        let mut wait = self.store_wait();
        let mut refused = 0;
        while refused < REFUSALS {
            match self.try_give_up(wake).await {
                Ok(true) => return,
                Ok(false) => refused += 1,
                Err(error) if error.is_unavailable() => {
                    if self.rest(&mut wait, &error).await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Whether the run is not this replica's any more.
    async fn try_give_up(&self, wake: OffsetDateTime) -> Result<bool, crate::store::Error> {
        let (store, tenant, run) = (&self.shared.store, &self.context.caller.tenant, self.state.run);
        let hold = Hold { owner: &self.owner, epoch: self.held };
        if store.run_park(tenant, run, hold, wake).await? {
            tracing::info!(run.id = %run, run.epoch = self.held, "run is let go of");
            return Ok(true);
        }
        // A command on its way keeps it here, which its next owner reads again.
        if store.command_runs(&self.owner).await?.contains(&run) {
            store.command_read(tenant, run, hold).await?;
            return Ok(false);
        }
        Ok(true)
    }

    async fn try_park(&mut self) -> Result<bool, crate::store::Error> {
        self.try_note_state().await?;
        self.try_note_approvals().await?;
        let wake = self.state.wake_at().unwrap_or(self.state.expires_at);
        let hold = Hold { owner: &self.owner, epoch: self.state.epoch };
        self.shared.store.run_park(&self.context.caller.tenant, self.state.run, hold, wake).await
    }
}
