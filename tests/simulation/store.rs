//! The simulated store: one truth, and a connection of each replica to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mar_session::store::{
    Admission, Append, ApprovalPage, ApprovalRow, BlobRow, BlobStore, Claimed, CommandRow, Error, EventRow, Finished,
    Hold, Opening, Outcome, Page, RequestKey, RunChange, RunRow, SessionLogRow, SessionRow, Store, UploadRow,
};
use mar_session::store::{erasure, hook, timer};
use prost::bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::link::{Link, Part, day};
use crate::time::Time;

mod tables;

use tables::Lease;
pub use tables::Tables;

const NOT_SIMULATED: Error = Error::Invalid("not simulated");
/// The truth. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Truth(Arc<Mutex<Tables>>);

impl Truth {
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes back to what was stored before, as a standby does that had not heard the last of its primary; answers the events
    /// that are gone.
    pub fn fall_back(&self, before: Tables) -> Vec<(Uuid, EventRow)> {
        let mut tables = self.tables();
        let kept = |run: &Uuid| before.events.get(run).map_or(0, Vec::len);
        let gone = |(run, rows): (&Uuid, &Vec<EventRow>)| {
            let run = *run;
            rows.iter().skip(kept(&run)).map(move |row| (run, row.clone())).collect::<Vec<_>>()
        };
        let lost = tables.events.iter().flat_map(gone).collect();
        *tables = before;
        lost
    }
}

/// A replica's connection to the truth.
pub struct SimStore {
    pub link: Arc<Link>,
    pub truth: Truth,
}

impl SimStore {
    /// A transaction, whose answer may be lost.
    pub async fn ask<T>(&self, run: Uuid, act: impl FnOnce(&mut Tables, OffsetDateTime) -> T) -> Result<T, Error> {
        let time: &Time = &self.link.time;
        let trip = self.link.trip(Part::Store, run, || act(&mut self.truth.tables(), day(time)));
        trip.await.map_err(|_| Error::Unavailable(sqlx::Error::PoolTimedOut))
    }
}

#[async_trait]
impl Store for SimStore {
    async fn ping(&self) -> Result<(), Error> {
        self.ask(Uuid::nil(), |_, _| ()).await
    }

    async fn session_start(&self, key: &RequestKey, session: &SessionRow) -> Result<Outcome<SessionRow>, Error> {
        self.ask(session.id, |tables, _| tables.session_start(key, session)).await
    }

    async fn session_get(&self, _: &str, id: Uuid) -> Result<Option<SessionRow>, Error> {
        self.ask(id, |tables, _| tables.sessions.get(&id).cloned()).await
    }

    async fn session_list(&self, _: &str, _: Page) -> Result<Vec<SessionRow>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn session_change(
        &self,
        _: Option<&RequestKey>,
        _: &SessionRow,
    ) -> Result<Option<Outcome<SessionRow>>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn session_log(&self, _: &str, id: Uuid) -> Result<Vec<SessionLogRow>, Error> {
        self.ask(id, |tables, _| tables.logs.get(&id).cloned().unwrap_or_default()).await
    }

    async fn run_admit(
        &self,
        key: &RequestKey,
        run: &RunRow,
        first: &EventRow,
        owner: &str,
    ) -> Result<Admission, Error> {
        self.ask(run.id, |tables, _| tables.run_admit(key, run, first, owner)).await
    }

    async fn child_admit(&self, run: &RunRow, first: &EventRow) -> Result<Admission, Error> {
        self.ask(run.id, |tables, now| tables.child_admit(run, first, now)).await
    }

    async fn run_get(&self, _: &str, id: Uuid) -> Result<Option<RunRow>, Error> {
        self.ask(id, |tables, _| tables.runs.get(&id).cloned()).await
    }

    async fn run_list(&self, _: &str, session: Option<Uuid>, page: Page) -> Result<Vec<RunRow>, Error> {
        self.ask(Uuid::nil(), |tables, _| {
            let wanted = |row: &&RunRow| {
                session.is_none_or(|session| row.session == session)
                    && page.state.is_none_or(|state| row.state == state)
                    && page.before.is_none_or(|before| row.id < before)
            };
            let rows = tables.runs.values().rev().filter(wanted).cloned();
            rows.take(usize::try_from(page.limit).unwrap_or(0)).collect()
        })
        .await
    }

    async fn run_change(&self, _: &str, id: Uuid, change: &RunChange) -> Result<bool, Error> {
        self.ask(id, |tables, _| tables.run_change(id, change)).await?
    }

