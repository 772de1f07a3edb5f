//! Connections, and transactions under a role and a tenant.

use std::{
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions},
    query::{Query, QueryScalar},
};

use crate::store::{Error, OpenError, fault::Fault, hook::Hooked};

use super::{
    Pooler, PostgresConfig,
    connections::{Connections, Taken},
    failure,
};

/// The role of everything but claims and retention.
const APPLICATION: &str = "mar_session";
/// The role of claims: it sees ids of all tenants and no payload.
const SCHEDULER: &str = "mar_scheduler";

/// Connections idle for longer are tested before use: something between may have dropped them.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(30);

/// Whether a call's first try may have happened already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Try {
    First,
    Again,
}

/// The connections, each under the role `mar_session` whoever logs in, so that row-level security binds a superuser too.
/// A direct connection has the role from its startup packet; behind a pooler every transaction takes it on.
#[derive(Debug)]
pub(super) struct Database {
    connections: Arc<Connections>,
    pooler: Pooler,
    /// What each transaction sets behind a pooler, as SQL.
    settings: String,
    bound: Duration,
    hooked: Hooked,
    suspicion: Arc<Suspicion>,
}

impl Database {
    /// Connects with the first use.
    pub(super) fn new(config: &PostgresConfig) -> Result<Self, OpenError> {
        let suspicion = Arc::new(Suspicion::new(config.max_connections));
        let statement_ms = config.statement_timeout.as_millis();
        let idle_ms = statement_ms.saturating_mul(2);
        let timeouts = [("statement_timeout", statement_ms), ("idle_in_transaction_session_timeout", idle_ms)];
        let options = options(&config.url)?;
        let (options, settings) = match config.pooler {
            // A plan of its own for each execution costs more than an append does.
            Pooler::None => {
                let defaults = [("role", APPLICATION), ("plan_cache_mode", "force_generic_plan")];
                (options.options(timeouts).options(defaults), String::new())
            }
            // A pooler refuses startup parameters that it does not know, and a session's settings are another's next.
            Pooler::Transaction => {
                let local = |(name, value): (&str, u128)| format!(", set_config('{name}', '{value}', true)");
                (options.extra_float_digits(None), timeouts.map(local).concat())
            }
        };
        let suspect = Arc::clone(&suspicion);
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(config.connect_timeout)
            .test_before_acquire(false)
            .before_acquire(move |connection, metadata| {
                let test = suspect.take() || metadata.idle_for > TEST_AFTER_IDLE;
                Box::pin(async move {
                    if test {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options);
        Ok(Self {
            connections: Arc::new(Connections::new(pool)),
            pooler: config.pooler,
            settings,
            bound: config.bound(),
            hooked: Arc::clone(&config.hooked),
            suspicion,
        })
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }

    /// The hooks that are told of a tenant's sessions.
    pub(super) fn hooks_of(&self, tenant: &str) -> &[String] {
        self.hooked.get(tenant).map(Vec::as_slice).unwrap_or_default()
    }

    /// After this a call has answered.
    pub(super) const fn bound(&self) -> Duration {
        self.bound
    }

    /// Executes a statement that sets its tenant itself, as a transaction of its own; answers the rows that it changed.
    pub(super) async fn execute(
        &self,
        tenant: &str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, sqlx::Error> {
        match self.pooler {
            Pooler::None => {
                let mut taken = self.connections.take().await?;
                let done = query.execute(taken.get_mut()).await?;
                self.connections.hand_on(taken);
                Ok(done.rows_affected())
            }
            Pooler::Transaction => {
                let mut tx = self.begin(tenant).await?;
                let done = query.persistent(false).execute(&mut *tx).await?;
                tx.commit().await?;
                Ok(done.rows_affected())
            }
        }
    }

    /// Begins a transaction that sees and changes rows of one tenant.
    pub(super) async fn begin(&self, tenant: &str) -> Result<Tx, sqlx::Error> {
        self.begin_as(APPLICATION, tenant).await
    }

    /// Begins a transaction that sees and changes the leases of all tenants, and nothing else.
    pub(super) async fn begin_as_scheduler(&self) -> Result<Tx, sqlx::Error> {
        self.begin_as(SCHEDULER, "").await
    }

    /// One trip: a simple query has no parameters, so the tenant is spelled in a form that ends no literal.
    async fn begin_as(&self, role: &'static str, tenant: &str) -> Result<Tx, sqlx::Error> {
        let settings = match (self.pooler, role) {
            (Pooler::None, APPLICATION) => String::new(),
            (Pooler::None, _) => format!(", set_config('role', '{role}', true)"),
            (Pooler::Transaction, _) => format!(", set_config('role', '{role}', true){}", self.settings),
        };
        let tenant = hex::encode(tenant);
        let begin = format!(
            "BEGIN; SELECT set_config('mar.tenant', convert_from(decode('{tenant}', 'hex'), 'UTF8'), true){settings}"
        );
        let taken = Some(self.connections.take().await?);
        let connections = Arc::clone(&self.connections);
        let mut tx = Tx { taken, connections, persistent: self.pooler == Pooler::None };
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *tx).await?;
        Ok(tx)
    }

    /// Runs a call, and once more (told so) when its connection died or it lost a race that passes by itself.
    pub(super) async fn call<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(Try) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Fault>> + Send,
    {
        let both = async {
            match call(Try::First).await {
                Err(Fault::Sql(error)) if failure::may_repeat(&error) => {
                    self.suspect();
                    tracing::debug!(error = %error, "store call is repeated");
                    call(Try::Again).await
                }
                answer => answer,
            }
        };
        match self.within_bound(both).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Fault::Store(error))) => Err(error),
            Ok(Err(Fault::Sql(error))) => Err(failure::classify(error)),
            Err(late) => {
                self.suspect();
                Err(late)
            }
        }
    }

    /// One connection has died or hangs: the others are tested before they are used.
    fn suspect(&self) {
        self.suspicion.raise();
        self.connections.give_back();
    }

    /// Gives an answer up after the bound.
    pub(super) async fn within_bound<T>(&self, answer: impl Future<Output = T>) -> Result<T, Error> {
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let outcome = tokio::time::timeout(self.bound, answer).await;
        outcome.map_err(|elapsed| Error::Unavailable(sqlx::Error::Io(elapsed.into())))
    }
}

/// The address, read strictly: the driver would read any scheme as its own.
pub(super) fn options(url: &SecretString) -> Result<PgConnectOptions, OpenError> {
    let url = url.expose_secret();
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(OpenError::Address(sqlx::Error::Configuration("expected postgres://…".into())));
    }
    Ok(PgConnectOptions::from_str(url).map_err(OpenError::Address)?.application_name("mar-session"))
}

