//! The store on Postgres, schema `agent`.
//!
//! **Invariant:** every statement runs under the role `mar_agent` for one tenant, whoever logs in; row-level security is forced
//! on every table with a tenant. The role can neither update nor delete.

use async_trait::async_trait;
use mar_descriptor::{Hash, SealedDescriptor};
use mar_postgres::{Database, Migration, Schema};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::{Error, Store, Stored, read, write};

pub use mar_postgres::{Config as PostgresConfig, OpenError, Pooler};

/// The schema, and the role `mar_agent` of all statements.
pub static SCHEMA: Schema = Schema {
    name: "agent",
    role: "mar_agent",
    program: "agent-generator",
    holds: "the descriptor store",
    migrations: &[Migration {
        version: 1,
        name: "descriptors",
        sql: include_str!("../../migrations/postgres/0001_descriptors.sql"),
    }],
};

/// A further row where the last sealing is another, or there is none. Of two that come at a time one is the last.
const PUT: &str = "\
    INSERT INTO agent.descriptors (tenant, hash, sealing, envelope, create_time) \
    SELECT $1::text, $2::bytea, coalesce(max(sealing), 0) + 1, $3::text, coalesce(min(create_time), $4::timestamptz) \
    FROM agent.descriptors WHERE tenant = $1::text AND hash = $2::bytea \
    HAVING (array_agg(envelope ORDER BY sealing DESC))[1] IS DISTINCT FROM $3::text \
    ON CONFLICT (tenant, hash, sealing) DO NOTHING";

const GET: &str = "\
    SELECT envelope, create_time FROM agent.descriptors \
    WHERE tenant = $1 AND hash = $2 ORDER BY sealing DESC LIMIT 1";

/// Descriptors in Postgres.
#[derive(Debug)]
pub struct PostgresStore {
    db: Database,
}

impl PostgresStore {
    /// Connects, where configured after bringing the schema up to date.
    ///
    /// # Errors
    /// When the address makes no sense, Postgres cannot be reached in time, or the schema is not the one of this version.
    pub async fn connect(config: &PostgresConfig) -> Result<Self, OpenError> {
        Ok(Self { db: SCHEMA.open(config).await? })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

async fn put(db: &Database, tenant: &str, hash: Hash, envelope: &str, now: OffsetDateTime) -> Result<(), sqlx::Error> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(PUT).bind(tenant).bind(hash.as_bytes().as_slice()).bind(envelope).bind(now);
    query.execute(&mut *tx).await?;
    tx.commit().await
}

async fn get(db: &Database, tenant: &str, hash: Hash) -> Result<Option<PgRow>, sqlx::Error> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(GET).bind(tenant).bind(hash.as_bytes().as_slice());
    let row = query.fetch_optional(&mut *tx).await?;
    tx.done().await?;
    Ok(row)
}

#[async_trait]
impl Store for PostgresStore {
    async fn ping(&self) -> Result<(), Error> {
        SCHEMA.version(&self.db).await.map(drop).map_err(Error::Unavailable)
    }

    async fn descriptor_put(
        &self,
        tenant: &str,
        descriptor: &SealedDescriptor,
        now: OffsetDateTime,
    ) -> Result<(), Error> {
        let (hash, envelope) = (descriptor.hash, write(descriptor)?);
        self.db.call(|_| put(&self.db, tenant, hash, &envelope, now)).await.map_err(Error::Unavailable)
    }

    async fn descriptor_get(&self, tenant: &str, hash: Hash) -> Result<Option<Stored>, Error> {
        let row = self.db.call(|_| get(&self.db, tenant, hash)).await.map_err(Error::Unavailable)?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (envelope, time) = (row.try_get::<String, _>(0), row.try_get(1));
        let (Ok(envelope), Ok(time)) = (envelope, time) else {
            return Err(Error::Corrupt(hash));
        };
        read(hash, &envelope, time).map(Some)
    }
}