    async fn run_claim(&self, owner: &str, _: i32, limit: i64, patience: Duration) -> Result<Vec<Claimed>, Error> {
        // A claim whose answer was lost is the first of the next one: here it is answered at once.
        let claimed = Mutex::new(Vec::new());
        let keep = |claims| *claimed.lock().unwrap_or_else(PoisonError::into_inner) = claims;
        let asked = self.ask(Uuid::nil(), |tables, now| keep(tables.run_claim(owner, limit, patience, now))).await;
        let claimed = claimed.into_inner().unwrap_or_else(PoisonError::into_inner);
        match asked {
            Err(error) if claimed.is_empty() => Err(error),
            _ => Ok(claimed),
        }
    }

    async fn beat(&self, owner: &str, patience: Duration) -> Result<(), Error> {
        self.ask(Uuid::nil(), |tables, now| tables.beat(owner, patience, now)).await
    }

    async fn leave(&self, owner: &str) -> Result<(), Error> {
        self.ask(Uuid::nil(), |tables, now| tables.leave(owner, now)).await
    }

    async fn run_park(&self, _: &str, run: Uuid, hold: Hold<'_>, wake: OffsetDateTime) -> Result<bool, Error> {
        self.ask(run, |tables, _| tables.run_park(run, hold, wake)).await
    }

    async fn run_leave(&self, run: Uuid, hold: Hold<'_>, past: i64, rest: Duration) -> Result<bool, Error> {
        self.ask(run, |tables, now| tables.run_leave(run, hold, past, now + rest)).await
    }

    async fn run_held(&self, owner: &str) -> Result<Vec<(Uuid, i64)>, Error> {
        self.ask(Uuid::nil(), |tables, _| {
            let held = tables.leases.iter().filter(|(_, lease)| lease.owner.as_deref() == Some(owner));
            held.map(|(run, lease)| (*run, lease.epoch)).collect()
        })
        .await
    }

    async fn request_seen(&self, _: &str, key: &RequestKey) -> Result<Option<bool>, Error> {
        let scope = (key.principal.clone(), key.method, key.request_id.clone());
        self.ask(Uuid::nil(), |tables, _| tables.requests.get(&scope).map(|(digest, _)| *digest == key.digest)).await
    }

    async fn command_put(
        &self,
        _: &str,
        run: Uuid,
        key: Option<&RequestKey>,
        command: &CommandRow,
    ) -> Result<Option<Outcome<Uuid>>, Error> {
        self.ask(run, |tables, now| tables.command_put(run, key, command, now)).await
    }

    async fn command_read(&self, _: &str, run: Uuid, hold: Hold<'_>) -> Result<Vec<CommandRow>, Error> {
        self.ask(run, |tables, _| tables.command_read(run, hold)).await
    }

    async fn command_drop(&self, _: &str, run: Uuid, ids: &[Uuid]) -> Result<(), Error> {
        self.ask(run, |tables, _| {
            if let Some(commands) = tables.commands.get_mut(&run) {
                commands.retain(|id, _| !ids.contains(id));
            }
        })
        .await
    }

    async fn command_runs(&self, owner: &str) -> Result<Vec<Uuid>, Error> {
        self.ask(Uuid::nil(), |tables, _| {
            let due = |lease: &Lease| lease.owner.as_deref() == Some(owner) && lease.wake.is_some();
            tables.leases.iter().filter(|(_, lease)| due(lease)).map(|(run, _)| *run).collect()
        })
        .await
    }

    async fn approval_put(&self, _: &str, approvals: &[ApprovalRow]) -> Result<(), Error> {
        self.ask(approvals.first().map(|row| row.run).unwrap_or_default(), |tables, _| {
            for row in approvals {
                tables.approvals.insert((row.run, row.id.clone()), row.clone());
            }
        })
        .await
    }

    async fn approval_get(&self, _: &str, run: Uuid, id: &str) -> Result<Option<ApprovalRow>, Error> {
        self.ask(run, |tables, _| tables.approvals.get(&(run, id.to_owned())).cloned()).await
    }

    async fn approval_list(&self, _: &str, page: &ApprovalPage) -> Result<Vec<ApprovalRow>, Error> {
        self.ask(page.run.unwrap_or_default(), |tables, _| {
            let wanted = |row: &&ApprovalRow| {
                page.run.is_none_or(|run| row.run == run) && page.state.is_none_or(|state| row.state == state)
            };
            tables.approvals.values().filter(wanted).cloned().collect()
        })
        .await
    }

    async fn event_append(&self, _: &str, _: Uuid, run: Uuid, events: &[EventRow]) -> Result<Append, Error> {
        self.ask(run, |tables, _| tables.event_append(run, events)).await?
    }

