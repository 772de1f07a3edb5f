//! The store on Postgres, schema `agent`. Every call is one statement, so it works behind a transaction-pooling proxy.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use mar_descriptor::{Hash, SealedDescriptor};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row as _};
use time::OffsetDateTime;

use super::{Error, Store, Stored, migrations, read, write};

const SCHEMA: &str = "agent";
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "descriptors", include_str!("../../migrations/postgres/0001_descriptors.sql"))];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Descriptors in Postgres. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: PgPool,
}

impl PostgresStore {
    /// Connects and brings the schema up to date. Of several replicas that start together one does it.
    ///
    /// # Errors
    /// The URL is none, Postgres cannot be reached, or its schema is newer than this version.
    pub async fn connect(url: &SecretString, max_connections: u32) -> Result<Self, MigrateError> {
        let options = PgConnectOptions::from_str(url.expose_secret())?;
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options);
        let mut migrator = migrations::migrator(&MIGRATIONS);
        migrator.create_schema(SCHEMA);
        migrator.dangerous_set_table_name(format!("{SCHEMA}._sqlx_migrations"));
        migrator.run(&pool).await?;
        Ok(Self { pool })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A server that hangs is as good as one that is away.
async fn bounded<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
    let outcome = tokio::time::timeout(CONNECT_TIMEOUT + STATEMENT_TIMEOUT, work).await;
    outcome.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(Error::Unavailable)
}

#[async_trait]
impl Store for PostgresStore {
    async fn ping(&self) -> Result<(), Error> {
        bounded(sqlx::query("SELECT 1").persistent(false).execute(&self.pool)).await.map(drop)
    }

    async fn descriptor_put(
        &self,
        tenant: &str,
        descriptor: &SealedDescriptor,
        now: OffsetDateTime,
    ) -> Result<(), Error> {
        let envelope = write(descriptor)?;
        let query = sqlx::query(
            "INSERT INTO agent.descriptors (tenant, hash, envelope, create_time) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, hash) DO UPDATE SET envelope = excluded.envelope \
             WHERE agent.descriptors.envelope <> excluded.envelope",
        )
        .bind(tenant)
        .bind(descriptor.hash.as_bytes().as_slice())
        .bind(envelope)
        .bind(now);
        bounded(query.execute(&self.pool)).await.map(drop)
    }

    async fn descriptor_get(&self, tenant: &str, hash: Hash) -> Result<Option<Stored>, Error> {
        let query = sqlx::query("SELECT envelope, create_time FROM agent.descriptors WHERE tenant = $1 AND hash = $2")
            .bind(tenant)
            .bind(hash.as_bytes().as_slice());
        let Some(row) = bounded(query.fetch_optional(&self.pool)).await? else {
            return Ok(None);
        };
        let (envelope, time) = (row.try_get::<String, _>(0), row.try_get(1));
        let (Ok(envelope), Ok(time)) = (envelope, time) else {
            return Err(Error::Corrupt(hash));
        };
        read(hash, &envelope, time).map(Some)
    }
}
