//! The store in a SQLite file of its own.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use mar_descriptor::{Hash, SealedDescriptor};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, SqlSafeStr as _, SqlitePool};
use time::OffsetDateTime;

use super::{Error, Store, Stored, read, write};

const DESCRIPTORS: &str = include_str!("../../migrations/sqlite/0001_descriptors.sql");
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

/// Descriptors in SQLite: one connection writes, several read. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    pub(super) writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, makes it when it is not there, and brings it up to date.
    ///
    /// # Errors
    /// The file cannot be opened, is no database, or is newer than this version.
    pub async fn open(path: &Path) -> Result<Self, MigrateError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        migrator().run(&writer).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers })
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn migrator() -> Migrator {
    let first = Migration::new(1, "descriptors".into(), MigrationType::Simple, DESCRIPTORS.into_sql_str(), false);
    Migrator::with_migrations(vec![first])
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.readers).await.map(drop).map_err(Error::Unavailable)
    }

    async fn descriptor_put(
        &self,
        tenant: &str,
        descriptor: &SealedDescriptor,
        now: OffsetDateTime,
    ) -> Result<(), Error> {
        let envelope = write(descriptor)?;
        let micros = i64::try_from(now.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
        sqlx::query(
            "INSERT INTO descriptors (tenant, hash, envelope, create_time_us) VALUES (?, ?, ?, ?) \
             ON CONFLICT (tenant, hash) DO UPDATE SET envelope = excluded.envelope \
             WHERE descriptors.envelope <> excluded.envelope",
        )
        .bind(tenant)
        .bind(descriptor.hash.as_bytes().as_slice())
        .bind(envelope)
        .bind(micros)
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(Error::Unavailable)
    }

    async fn descriptor_get(&self, tenant: &str, hash: Hash) -> Result<Option<Stored>, Error> {
        let row = sqlx::query("SELECT envelope, create_time_us FROM descriptors WHERE tenant = ? AND hash = ?")
            .bind(tenant)
            .bind(hash.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await
            .map_err(Error::Unavailable)?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (envelope, micros) = (row.try_get::<String, _>(0), row.try_get::<i64, _>(1));
        let (Ok(envelope), Ok(micros)) = (envelope, micros) else {
            return Err(Error::Corrupt(hash));
        };
        let time =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).map_err(|_| Error::Corrupt(hash))?;
        read(hash, &envelope, time).map(Some)
    }
}
