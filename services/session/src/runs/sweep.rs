//! Runs that this replica holds and does not execute.
//!
//! There are none, unless the store has gone back in time: a standby that had not heard the last of its primary gives runs back
//! to replicas that had lost them. Whoever was given up by its executor, and could not be let go of, is found here, too.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use uuid::Uuid;

use super::Runs;
use crate::error::Error;
use crate::guard::unwound;
use crate::store::Hold;

/// Between two looks. What is held and not executed at two of them in a row is let go of: an admission may be on its way.
const PAUSE: Duration = Duration::from_secs(5);

/// A claimed run whose log is being read. Dropped, it is in execution, or the service stops.
pub(super) struct Coming {
    runs: Runs,
    place: (Uuid, i64),
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.runs.0.coming.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place);
    }
}

impl Runs {
    pub(super) fn coming(&self, run: Uuid, epoch: i64) -> Coming {
        self.0.coming.lock().unwrap_or_else(PoisonError::into_inner).insert((run, epoch));
        Coming { runs: self.clone(), place: (run, epoch) }
    }

    /// Looks for runs that are held and not executed until the service stops.
    pub(super) fn keep_sweeping(&self) {
        let sweeping = self.clone();
        self.0.tasks.spawn(async move {
            let mut idle = BTreeSet::new();
            while sweeping.pause_or_stop(PAUSE).await {
                if let Some(Err(error)) = unwound(sweeping.watch_store()).await {
                    tracing::debug!(error = %mar_runtime::status::chain(&error), "no look at the store's history");
                }
                match unwound(sweeping.sweep(&idle)).await {
                    Some(Ok(found)) => idle = found,
                    Some(Err(error)) => {
                        tracing::debug!(error = %mar_runtime::status::chain(&error), "idle runs wait for the store");
                    }
                    None => {}
                }
            }
        });
    }

    /// Says so when another server has taken the store's place: commits that only the dead knew of are missed by nobody else.
    async fn watch_store(&self) -> Result<(), Error> {
        if let Some(promotion) = self.store().promotion().await? {
            tracing::warn!(
                store.timeline = promotion.timeline,
                store.missing_bytes = promotion.missing_bytes,
                "another server has taken the store's place: commits may be lost"
            );
        }
        Ok(())
    }

    /// Lets go of the runs that were idle before and still are; answers those that are idle now.
    async fn sweep(&self, before: &BTreeSet<(Uuid, i64)>) -> Result<BTreeSet<(Uuid, i64)>, Error> {
        let held = self.store().run_held(&self.0.owner).await?;
        let idle: BTreeSet<(Uuid, i64)> =
            held.into_iter().filter(|(run, epoch)| !self.has_in_hand(*run, *epoch)).collect();
        for (run, epoch) in idle.intersection(before) {
            let hold = Hold { owner: &self.0.owner, epoch: *epoch };
            if self.store().run_leave(*run, hold, *epoch, Duration::ZERO).await? {
                tracing::warn!(run.id = %run, run.epoch = epoch, "a run that was held and not executed is let go of");
                self.0.claim.notify_one();
            }
        }
        Ok(idle)
    }

    /// Whether it is executed in this ownership, or about to be.
    fn has_in_hand(&self, run: Uuid, epoch: i64) -> bool {
        let coming = self.0.coming.lock().unwrap_or_else(PoisonError::into_inner).contains(&(run, epoch));
        let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        coming || live.get(&run).is_some_and(|live| live.epoch == epoch)
    }
}
