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

use crate::{
    Config, OpenError, Pooler, Schema,
    connections::{Connections, Taken},
    failure, is_postgres,
};

/// Connections idle for longer are tested before use: something between may have dropped them.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(30);

/// Whether a call's first try may have happened already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Try {
    /// It has not.
    First,
    /// The first try got no answer, or lost a race.
    Again,
}

/// What a call fails with.
pub trait Fault: From<sqlx::Error> {
    /// What the driver said, where it is that. The call may be repeated for it; another fault is final.
    fn sql(&self) -> Option<&sqlx::Error>;
}

impl Fault for sqlx::Error {
    fn sql(&self) -> Option<&sqlx::Error> {
        Some(self)
    }
}

/// The connections, each under the service's role whoever logs in, so that row-level security binds a superuser too.
/// A direct connection has the role from its startup packet; behind a pooler every transaction takes it on.
#[derive(Debug)]
pub struct Database {
    connections: Arc<Connections>,
    role: &'static str,
    pooler: Pooler,
    /// What each transaction sets behind a pooler, as SQL.
    settings: String,
    bound: Duration,
    suspicion: Arc<Suspicion>,
}

impl Database {
    /// Connects with the first use.
    pub(crate) fn new(config: &Config, schema: &Schema) -> Result<Self, OpenError> {
        let suspicion = Arc::new(Suspicion::new(config.max_connections));
        let statement_ms = config.statement_timeout.as_millis();
        let idle_ms = statement_ms.saturating_mul(2);
        let timeouts = [("statement_timeout", statement_ms), ("idle_in_transaction_session_timeout", idle_ms)];
        let options = options(&config.url, schema.program)?;
        let (options, settings) = match config.pooler {
            // A plan of its own for each execution costs more than an append does.
            Pooler::None => {
                let defaults = [("role", schema.role), ("plan_cache_mode", "force_generic_plan")];
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
            role: schema.role,
            pooler: config.pooler,
            settings,
            bound: config.bound(),
            suspicion,
        })
    }

    /// Closes every connection once its statement has ended.
    pub async fn close(&self) {
        self.connections.close().await;
    }

    /// After this a call has answered.
    #[must_use]
    pub const fn bound(&self) -> Duration {
        self.bound
    }

    /// Executes a statement that sets its tenant itself, as a transaction of its own; answers the rows that it changed.
    ///
    /// # Errors
    /// Postgres gives no answer, or refuses.
    pub async fn execute(&self, tenant: &str, query: Query<'_, Postgres, PgArguments>) -> Result<u64, sqlx::Error> {
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
    ///
    /// # Errors
    /// There is no connection in time, or the login may not take on the role.
    pub async fn begin(&self, tenant: &str) -> Result<Tx, sqlx::Error> {
        self.begin_as(self.role, tenant).await
    }

    /// Begins a transaction under another role than the service's.
    ///
    /// # Errors
    /// As [`Database::begin`].
    pub async fn begin_as(&self, role: &'static str, tenant: &str) -> Result<Tx, sqlx::Error> {
        let settings = match self.pooler {
            Pooler::None if role == self.role => String::new(),
            Pooler::None => format!(", set_config('role', '{role}', true)"),
            Pooler::Transaction => format!(", set_config('role', '{role}', true){}", self.settings),
        };
        // One trip: a simple query has no parameters, so the tenant is spelled in a form that ends no literal.
        let tenant = hex::encode(tenant);
        let begin = format!(
            "BEGIN; SELECT set_config('mar.tenant', convert_from(decode('{tenant}', 'hex'), 'UTF8'), true){settings}"
        );
        let taken = Some(self.connections.take().await?);
        let connections = Arc::clone(&self.connections);
        let mut tx = Tx { taken, connections, home: self.role, persistent: self.pooler == Pooler::None };
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *tx).await?;
        Ok(tx)
    }

    /// Runs a call, and once more (told so) when its connection died or it lost a race that passes by itself.
    ///
    /// # Errors
    /// What the call failed with, and a driver's error when it has no answer within the bound.
    pub async fn call<T, E, F, Fut>(&self, call: F) -> Result<T, E>
    where
        E: Fault + Send,
        F: Fn(Try) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let both = async {
            let answer = call(Try::First).await;
            if !answer.as_ref().err().and_then(Fault::sql).is_some_and(|error| self.shall_repeat(error)) {
                return answer;
            }
            call(Try::Again).await
        };
        match self.within_bound(both).await {
            Ok(answer) => answer,
            Err(late) => {
                self.suspect();
                Err(late.into())
            }
        }
    }

    fn shall_repeat(&self, error: &sqlx::Error) -> bool {
        let repeats = failure::may_repeat(error);
        if repeats {
            self.suspect();
            tracing::debug!(error = %error, "store call is repeated");
        }
        repeats
    }

    /// One connection has died or hangs: the others are tested before they are used.
    fn suspect(&self) {
        self.suspicion.raise();
        self.connections.give_back();
    }

    /// Gives an answer up after the bound.
    ///
    /// # Errors
    /// It was given up.
    pub async fn within_bound<T>(&self, answer: impl Future<Output = T>) -> Result<T, sqlx::Error> {
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let outcome = tokio::time::timeout(self.bound, answer).await;
        outcome.map_err(|elapsed| sqlx::Error::Io(elapsed.into()))
    }
}

/// The address, read strictly: the driver would read any scheme as its own.
pub(crate) fn options(url: &SecretString, program: &str) -> Result<PgConnectOptions, OpenError> {
    let url = url.expose_secret();
    if !is_postgres(url) {
        return Err(OpenError::Address(sqlx::Error::Configuration("expected postgres://…".into())));
    }
    let options = PgConnectOptions::from_str(url).map_err(OpenError::Address)?;
    Ok(options.application_name(&format!("mar-{program}")))
}

/// A transaction under a role and a tenant; both end with it. Dropped before its end, its connection is closed: one that
/// was given up in the middle of a statement, of the first above all, may be in a transaction that nobody knows of, and
/// what comes next on it would run under another's role and tenant and be rolled back with it.
#[derive(Debug)]
pub struct Tx {
    /// None once the transaction has ended.
    taken: Option<Taken>,
    connections: Arc<Connections>,
    /// The service's role.
    home: &'static str,
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
    pub fn query<'q>(&self, sql: &'static str) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(sql).persistent(self.persistent)
    }

    /// A statement that answers one column.
    pub fn query_scalar<'q, T>(&self, sql: &'static str) -> QueryScalar<'q, Postgres, T, PgArguments>
    where
        (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        sqlx::query_scalar(sql).persistent(self.persistent)
    }

    /// Leaves another role than the service's for a tenant's rows.
    ///
    /// # Errors
    /// Postgres gives no answer, or refuses.
    pub async fn turn_to(&mut self, tenant: &str) -> Result<(), sqlx::Error> {
        let query = self.query("SELECT set_config('role', $2, true), set_config('mar.tenant', $1, true)");
        query.bind(tenant).bind(self.home).execute(&mut **self).await?;
        Ok(())
    }

    /// Ends a transaction that changed something.
    ///
    /// # Errors
    /// It may have been committed or not when there is no answer; else it was not.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.end("COMMIT").await
    }

    /// Ends a transaction that only read.
    ///
    /// # Errors
    /// Postgres gives no answer.
    pub async fn done(mut self) -> Result<(), sqlx::Error> {
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
