//! What happens with sessions by itself: they end when they are idle, what is past retention is pruned, and what a replica
//! left unfinished is finished.
//!
//! Every replica looks; the store gives each timer to one of them at a time, by its own clock.

use std::collections::BTreeMap;
use std::time::Duration;

use mar_runtime::status::chain;

use crate::error::Error;
use crate::guard::unwound;
use crate::sessions::Sessions;
use crate::store::erasure::{Begun, Extent};
use crate::store::timer::{Timer, TimerKind};
use crate::tenants::Terms;

/// Pause between two looks, and between two reports of what calls have named: well below the store's grace.
const LOOK: Duration = Duration::from_millis(500);
/// Timers claimed, and sessions pruned, at a time.
const BATCH: i64 = 16;
/// How long what waits for people is left alone.
const LATER: Duration = Duration::from_secs(600);
/// Pause between two looks for what is past retention: a tenth of the shortest, between these.
const PRUNE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Sessions under legal hold that are counted.
const COUNTED: i64 = 1_000;

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

    /// Looks from time to time, in tasks of the service. What takes long must not keep what calls have named from the store.
    pub fn begin(&self) {
        let runs = self.sessions.runs();
        let telling = self.clone();
        runs.spawn(async move {
            while telling.sessions.runs().pause_or_stop(LOOK).await {
                unwound(telling.tell()).await;
            }
            telling.tell().await;
        });
        let looking = self.clone();
        runs.spawn(async move {
            while looking.sessions.runs().pause_or_stop(LOOK).await {
                if let Some(Err(error)) = unwound(looking.look()).await {
                    tracing::debug!(error = %chain(&error), "timers wait for the store");
                }
            }
        });
        let shortest = runs.tenants().iter().filter_map(|(_, terms)| terms.retention).min();
        let Some(shortest) = shortest else { return };
        let (pruning, pause) = (self.clone(), (shortest / 10).clamp(PRUNE.0, PRUNE.1));
        runs.spawn(async move {
            let mut held = BTreeMap::new();
            while pruning.sessions.runs().pause_or_stop(pause).await {
                if let Some(Err(error)) = unwound(pruning.prune(&mut held)).await {
                    tracing::debug!(error = %chain(&error), "retention waits for the store");
                }
            }
        });
    }

    /// Tells the store which sessions calls have named.
    async fn tell(&self) {
        let runs = self.sessions.runs();
        let seen = runs.activity().take();
        if seen.is_empty() {
            return;
        }
        if let Err(error) = runs.store().sessions_seen(&seen).await {
            tracing::debug!(error = %chain(&error), "calls are told to the store later");
            runs.activity().put_back(seen);
        }
    }

    /// Sees to everything that is due.
    ///
    /// # Errors
    /// The store cannot be asked what is due.
    pub async fn look(&self) -> Result<(), Error> {
        let runs = self.sessions.runs();
        while !runs.is_stopping() {
            let due = runs.store().timer_claim(BATCH).await?;
            for timer in &due {
                if let Err(error) = self.see_to(timer).await {
                    self.later(timer, &error).await?;
                }
            }
            if due.is_empty() {
                break;
            }
        }
        Ok(())
    }

    async fn see_to(&self, timer: &Timer) -> Result<(), Error> {
        let Timer { tenant, session, kind } = timer;
        match kind {
            TimerKind::End => self.sessions.expire(tenant, *session).await,
            TimerKind::Prune => self.sessions.go_on(tenant, *session, Extent::Payloads).await,
            TimerKind::Blobs => self.sessions.expire_blobs(tenant, *session).await,
            TimerKind::Erase => self.sessions.go_on(tenant, *session, Extent::Everything).await,
        }
    }

    /// What a store that is away held up is due soon, by the claim; what waits for people is not asked for all the time.
    async fn later(&self, timer: &Timer, error: &Error) -> Result<(), Error> {
        if matches!(error, Error::SessionKept { .. }) {
            return Ok(self.sessions.runs().store().timer_put_off(timer, LATER).await?);
        }
        if !matches!(error, Error::Draining) {
            tracing::warn!(session.id = %timer.session, error = %chain(error), "a session is seen to again later");
        }
        Ok(())
    }

    /// Prunes what is past retention, tenant by tenant. `held` has what was last told of tenants under legal hold.
    async fn prune(&self, held: &mut BTreeMap<String, usize>) -> Result<(), Error> {
        for (tenant, terms) in self.sessions.runs().tenants().iter() {
            let &Terms { retention: Some(retention), legal_hold, .. } = terms else { continue };
            if legal_hold {
                let past = self.sessions.runs().store().sessions_past(tenant, retention, COUNTED).await?.len();
                if held.insert(tenant.to_owned(), past) != Some(past) && past > 0 {
                    tracing::warn!(tenant, sessions = past, "past retention, and kept: the tenant is under legal hold");
                }
                continue;
            }
            self.prune_tenant(tenant, retention).await?;
        }
        Ok(())
    }

    async fn prune_tenant(&self, tenant: &str, retention: Duration) -> Result<(), Error> {
        let runs = self.sessions.runs();
        while !runs.is_stopping() {
            let past = runs.store().sessions_past(tenant, retention, BATCH).await?;
            for &session in &past {
                if runs.store().erasure_begin(None, tenant, session, Extent::Payloads).await? == Begun::Going {
                    self.sessions.destroy(tenant, session, Extent::Payloads).await?;
                }
            }
            if past.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
