//! The store on Postgres.
//!
//! A statement that met a dying connection is repeated once on a tested one; every method knows its own first try by the
//! request id, the version or the hashes that it left behind. A hanging or dead server turns into
//! [`Error::Unavailable`] within [`PostgresConfig::bound`].
//!
//! **Invariant:** every statement runs under the role `mar_session` for one tenant, or as `mar_scheduler` for leases alone,
//! whoever logs in; row-level security is forced on every table with a tenant.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use mar_postgres::{Migration, Schema};
use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;

use crate::counters::budget::Spend;

use super::{
    Admission, Append, ApprovalPage, ApprovalRow, BudgetKey, BudgetLedger, BudgetStore, Claimed, CommandRow, Error,
    EventRow, Hold, Outcome, Page, Promotion, RequestKey, RunChange, RunRow, SessionLogRow, SessionRow, SliceRow,
    Store,
    append::{self, Scope},
    erasure::{Begun, Extent},
    hook::{self, DeadNotice, DeadPage, Due, Hooked},
    timer::{Expiry, Timer},
};

mod appends;
mod approvals;
mod blobs;
mod budgets;
mod claims;
mod commands;
mod database;
mod erasure;
mod events;
mod expiry;
mod failure;
mod hooks;
mod partitions;
mod replicas;
mod requests;
mod rows;
mod runs;
mod sessions;
mod timeline;
mod timers;

use appends::Appends;
use claims::Claim;
use database::Database;

pub use mar_postgres::{Config as PostgresConfig, OpenError, Pooler};

/// The schema, and the role `mar_session` of everything but claims and retention.
pub static SCHEMA: Schema = Schema {
    name: "session",
    role: "mar_session",
    program: "session",
    holds: "the session store",
    migrations: &[Migration {
        version: 1,
        name: "sessions",
        sql: include_str!("../../migrations/postgres/0001_sessions.sql"),
    }],
};

/// Sessions, runs and events in Postgres, schema `session`.
pub struct PostgresStore {
    db: Arc<Database>,
    appends: Appends,
    /// Claims whose commit got no answer: the next claim resolves them, else nobody would execute those runs.
    doubtful: Mutex<Vec<Claim>>,
    timeline: Mutex<timeline::Seen>,
    /// Ends the upkeep with the store.
    _upkeep: DropGuard,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("bound", &self.db.bound()).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// [`PostgresStore::connect_with_hooks`] without any.
    ///
    /// # Errors
    /// As there.
    pub async fn connect(config: &PostgresConfig) -> Result<Self, OpenError> {
        Self::connect_with_hooks(config, Hooked::default()).await
    }

    /// Connects, where configured after bringing the schema up to date. The hooks are told of these tenants' sessions.
    ///
    /// # Errors
    /// When the address makes no sense, Postgres cannot be reached in time, or the schema is not the one of this version.
    pub async fn connect_with_hooks(config: &PostgresConfig, hooked: Hooked) -> Result<Self, OpenError> {
        let db = Arc::new(Database::open(config, hooked).await?);
        let stop = CancellationToken::new();
        TaskTracker::new().spawn(partitions::keep_up(Arc::clone(&db), stop.clone()));
        let appends = Appends::new(Arc::clone(&db));
        Ok(Self { db, appends, doubtful: Mutex::default(), timeline: Mutex::default(), _upkeep: stop.drop_guard() })
    }

