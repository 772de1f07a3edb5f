//! Taking over what nobody executes: at start, and by timer for claims that failed.

use std::time::Duration;

use mar_runtime::status::Resource;
use time::OffsetDateTime;
use tracing::Instrument as _;

use super::{CLAIM_BATCH, READ_BYTES, READ_EVENTS, Runs, STORE_PAUSE, stored_caller};
use crate::crash::Point;
use crate::error::Error;
use crate::guard::unwound;
use crate::log;
use crate::run::Input;
use crate::store::{Claimed, EventRow, RunRow};

/// Pause before a run whose log did not replay is tried again, doubling between these: somebody may have restored what was
/// broken.
const BROKEN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Number of `SessionState::Open`.
const OPEN: i16 = 1;

/// The ownership that a claim gave.
#[derive(Debug, Clone, Copy)]
struct Ownership {
    epoch: i64,
    /// Since when nobody is known to have executed the run, by this replica's clock.
    unattended_since: Option<OffsetDateTime>,
}

impl Runs {
    /// Claims every open run that this replica does not hold. Called before the service serves.
    pub async fn claim_all(&self) -> Result<usize, Error> {
        let mut claimed = 0;
        loop {
            let batch =
                self.store().run_claim(&self.0.owner, log::VERSION, CLAIM_BATCH, self.0.replicas.patience).await?;
            if batch.is_empty() {
                return Ok(claimed);
            }
            let now = self.clock().now();
            for Claimed { run, epoch, unattended } in batch {
                claimed += 1;
                let since = unattended.and_then(|span| now.checked_sub(span.try_into().ok()?));
                self.take_over(run, Ownership { epoch, unattended_since: since });
            }
        }
    }

    /// Shows that this replica is alive, looks for runs without an executor, and passes on commands that came by other
    /// replicas, until the service stops.
    pub fn keep_claiming(&self) {
        let beating = self.clone();
        self.0.tasks.spawn(async move {
            while beating.pause_or_stop(beating.0.replicas.heartbeat).await {
                unwound(beating.beat()).await;
            }
        });
        self.keep_sweeping();
        self.keep_listening();
        let claiming = self.clone();
        self.0.tasks.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = claiming.0.shutdown.cancelled() => return,
                    () = claiming.0.claim.notified() => {}
                    () = claiming.clock().sleep(claiming.0.replicas.heartbeat) => {}
                }
                if let Some(Err(error)) = unwound(claiming.look()).await {
                    tracing::debug!(error = %error, "claims wait for the store");
                }
            }
        });
    }

    /// Whether the time has passed rather than the service been stopped.
    pub(crate) async fn pause_or_stop(&self, span: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.0.shutdown.cancelled() => false,
            () = self.clock().sleep(span) => true,
        }
    }

    async fn look(&self) -> Result<(), Error> {
        self.claim_all().await?;
        for run in self.store().command_runs(&self.0.owner).await? {
            let live = self.0.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(live) = live.get(&run) {
                live.inbox.mail();
            }
        }
        Ok(())
    }

    /// Executes a claimed run from its log on, as soon as the store lets it be read.
    fn take_over(&self, row: RunRow, own: Ownership) {
        let runs = self.clone();
        let coming = self.coming(row.id, own.epoch);
        let task = async move {
            let _coming = coming;
            let mut broken = BROKEN_PAUSE.0;
            loop {
                let pause = match unwound(runs.resume(&row, own)).await {
                    Some(Ok(())) => return,
                    Some(Err(Error::Store(source))) if source.is_unavailable() => STORE_PAUSE,
                    failed => {
                        let error = failed.and_then(Result::err).map(|error| mar_runtime::status::chain(&error));
                        tracing::error!(run.id = %row.id, error, "claimed run cannot go on: its log does not replay");
                        let longer = (broken * 2).min(BROKEN_PAUSE.1);
                        std::mem::replace(&mut broken, longer)
                    }
                };
                if !runs.pause_or_stop(pause).await {
                    return;
                }
            }
        };
        self.0.tasks.spawn(task.in_current_span());
    }

    async fn resume(&self, row: &RunRow, own: Ownership) -> Result<(), Error> {
        let name = format!("sessions/{}", row.session);
        let session = self.store().session_get(&row.tenant, row.session).await?;
        let session = session.ok_or(Error::NotFound { kind: Resource::Session, name })?;
        let events = self.events(&row.tenant, row.id).await?;
        self.0.shared.crash.pass_in(Point::ClaimTaken, row.id).await;
        tracing::info!(run.id = %row.id, run.epoch = own.epoch, run.events = events.len(), "run claimed");
        let Ownership { epoch, unattended_since } = own;
        let claimed = Input::Claimed { epoch, owner: self.0.owner.to_string(), unattended_since };
        self.execute(&session, stored_caller(row)?, &events, row.id, claimed)?;
        if session.state != OPEN
            && let Some(live) = self.live(&row.tenant, row.id)
        {
            live.inbox.send(Input::Cancel { reason: "SESSION_ENDED", principal: String::new() });
        }
        Ok(())
    }

    /// All events of a run.
    pub(super) async fn events(&self, tenant: &str, run: uuid::Uuid) -> Result<Vec<EventRow>, Error> {
        let mut events: Vec<EventRow> = Vec::new();
        loop {
            let next = events.last().map_or(0, |row| row.seq + 1);
            let page = self.store().event_read(tenant, run, next, READ_EVENTS, READ_BYTES).await?;
            if page.is_empty() {
                return Ok(events);
            }
            events.extend(page);
        }
    }
}