    async fn event_next(&self, _: &str, run: Uuid) -> Result<i64, Error> {
        self.ask(run, |tables, _| tables.events.get(&run).map_or(0, |events| events.len() as i64)).await
    }

    async fn event_read(
        &self,
        _: &str,
        run: Uuid,
        from_seq: i64,
        limit: i64,
        _: usize,
    ) -> Result<Vec<EventRow>, Error> {
        self.ask(run, |tables, _| {
            let events = tables.events.get(&run).map_or(&[][..], Vec::as_slice);
            let from = events.iter().filter(|event| event.seq >= from_seq);
            from.take(usize::try_from(limit).unwrap_or(0)).cloned().collect()
        })
        .await
    }

    // What no simulated world asks for stands below; a world that begins to will fail and say so.

    async fn erasure_begin(
        &self,
        _: Option<&RequestKey>,
        _: &str,
        _: Uuid,
        _: erasure::Extent,
    ) -> Result<erasure::Begun, Error> {
        Err(NOT_SIMULATED)
    }

    async fn erasure_run(&self, _: &str, _: Uuid, _: &Bytes) -> Result<(), Error> {
        Err(NOT_SIMULATED)
    }

    async fn erasure_blobs(&self, _: &str, _: Uuid, _: i32) -> Result<u64, Error> {
        Err(NOT_SIMULATED)
    }

    async fn erasure_finish(&self, _: &SessionRow, _: erasure::Extent) -> Result<(), Error> {
        Err(NOT_SIMULATED)
    }

    async fn session_expire(&self, _: &SessionRow) -> Result<timer::Expiry, Error> {
        Err(NOT_SIMULATED)
    }

    async fn sessions_seen(&self, _: &[(String, Uuid)]) -> Result<(), Error> {
        Err(NOT_SIMULATED)
    }

    async fn sessions_past(&self, _: &str, _: Duration, _: i64) -> Result<Vec<Uuid>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn timer_claim(&self, _: i64) -> Result<Vec<timer::Timer>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn timer_put_off(&self, _: &timer::Timer, _: Duration) -> Result<(), Error> {
        Err(NOT_SIMULATED)
    }

    async fn hook_claim(&self, _: &str, _: &str, _: i64) -> Result<Vec<hook::Claim>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn hook_save(&self, _: &hook::Claim, _: &[u8], _: i32, _: hook::Due) -> Result<bool, Error> {
        Err(NOT_SIMULATED)
    }

    async fn hook_bury(&self, _: &hook::Claim, _: &[u8], _: &hook::DeadNotice) -> Result<bool, Error> {
        Err(NOT_SIMULATED)
    }

    async fn dead_list(&self, _: &str, _: &hook::DeadPage) -> Result<Vec<hook::DeadNotice>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn dead_get(&self, _: &str, _: &str, _: &str) -> Result<Option<hook::DeadNotice>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn dead_drop(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        Err(NOT_SIMULATED)
    }

    async fn event_leaves(&self, _: &str, _: Uuid, _: i64, _: i64) -> Result<Vec<(i64, Bytes)>, Error> {
        Err(NOT_SIMULATED)
    }
}

/// No simulated task names a blob.
#[async_trait]
impl BlobStore for SimStore {
    async fn blob_begin(&self, _: &UploadRow, _: i64, _: Duration) -> Result<Opening, Error> {
        Err(NOT_SIMULATED)
    }

    async fn blob_piece(&self, _: &str, _: Uuid, _: i32, _: &Bytes) -> Result<bool, Error> {
        Err(NOT_SIMULATED)
    }

    async fn blob_finish(&self, _: &RequestKey, _: &UploadRow, _: Duration) -> Result<Finished, Error> {
        Err(NOT_SIMULATED)
    }

    async fn blob_abandon(&self, _: &str, _: Uuid, _: Uuid) -> Result<(), Error> {
        Err(NOT_SIMULATED)
    }

    async fn blob_get(&self, _: &str, _: Uuid, _: &[u8; 32]) -> Result<Option<BlobRow>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn blob_read(&self, _: &str, _: Uuid, _: i32) -> Result<Option<Bytes>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn blob_keep(&self, _: &str, _: Uuid, _: &[[u8; 32]]) -> Result<Vec<BlobRow>, Error> {
        Err(NOT_SIMULATED)
    }

    async fn blob_expire(&self, _: &str, _: Uuid) -> Result<(), Error> {
        Err(NOT_SIMULATED)
    }
}
