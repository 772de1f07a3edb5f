//! The store in one SQLite file: one writer, several readers, one process.
//!
//! Every commit is synced before it is acknowledged (`synchronous = FULL`). A lock file keeps a second process out:
//! SQLite itself would let both write, and each would think that it alone executes the runs.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{
    SqlSafeStr, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::counters::budget::Spend;

use super::{
    Admission, Append, ApprovalPage, ApprovalRow, BudgetKey, BudgetLedger, BudgetStore, Claimed, CommandRow, Error,
    EventRow, Hold, OpenError, Outcome, Page, RequestKey, RunChange, RunRow, SessionLogRow, SessionRow, SliceRow,
    Store,
    append::Scope,
    erasure::{Begun, Extent},
    fault::Fault,
    hook::{Claim, DeadNotice, DeadPage, Due, Hooked},
    timer::{Expiry, Timer},
};

mod approvals;
mod blobs;
mod budgets;
mod claims;
mod commands;
mod erasure;
mod events;
mod expiry;
mod failure;
mod hooks;
mod requests;
mod rows;
mod runs;
mod sessions;
mod timers;

/// How long a call may wait for the writer, or for one of the readers.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long SQLite waits for its own locks: a reader that checkpoints, or another program that looks into the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const READERS: u32 = 4;

/// Sessions, runs and events in a file.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
    /// Held as long as the store is; the system drops it with the process, however that ends.
    _lock: File,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens or creates the file (its directory too) and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another store holds the file; else when it cannot be opened or its schema is newer than this
    /// version.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let lock = lock(&path)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // What is erased is overwritten.
            .pragma("secure_delete", "on")
            .busy_timeout(BUSY_TIMEOUT);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let store = Self {
            writer: pool(1).connect_lazy_with(options.clone()),
            readers: pool(READERS).connect_lazy_with(options.pragma("query_only", "on")),
            path,
            _lock: lock,
        };
        store.migrate().await?;
        Ok(store)
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// When the file cannot be written or its schema is newer than this version.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        migrator().run(&self.writer).await.map_err(|error| match error {
            MigrateError::Execute(error) if failure::passes(&error) => OpenError::Unavailable(error),
            error => OpenError::Migration(error),
        })
    }

    /// Has hooks be told of these tenants' sessions, and of no others, from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn hook(&self, hooked: &Hooked) -> Result<(), Error> {
        answer(hooks::set(&self.writer, hooked).await)
    }

    /// Closes the file: readers first, so that the writer's last connection writes the log back into it.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the advisory lock beside the file.
fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = PathBuf::from(name);
    let failed = |source| OpenError::File { path: lock.clone(), source };
    if let Some(directory) = lock.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

const LATEST: i64 = 1;

fn migrator() -> Migrator {
    let mut migrator = Migrator::with_migrations(vec![Migration::new(
        LATEST,
        "sessions".into(),
        MigrationType::Simple,
        include_str!("../../migrations/sqlite/0001_sessions.sql").into_sql_str(),
        false,
    )]);
    migrator.dangerous_set_table_name("migrations");
    migrator
}

