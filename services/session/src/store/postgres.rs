//! The store on Postgres.
//!
//! A statement that met a dying connection is repeated once on a tested one; every method knows its own first try by the
//! request id, the version or the hashes that it left behind. A hanging or dead server turns into
//! [`Error::Unavailable`] within [`PostgresConfig::bound`].

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection, PgPool, SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use time::OffsetDateTime;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    Admission, Append, ApprovalPage, ApprovalRow, CommandRow, Error, EventRow, Hold, OpenError, Outcome, Page,
    RequestKey, RunChange, RunRow, SessionLogRow, SessionRow, Store, append::Scope, fault::Fault,
};

mod approvals;
mod claims;
mod commands;
mod events;
mod failure;
mod replicas;
mod requests;
mod rows;
mod runs;
mod sessions;

use claims::Claim;

/// Where Postgres is and how long it may take.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// `postgres://…`, a direct connection.
    pub url: SecretString,
    /// Most connections at a time.
    pub max_connections: u32,
    /// How long a call may wait for a connection, connecting included.
    pub connect_timeout: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
}

impl PostgresConfig {
    /// The address with the defaults: 16 connections, 2 s to connect, 5 s per statement.
    #[must_use]
    pub const fn new(url: SecretString) -> Self {
        Self {
            url,
            max_connections: 16,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
        }
    }

    /// After this a call has answered, if only with [`Error::Unavailable`]. A server that is down answers after
    /// `connect_timeout`; the rest is for one that hangs in the middle of a transaction.
    #[must_use]
    pub fn bound(&self) -> Duration {
        self.connect_timeout.saturating_add(self.statement_timeout)
    }
}

/// Sessions, runs and events in Postgres, schema `session`.
pub struct PostgresStore {
    pool: PgPool,
    bound: Duration,
    suspicion: Arc<Suspicion>,
    /// Claims whose commit got no answer: the next claim resolves them, else nobody would execute those runs.
    doubtful: Mutex<Vec<Claim>>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("bound", &self.bound).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// When the address makes no sense, Postgres cannot be reached in time, or the schema is newer than this version.
    pub async fn connect(config: &PostgresConfig) -> Result<Self, OpenError> {
        let suspicion = Arc::new(Suspicion::new(config.max_connections));
        let store = Self {
            pool: pool(config, Arc::clone(&suspicion))?,
            bound: config.bound(),
            suspicion,
            doubtful: Mutex::default(),
        };
        store.migrate().await?;
        Ok(store)
    }

    /// Brings the schema up to date; one of several replicas that start together does it, the others wait.
    ///
    /// # Errors
    /// When Postgres cannot be reached or the schema is newer than this version.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        migrator().run(&self.pool).await.map_err(|error| match error {
            MigrateError::Execute(error) if failure::passes(&error) => OpenError::Unavailable(error),
            error => OpenError::Migration(error),
        })
    }

    /// Closes every connection once its statement has ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs a call, and once more (told so) when its connection died or it lost a race that passes by itself.
    async fn call<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(Try) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Fault>> + Send,
    {
        let both = async {
            match call(Try::First).await {
                Err(Fault::Sql(error)) if failure::may_repeat(&error) => {
                    self.suspicion.raise();
                    tracing::debug!(error = %error, "store call is repeated");
                    call(Try::Again).await
                }
                answer => answer,
            }
        };
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let outcome = tokio::time::timeout(self.bound, both).await;
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Fault::Store(error))) => Err(error),
            Ok(Err(Fault::Sql(error))) => Err(failure::classify(error)),
            Err(elapsed) => {
                self.suspicion.raise();
                Err(Error::Unavailable(sqlx::Error::Io(elapsed.into())))
            }
        }
    }
}

/// Whether a call's first try may have happened already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Try {
    First,
    Again,
}

/// After one connection has died the others are tested before they are used; otherwise a test would cost each call a trip.
#[derive(Debug)]
struct Suspicion {
    connections: u32,
    untested: AtomicU32,
}

impl Suspicion {
    const fn new(connections: u32) -> Self {
        Self { connections, untested: AtomicU32::new(0) }
    }