    /// Closes every connection once its statement has ended.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn ping(&self) -> Result<(), Error> {
        if self.db.version().await? >= SCHEMA.latest() { Ok(()) } else { Err(Error::Corrupt("schema")) }
    }

    async fn session_start(&self, key: &RequestKey, session: &SessionRow) -> Result<Outcome<SessionRow>, Error> {
        self.db.call(|_| sessions::start(&self.db, key, session)).await
    }

    async fn session_get(&self, tenant: &str, id: Uuid) -> Result<Option<SessionRow>, Error> {
        self.db.call(|_| sessions::read(&self.db, tenant, id)).await
    }

    async fn session_list(&self, tenant: &str, page: Page) -> Result<Vec<SessionRow>, Error> {
        self.db.call(|_| sessions::list(&self.db, tenant, page)).await
    }

    async fn session_change(
        &self,
        key: Option<&RequestKey>,
        session: &SessionRow,
    ) -> Result<Option<Outcome<SessionRow>>, Error> {
        self.db.call(|which| sessions::change(&self.db, key, session, which)).await
    }

    async fn session_log(&self, tenant: &str, id: Uuid) -> Result<Vec<SessionLogRow>, Error> {
        self.db.call(|_| sessions::log(&self.db, tenant, id)).await
    }

    async fn run_admit(
        &self,
        key: &RequestKey,
        run: &RunRow,
        first: &EventRow,
        owner: &str,
    ) -> Result<Admission, Error> {
        self.db.call(|_| runs::admit(&self.db, key, run, first, owner)).await
    }

    async fn child_admit(&self, run: &RunRow, first: &EventRow) -> Result<Admission, Error> {
        self.db.call(|_| runs::admit_child(&self.db, run, first)).await
    }

    async fn run_get(&self, tenant: &str, id: Uuid) -> Result<Option<RunRow>, Error> {
        self.db.call(|_| runs::read(&self.db, tenant, id)).await
    }

    async fn run_list(&self, tenant: &str, session: Option<Uuid>, page: Page) -> Result<Vec<RunRow>, Error> {
        self.db.call(|_| runs::list(&self.db, tenant, session, page)).await
    }

    async fn run_change(&self, tenant: &str, id: Uuid, change: &RunChange) -> Result<bool, Error> {
        self.db.call(|which| runs::change(&self.db, tenant, id, change, which)).await
    }

    async fn run_claim(
        &self,
        owner: &str,
        log_version: i32,
        limit: i64,
        patience: Duration,
    ) -> Result<Vec<Claimed>, Error> {
        let who = claims::Claimant { owner, log_version, patience };
        self.db.call(|_| claims::claim(&self.db, who, limit, &self.doubtful)).await
    }

    async fn beat(&self, owner: &str, patience: Duration) -> Result<(), Error> {
        self.db.call(|_| replicas::beat(&self.db, owner, patience)).await
    }

    async fn leave(&self, owner: &str) -> Result<(), Error> {
        self.db.call(|_| replicas::leave(&self.db, owner)).await
    }

    async fn run_park(&self, tenant: &str, run: Uuid, hold: Hold<'_>, wake: OffsetDateTime) -> Result<bool, Error> {
        self.db.call(|_| replicas::park(&self.db, tenant, run, hold, wake)).await
    }

    async fn run_leave(&self, run: Uuid, hold: Hold<'_>, past: i64, rest: Duration) -> Result<bool, Error> {
        self.db.call(|_| replicas::leave_run(&self.db, run, hold, past, rest)).await
    }

    async fn promotion(&self) -> Result<Option<Promotion>, Error> {
        self.db.call(|_| timeline::look(&self.db, &self.timeline)).await
    }

    async fn run_held(&self, owner: &str) -> Result<Vec<(Uuid, i64)>, Error> {
        self.db.call(|_| replicas::held(&self.db, owner)).await
    }

    async fn request_seen(&self, tenant: &str, key: &RequestKey) -> Result<Option<bool>, Error> {
        self.db.call(|_| requests::seen(&self.db, tenant, key)).await
    }

    async fn command_put(
        &self,
        tenant: &str,
        run: Uuid,
        key: Option<&RequestKey>,
        command: &CommandRow,
    ) -> Result<Option<Outcome<Uuid>>, Error> {
        self.db.call(|which| commands::put(&self.db, tenant, run, key, command, which)).await
    }

    async fn command_read(&self, tenant: &str, run: Uuid, hold: Hold<'_>) -> Result<Vec<CommandRow>, Error> {
        self.db.call(|_| commands::read(&self.db, tenant, run, hold)).await
    }

    async fn command_drop(&self, tenant: &str, run: Uuid, ids: &[Uuid]) -> Result<(), Error> {
        self.db.call(|_| commands::drop(&self.db, tenant, run, ids)).await
    }

    async fn command_runs(&self, owner: &str) -> Result<Vec<Uuid>, Error> {
        self.db.call(|_| commands::runs(&self.db, owner)).await
    }

    async fn approval_put(&self, tenant: &str, approvals: &[ApprovalRow]) -> Result<(), Error> {
        self.db.call(|_| approvals::put(&self.db, tenant, approvals)).await
    }

    async fn approval_get(&self, tenant: &str, run: Uuid, id: &str) -> Result<Option<ApprovalRow>, Error> {
        self.db.call(|_| approvals::read(&self.db, tenant, run, id)).await
    }

    async fn approval_list(&self, tenant: &str, page: &ApprovalPage) -> Result<Vec<ApprovalRow>, Error> {
        self.db.call(|_| approvals::list(&self.db, tenant, page)).await
    }

    async fn event_next(&self, tenant: &str, run: Uuid) -> Result<i64, Error> {
        self.db.call(|_| events::next(&self.db, tenant, run)).await
    }

    async fn event_append(&self, tenant: &str, session: Uuid, run: Uuid, events: &[EventRow]) -> Result<Append, Error> {
        let Some((first, _)) = append::check(events)? else {
            return Ok(Append::Done);
        };
        let scope = Scope { tenant, session, run };
        if append::all_inline(events) {
            return self.appends.append(scope, events).await;
        }
        // Seldom, and large: apart from what every append carries along.
        Box::pin(self.db.call(|_| events::append_with_blobs(&self.db, scope, events, first))).await
    }

    async fn event_read(
        &self,
        tenant: &str,
        run: Uuid,
        from_seq: i64,
        limit: i64,
        max_bytes: usize,
    ) -> Result<Vec<EventRow>, Error> {
        self.db.call(|_| events::read(&self.db, tenant, run, from_seq, limit, max_bytes)).await
    }

    async fn erasure_begin(
        &self,
        key: Option<&RequestKey>,
        tenant: &str,
        session: Uuid,
        extent: Extent,
    ) -> Result<Begun, Error> {
        self.db.call(|_| erasure::begin(&self.db, key, tenant, session, extent)).await
    }

    async fn erasure_run(&self, tenant: &str, run: Uuid, summary: &Bytes) -> Result<(), Error> {
        self.db.call(|_| erasure::run(&self.db, tenant, run, summary)).await
    }

    async fn erasure_blobs(&self, tenant: &str, session: Uuid, limit: i32) -> Result<u64, Error> {
        self.db.call(|_| erasure::blobs(&self.db, tenant, session, limit)).await
    }

    async fn erasure_finish(&self, session: &SessionRow, extent: Extent) -> Result<(), Error> {
        self.db.call(|_| erasure::finish(&self.db, session, extent)).await
    }

    async fn session_expire(&self, session: &SessionRow) -> Result<Expiry, Error> {
        self.db.call(|_| expiry::expire(&self.db, session)).await
    }

    async fn sessions_seen(&self, seen: &[(String, Uuid)]) -> Result<(), Error> {
        self.db.call(|_| expiry::seen(&self.db, seen)).await
    }

    async fn sessions_past(&self, tenant: &str, retention: Duration, limit: i64) -> Result<Vec<Uuid>, Error> {
        self.db.call(|_| expiry::past(&self.db, tenant, retention, limit)).await
    }

    async fn timer_claim(&self, limit: i64) -> Result<Vec<Timer>, Error> {
        self.db.call(|_| timers::claim(&self.db, limit)).await
    }

    async fn timer_put_off(&self, timer: &Timer, span: Duration) -> Result<(), Error> {
        self.db.call(|_| timers::put_off(&self.db, timer, span)).await
    }

    async fn hook_claim(&self, tenant: &str, hook: &str, limit: i64) -> Result<Vec<hook::Claim>, Error> {
        self.db.call(|_| hooks::claim(&self.db, tenant, hook, limit)).await
    }

    async fn hook_save(&self, claim: &hook::Claim, cursor: &[u8], attempts: i32, due: Due) -> Result<bool, Error> {
        self.db.call(|_| hooks::save(&self.db, claim, cursor, attempts, due)).await
    }

    async fn hook_bury(&self, claim: &hook::Claim, cursor: &[u8], dead: &DeadNotice) -> Result<bool, Error> {
        self.db.call(|_| hooks::bury(&self.db, claim, cursor, dead)).await
    }

    async fn dead_list(&self, tenant: &str, page: &DeadPage) -> Result<Vec<DeadNotice>, Error> {
        self.db.call(|_| hooks::dead_list(&self.db, tenant, page)).await
    }

    async fn dead_get(&self, tenant: &str, hook: &str, id: &str) -> Result<Option<DeadNotice>, Error> {
        self.db.call(|_| hooks::dead_get(&self.db, tenant, hook, id)).await
    }

    async fn dead_drop(&self, tenant: &str, hook: &str, id: &str) -> Result<(), Error> {
        self.db.call(|_| hooks::dead_drop(&self.db, tenant, hook, id)).await
    }

    async fn event_leaves(
        &self,
        tenant: &str,
        run: Uuid,
        from_seq: i64,
        limit: i64,
    ) -> Result<Vec<(i64, Bytes)>, Error> {
        self.db.call(|_| hooks::leaves(&self.db, tenant, run, from_seq, limit)).await
    }
}

#[async_trait]
impl BudgetStore for PostgresStore {
    async fn budget_generation(&self, tenant: &str, key: &BudgetKey) -> Result<i64, Error> {
        self.db.call(|_| budgets::generation(&self.db, tenant, key)).await
    }

    async fn budget_raise(&self, tenant: &str, key: &BudgetKey, from: i64) -> Result<Option<BudgetLedger>, Error> {
        self.db.call(|_| budgets::raise(&self.db, tenant, key, from)).await
    }

    async fn slice_put(
        &self,
        tenant: &str,
        slice: &SliceRow,
        generation: i64,
        reached: [u8; 2],
    ) -> Result<bool, Error> {
        self.db.call(|_| budgets::put(&self.db, tenant, slice, generation, reached)).await
    }

    async fn slice_list(&self, tenant: &str, run: Uuid) -> Result<Vec<SliceRow>, Error> {
        self.db.call(|_| budgets::list(&self.db, tenant, run)).await
    }

    async fn slice_close(&self, tenant: &str, id: Uuid, used: Spend) -> Result<(), Error> {
        self.db.call(|_| budgets::close(&self.db, tenant, id, used)).await
    }
}