/// What became of a call; nothing is repeated, as no commit's answer is ever lost.
fn answer<T>(result: Result<T, Fault>) -> Result<T, Error> {
    result.map_err(|fault| match fault {
        Fault::Store(error) => error,
        Fault::Sql(error) => failure::classify(error),
    })
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<(), Error> {
        let current: Result<Option<i64>, _> =
            sqlx::query_scalar("SELECT max(version) FROM migrations WHERE success").fetch_one(&self.readers).await;
        match answer(current.map_err(Fault::from))? {
            Some(version) if version >= LATEST => Ok(()),
            _ => Err(Error::Corrupt("schema")),
        }
    }

    async fn session_start(&self, key: &RequestKey, session: &SessionRow) -> Result<Outcome<SessionRow>, Error> {
        answer(sessions::start(&self.writer, key, session).await)
    }

    async fn session_get(&self, tenant: &str, id: Uuid) -> Result<Option<SessionRow>, Error> {
        answer(sessions::read(&self.readers, tenant, id).await)
    }

    async fn session_list(&self, tenant: &str, page: Page) -> Result<Vec<SessionRow>, Error> {
        answer(sessions::list(&self.readers, tenant, page).await)
    }

    async fn session_change(
        &self,
        key: Option<&RequestKey>,
        session: &SessionRow,
    ) -> Result<Option<Outcome<SessionRow>>, Error> {
        answer(sessions::change(&self.writer, key, session).await)
    }

    async fn session_log(&self, tenant: &str, id: Uuid) -> Result<Vec<SessionLogRow>, Error> {
        answer(sessions::log(&self.readers, tenant, id).await)
    }

    async fn run_admit(
        &self,
        key: &RequestKey,
        run: &RunRow,
        first: &EventRow,
        owner: &str,
    ) -> Result<Admission, Error> {
        answer(runs::admit(&self.writer, key, run, first, owner).await)
    }

    async fn child_admit(&self, run: &RunRow, first: &EventRow) -> Result<Admission, Error> {
        answer(runs::admit_child(&self.writer, run, first).await)
    }

    async fn run_get(&self, tenant: &str, id: Uuid) -> Result<Option<RunRow>, Error> {
        answer(runs::read(&self.readers, tenant, id).await)
    }

    async fn run_list(&self, tenant: &str, session: Option<Uuid>, page: Page) -> Result<Vec<RunRow>, Error> {
        answer(runs::list(&self.readers, tenant, session, page).await)
    }

    async fn run_change(&self, tenant: &str, id: Uuid, change: &RunChange) -> Result<bool, Error> {
        answer(runs::change(&self.writer, tenant, id, change).await)
    }

    async fn run_claim(&self, owner: &str, log_version: i32, limit: i64, _: Duration) -> Result<Vec<Claimed>, Error> {
        answer(claims::claim(&self.writer, owner, log_version, limit).await)
    }

    async fn beat(&self, _: &str, _: Duration) -> Result<(), Error> {
        Ok(())
    }

    async fn leave(&self, owner: &str) -> Result<(), Error> {
        answer(claims::leave(&self.writer, owner).await)
    }

    async fn run_park(&self, tenant: &str, run: Uuid, hold: Hold<'_>, wake: OffsetDateTime) -> Result<bool, Error> {
        answer(claims::park(&self.writer, tenant, run, hold, wake).await)
    }

    async fn run_leave(&self, run: Uuid, hold: Hold<'_>, past: i64, rest: Duration) -> Result<bool, Error> {
        answer(claims::leave_run(&self.writer, run, hold, past, rest).await)
    }

    async fn run_held(&self, owner: &str) -> Result<Vec<(Uuid, i64)>, Error> {
        answer(claims::held(&self.readers, owner).await)
    }

    async fn request_seen(&self, tenant: &str, key: &RequestKey) -> Result<Option<bool>, Error> {
        answer(requests::seen(&self.readers, tenant, key).await)
    }

    async fn command_put(
        &self,
        tenant: &str,
        run: Uuid,
        key: Option<&RequestKey>,
        command: &CommandRow,
    ) -> Result<Option<Outcome<Uuid>>, Error> {
        answer(commands::put(&self.writer, tenant, run, key, command).await)
    }

    async fn command_read(&self, tenant: &str, run: Uuid, hold: Hold<'_>) -> Result<Vec<CommandRow>, Error> {
        answer(commands::read(&self.writer, tenant, run, hold).await)
    }

    async fn command_drop(&self, tenant: &str, run: Uuid, ids: &[Uuid]) -> Result<(), Error> {
        answer(commands::drop(&self.writer, tenant, run, ids).await)
    }

    async fn command_runs(&self, owner: &str) -> Result<Vec<Uuid>, Error> {
        answer(commands::runs(&self.readers, owner).await)
    }

    async fn approval_put(&self, tenant: &str, approvals: &[ApprovalRow]) -> Result<(), Error> {
        answer(approvals::put(&self.writer, tenant, approvals).await)
    }

    async fn approval_get(&self, tenant: &str, run: Uuid, id: &str) -> Result<Option<ApprovalRow>, Error> {
        answer(approvals::read(&self.readers, tenant, run, id).await)
    }

    async fn approval_list(&self, tenant: &str, page: &ApprovalPage) -> Result<Vec<ApprovalRow>, Error> {
        answer(approvals::list(&self.readers, tenant, page).await)
    }

    async fn event_append(&self, tenant: &str, session: Uuid, run: Uuid, events: &[EventRow]) -> Result<Append, Error> {
        let Some((first, last)) = super::append::check(events)? else {
            return Ok(Append::Done);
        };
        let scope = Scope { tenant, session, run };
        answer(events::append(&self.writer, scope, events, (first, last)).await)
    }

    async fn event_next(&self, tenant: &str, run: Uuid) -> Result<i64, Error> {
        answer(events::next(&self.readers, tenant, run).await)
    }

    async fn event_read(
        &self,
        tenant: &str,
        run: Uuid,
        from_seq: i64,
        limit: i64,
        max_bytes: usize,
    ) -> Result<Vec<EventRow>, Error> {
        answer(events::read(&self.readers, tenant, run, from_seq, limit, max_bytes).await)
    }

    async fn erasure_begin(
        &self,
        key: Option<&RequestKey>,
        tenant: &str,
        session: Uuid,
        extent: Extent,
    ) -> Result<Begun, Error> {
        answer(erasure::begin(&self.writer, key, tenant, session, extent).await)
    }

    async fn erasure_run(&self, tenant: &str, run: Uuid, summary: &Bytes) -> Result<(), Error> {
        answer(erasure::run(&self.writer, tenant, run, summary).await)
    }

    async fn erasure_blobs(&self, tenant: &str, session: Uuid, limit: i32) -> Result<u64, Error> {
        answer(erasure::blobs(&self.writer, tenant, session, limit).await)
    }

    async fn erasure_finish(&self, session: &SessionRow, extent: Extent) -> Result<(), Error> {
        answer(erasure::finish(&self.writer, session, extent).await)
    }

    async fn session_expire(&self, session: &SessionRow) -> Result<Expiry, Error> {
        answer(expiry::expire(&self.writer, session).await)
    }

    async fn sessions_seen(&self, seen: &[(String, Uuid)]) -> Result<(), Error> {
        answer(expiry::seen(&self.writer, seen).await)
    }

    async fn sessions_past(&self, tenant: &str, retention: Duration, limit: i64) -> Result<Vec<Uuid>, Error> {
        answer(expiry::past(&self.readers, tenant, retention, limit).await)
    }

    async fn timer_claim(&self, limit: i64) -> Result<Vec<Timer>, Error> {
        answer(timers::claim(&self.writer, limit).await)
    }

    async fn timer_put_off(&self, timer: &Timer, span: Duration) -> Result<(), Error> {
        answer(timers::put_off(&self.writer, timer, span).await)
    }

    async fn hook_claim(&self, tenant: &str, hook: &str, limit: i64) -> Result<Vec<Claim>, Error> {
        answer(hooks::claim(&self.writer, tenant, hook, limit).await)
    }

    async fn hook_save(&self, claim: &Claim, cursor: &[u8], attempts: i32, due: Due) -> Result<bool, Error> {
        answer(hooks::save(&self.writer, claim, cursor, attempts, due).await)
    }

    async fn hook_bury(&self, claim: &Claim, cursor: &[u8], dead: &DeadNotice) -> Result<bool, Error> {
        answer(hooks::bury(&self.writer, claim, cursor, dead).await)
    }

    async fn dead_list(&self, tenant: &str, page: &DeadPage) -> Result<Vec<DeadNotice>, Error> {
        answer(hooks::dead_list(&self.readers, tenant, page).await)
    }

    async fn dead_get(&self, tenant: &str, hook: &str, id: &str) -> Result<Option<DeadNotice>, Error> {
        answer(hooks::dead_get(&self.readers, tenant, hook, id).await)
    }

    async fn dead_drop(&self, tenant: &str, hook: &str, id: &str) -> Result<(), Error> {
        answer(hooks::dead_drop(&self.writer, tenant, hook, id).await)
    }

    async fn event_leaves(
        &self,
        tenant: &str,
        run: Uuid,
        from_seq: i64,
        limit: i64,
    ) -> Result<Vec<(i64, Bytes)>, Error> {
        answer(hooks::leaves(&self.readers, tenant, run, from_seq, limit).await)
    }
}

#[async_trait]
impl BudgetStore for SqliteStore {
    async fn budget_generation(&self, tenant: &str, key: &BudgetKey) -> Result<i64, Error> {
        answer(budgets::generation(&self.readers, tenant, key).await)
    }

    async fn budget_raise(&self, tenant: &str, key: &BudgetKey, from: i64) -> Result<Option<BudgetLedger>, Error> {
        answer(budgets::raise(&self.writer, tenant, key, from).await)
    }

    async fn slice_put(
        &self,
        tenant: &str,
        slice: &SliceRow,
        generation: i64,
        reached: [u8; 2],
    ) -> Result<bool, Error> {
        answer(budgets::put(&self.writer, tenant, slice, generation, reached).await)
    }

    async fn slice_list(&self, tenant: &str, run: Uuid) -> Result<Vec<SliceRow>, Error> {
        answer(budgets::list(&self.writer, tenant, run).await)
    }

    async fn slice_close(&self, tenant: &str, id: Uuid, used: Spend) -> Result<(), Error> {
        answer(budgets::close(&self.writer, tenant, id, used).await)
    }
}