/// A transaction under a role and a tenant; both end with it. Dropped before its end, its connection is closed: one that
/// was given up in the middle of a statement, of the first above all, may be in a transaction that nobody knows of, and
/// what comes next on it would run under another's role and tenant and be rolled back with it.
#[derive(Debug)]
pub(super) struct Tx {
    /// None once the transaction has ended.
    taken: Option<Taken>,
    connections: Arc<Connections>,
    persistent: bool,
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            taken.forsake();
        }
    }
}

impl Tx {
    /// A statement; prepared for the connection's life where the connection is ours.
    pub(super) fn query<'q>(&self, sql: &'static str) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(sql).persistent(self.persistent)
    }

    /// A statement that answers one column.
    pub(super) fn query_scalar<'q, T>(&self, sql: &'static str) -> QueryScalar<'q, Postgres, T, PgArguments>
    where
        (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        sqlx::query_scalar(sql).persistent(self.persistent)
    }

    /// Leaves the scheduler's role for a tenant's rows.
    pub(super) async fn turn_to(&mut self, tenant: &str) -> Result<(), sqlx::Error> {
        let query = self.query("SELECT set_config('role', $2, true), set_config('mar.tenant', $1, true)");
        query.bind(tenant).bind(APPLICATION).execute(&mut **self).await?;
        Ok(())
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.end("COMMIT").await
    }

    /// Ends a transaction that only read.
    pub(super) async fn done(mut self) -> Result<(), sqlx::Error> {
        self.end("ROLLBACK").await
    }

    async fn end(&mut self, how: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(how).execute(&mut **self).await?;
        if let Some(taken) = self.taken.take() {
            self.connections.hand_on(taken);
        }
        Ok(())
    }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.taken {
            Some(taken) => taken.get(),
            None => unreachable!("what ends a transaction takes it"),
        }
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.taken {
            Some(taken) => taken.get_mut(),
            None => unreachable!("what ends a transaction takes it"),
        }
    }
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
