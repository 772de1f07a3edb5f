//! What happens with sessions by itself: erasures that a replica left unfinished.
//!
//! Every replica looks; the store gives each timer to one of them at a time, by its own clock.

use std::time::Duration;

use mar_runtime::status::chain;

use crate::erasure::put_off;
use crate::error::Error;
use crate::sessions::Sessions;
use crate::store::erasure::{Extent, Timer, TimerKind};

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Timers claimed at a time.
const BATCH: i64 = 16;
/// How long what cannot be done yet is left alone.
const LATER: Duration = Duration::from_secs(600);

/// Looks after sessions until the service stops.
#[derive(Clone)]
pub struct Upkeep {
    sessions: Sessions,
}

impl Upkeep {
    /// Of these sessions.
    #[must_use]
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    /// Looks from time to time, in a task of the service.
    pub fn begin(&self) {
        let upkeep = self.clone();
        self.sessions.runs().spawn(async move {
            while upkeep.sessions.runs().pause_or_stop(LOOK).await {
                if let Err(error) = upkeep.look().await {
                    tracing::debug!(error = %chain(&error), "timers wait for the store");
                }
            }
        });
    }

    /// Sees to everything that is due.
    ///
    /// # Errors
    /// The store cannot be asked what is due.
    pub async fn look(&self) -> Result<(), Error> {
        loop {
            let due = self.sessions.runs().store().timer_claim(BATCH).await?;
            for timer in &due {
                if let Err(error) = self.see_to(timer).await {
                    put_off(timer.session, &error);
                    self.later(timer, &error).await?;
                }
            }
            if due.is_empty() {
                return Ok(());
            }
        }
    }

    async fn see_to(&self, timer: &Timer) -> Result<(), Error> {
        let extent = match timer.kind {
            TimerKind::Prune => Extent::Payloads,
            TimerKind::Erase => Extent::Everything,
        };
        self.sessions.go_on(&timer.tenant, timer.session, extent).await
    }

    /// What a store that is away held up is due soon, by the claim; what waits for people is not asked for all the time.
    async fn later(&self, timer: &Timer, error: &Error) -> Result<(), Error> {
        if matches!(error, Error::SessionKept { .. }) {
            self.sessions.runs().store().timer_put_off(timer, LATER).await?;
        }
        Ok(())
    }
}