    fn raise(&self) {
        self.untested.store(self.connections, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.untested.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// Connections idle for longer are tested before use: something between may have dropped them.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(30);

fn pool(config: &PostgresConfig, suspicion: Arc<Suspicion>) -> Result<PgPool, OpenError> {
    let statement_ms = config.statement_timeout.as_millis();
    let url = config.url.expose_secret();
    // The driver would read any scheme as its own.
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(OpenError::Address(sqlx::Error::Configuration("expected postgres://…".into())));
    }
    let options =
        PgConnectOptions::from_str(url).map_err(OpenError::Address)?.application_name("mar-session").options([
            ("statement_timeout", statement_ms),
            ("idle_in_transaction_session_timeout", statement_ms.saturating_mul(2)),
        ]);
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.connect_timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection, metadata| {
            let test = suspicion.take() || metadata.idle_for > TEST_AFTER_IDLE;
            Box::pin(async move {
                if test {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

const LATEST: i64 = 2;

fn migrator() -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(vec![
        migration(1, "sessions", include_str!("../../migrations/postgres/0001_sessions.sql")),
        migration(LATEST, "replicas", include_str!("../../migrations/postgres/0002_replicas.sql")),
    ]);
    migrator.create_schema("session");
    migrator.dangerous_set_table_name("session.migrations");
    migrator
}

#[async_trait]
impl Store for PostgresStore {
    async fn ping(&self) -> Result<(), Error> {
        self.call(|_| async {
            let current: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM session.migrations WHERE success")
                .fetch_one(&self.pool)
                .await?;
            match current {
                Some(version) if version >= LATEST => Ok(()),
                _ => Err(Error::Corrupt("schema").into()),
            }
        })
        .await
    }

    async fn session_start(&self, key: &RequestKey, session: &SessionRow) -> Result<Outcome<SessionRow>, Error> {
        self.call(|_| sessions::start(&self.pool, key, session)).await
    }

    async fn session_get(&self, tenant: &str, id: Uuid) -> Result<Option<SessionRow>, Error> {
        self.call(|_| sessions::read(&self.pool, tenant, id)).await
    }

    async fn session_list(&self, tenant: &str, page: Page) -> Result<Vec<SessionRow>, Error> {
        self.call(|_| sessions::list(&self.pool, tenant, page)).await
    }

    async fn session_change(
        &self,
        key: Option<&RequestKey>,
        session: &SessionRow,
    ) -> Result<Option<Outcome<SessionRow>>, Error> {
        self.call(|which| sessions::change(&self.pool, key, session, which)).await
    }

    async fn session_log(&self, tenant: &str, id: Uuid) -> Result<Vec<SessionLogRow>, Error> {
        self.call(|_| sessions::log(&self.pool, tenant, id)).await
    }

    async fn run_admit(
        &self,
        key: &RequestKey,
        run: &RunRow,
        first: &EventRow,
        owner: &str,
    ) -> Result<Admission, Error> {
        self.call(|_| runs::admit(&self.pool, key, run, first, owner)).await
    }

    async fn run_get(&self, tenant: &str, id: Uuid) -> Result<Option<RunRow>, Error> {
        self.call(|_| runs::read(&self.pool, tenant, id)).await
    }

    async fn run_list(&self, tenant: &str, session: Option<Uuid>, page: Page) -> Result<Vec<RunRow>, Error> {
        self.call(|_| runs::list(&self.pool, tenant, session, page)).await
    }

    async fn run_change(&self, tenant: &str, id: Uuid, change: &RunChange) -> Result<bool, Error> {
        self.call(|which| runs::change(&self.pool, tenant, id, change, which)).await
    }

    async fn run_claim(
        &self,
        owner: &str,
        log_version: i32,
        limit: i64,
        patience: Duration,
    ) -> Result<Vec<(RunRow, i64)>, Error> {
        self.call(|_| claims::claim(&self.pool, owner, log_version, limit, patience, &self.doubtful)).await
    }

    async fn beat(&self, owner: &str) -> Result<(), Error> {
        self.call(|_| replicas::beat(&self.pool, owner)).await
    }

    async fn leave(&self, owner: &str) -> Result<(), Error> {
        self.call(|_| replicas::leave(&self.pool, owner)).await
    }

    async fn run_park(&self, tenant: &str, run: Uuid, hold: Hold<'_>, wake: OffsetDateTime) -> Result<bool, Error> {
        self.call(|_| replicas::park(&self.pool, tenant, run, hold, wake)).await
    }

    async fn request_seen(&self, tenant: &str, key: &RequestKey) -> Result<Option<bool>, Error> {
        self.call(|_| requests::seen(&self.pool, tenant, key)).await
    }

    async fn command_put(
        &self,
        tenant: &str,
        run: Uuid,
        key: Option<&RequestKey>,
        command: &CommandRow,
    ) -> Result<Option<Outcome<Uuid>>, Error> {
        self.call(|_| commands::put(&self.pool, tenant, run, key, command)).await
    }

    async fn command_read(&self, tenant: &str, run: Uuid) -> Result<Vec<CommandRow>, Error> {
        self.call(|_| commands::read(&self.pool, tenant, run)).await
    }

    async fn command_drop(&self, tenant: &str, run: Uuid, ids: &[Uuid]) -> Result<(), Error> {
        self.call(|_| commands::drop(&self.pool, tenant, run, ids)).await
    }

    async fn command_runs(&self, owner: &str) -> Result<Vec<Uuid>, Error> {
        self.call(|_| commands::runs(&self.pool, owner)).await
    }

    async fn approval_put(&self, tenant: &str, approvals: &[ApprovalRow]) -> Result<(), Error> {
        self.call(|_| approvals::put(&self.pool, tenant, approvals)).await
    }

    async fn approval_get(&self, tenant: &str, run: Uuid, id: &str) -> Result<Option<ApprovalRow>, Error> {
        self.call(|_| approvals::read(&self.pool, tenant, run, id)).await
    }

    async fn approval_list(&self, tenant: &str, page: &ApprovalPage) -> Result<Vec<ApprovalRow>, Error> {
        self.call(|_| approvals::list(&self.pool, tenant, page)).await
    }

    async fn event_append(&self, tenant: &str, session: Uuid, run: Uuid, events: &[EventRow]) -> Result<Append, Error> {
        let Some((first, last)) = super::append::check(events)? else {
            return Ok(Append::Done);
        };
        let scope = Scope { tenant, session, run };
        self.call(|_| events::append(&self.pool, scope, events, (first, last))).await
    }

    async fn event_next(&self, tenant: &str, run: Uuid) -> Result<i64, Error> {
        self.call(|_| events::next(&self.pool, tenant, run)).await
    }

    async fn event_read(
        &self,
        tenant: &str,
        run: Uuid,
        from_seq: i64,
        limit: i64,
        max_bytes: usize,
    ) -> Result<Vec<EventRow>, Error> {
        self.call(|_| events::read(&self.pool, tenant, run, from_seq, limit, max_bytes)).await
    }
}
