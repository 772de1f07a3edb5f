//! Whether this replica's word on its runs still holds.
//!
//! Others take its runs over when its last sign of life is older than their patience. A process that was frozen, or cut off
//! from the store, for so long does not know whether they did: until it has asked, what its executors show may be old, and
//! the store's word is taken instead, where the store can be asked.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mar_runtime::status;
use uuid::Uuid;

use super::{Live, Runs};
use crate::error::Error;

/// When the last sign of life that the store took was begun, by the monotonic clock.
#[derive(Debug)]
pub(super) struct Standing(Mutex<Duration>);

impl Standing {
    pub(super) const fn new(now: Duration) -> Self {
        Self(Mutex::new(now))
    }

    fn last(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirm(&self, begun: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }
}

impl Runs {
    /// A sign of life. One that fails may cost this replica its runs; the log keeps them whole.
    pub async fn beat(&self) {
        if let Err(error) = self.try_beat().await {
            tracing::debug!(error = %status::chain(&error), "no sign of life");
        }
    }

    async fn try_beat(&self) -> Result<(), Error> {
        let begun = self.clock().monotonic();
        let stood = self.stands();
        self.store().beat(&self.0.owner, self.0.replicas.patience).await?;
        if !stood {
            self.let_go_of_what_is_anothers().await?;
        }
        self.0.standing.confirm(begun);
        Ok(())
    }

    /// Whether nobody can have taken this replica's runs over since its last sign of life.
    pub(super) fn stands(&self) -> bool {
        self.clock().monotonic().saturating_sub(self.0.standing.last()) < self.0.replicas.patience
    }

    /// A run of the tenant that is executed here, if what is shown here is how it stands.
    pub(super) fn shown(&self, tenant: &str, session: Uuid, run: Uuid) -> Option<Live> {
        let live = self.live_in(tenant, session, run)?;
        let left = live.feed.views().borrow().left;
        (self.stands() && !left).then_some(live)
    }

    /// Stops the executors of runs that others own by now, and what they have in flight.
    async fn let_go_of_what_is_anothers(&self) -> Result<(), Error> {
        let here: Vec<(Uuid, i64)> = {
            let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.iter().map(|(run, live)| (*run, live.epoch)).collect()
        };
        // Read after: what has come here meanwhile is not in question.
        let held: HashSet<(Uuid, i64)> = self.store().run_held(&self.0.owner).await?.into_iter().collect();
        for (run, epoch) in here.into_iter().filter(|place| !held.contains(place)) {
            if let Some(live) = self.live_anyones(run).filter(|live| live.epoch == epoch) {
                live.inbox.fence();
                live.feed.leave();
                self.0.let_go(run, epoch);
            }
        }
        Ok(())
    }
}
