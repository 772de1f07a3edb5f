//! The schema: its migrations, its version, the partitions that are made ahead.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;
use sqlx::{
    ConnectOptions, Connection, SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use tokio_util::sync::CancellationToken;

use crate::store::{Error, OpenError, fault::Fault};

use super::{
    database::{self, Database},
    failure,
};

/// The version that this program is written for.
pub(super) const LATEST: i64 = 1;

/// Months whose partitions are made ahead.
const MONTHS_AHEAD: i32 = 3;

/// Pause between two looks at the partitions.
const UPKEEP_EVERY: Duration = Duration::from_secs(3_600);

fn migrator() -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(vec![migration(
        LATEST,
        "sessions",
        include_str!("../../../migrations/postgres/0001_sessions.sql"),
    )]);
    migrator.create_schema("session");
    migrator.dangerous_set_table_name("session.migrations");
    migrator
}

/// Brings the schema up to date over a direct connection of the owner; one of several that start together does it, the others
/// wait for its advisory lock. Answers the version.
pub(super) async fn migrate(url: &SecretString, connect_timeout: Duration) -> Result<i64, OpenError> {
    let options = database::options(url)?;
    #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
    let connected = tokio::time::timeout(connect_timeout, options.connect()).await;
    let mut connection = connected
        .map_err(|elapsed| OpenError::Unavailable(sqlx::Error::Io(elapsed.into())))?
        .map_err(OpenError::Unavailable)?;
    migrator().run_direct(None, &mut connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) if failure::passes(&error) => OpenError::Unavailable(error),
        error => OpenError::Migration(error),
    })?;
    connection.close().await.map_err(OpenError::Unavailable)?;
    Ok(LATEST)
}

/// Refuses a schema that another version of the program is written for.
pub(super) async fn check(db: &Database) -> Result<(), OpenError> {
    match version(db).await {
        Ok(LATEST) => Ok(()),
        Ok(found) => Err(OpenError::Schema { found, wanted: LATEST }),
        Err(Error::Unavailable(error)) => Err(OpenError::Unavailable(error)),
        Err(Error::Refused(error)) if failure::is_without_schema(&error) => {
            Err(OpenError::Schema { found: 0, wanted: LATEST })
        }
        Err(Error::Refused(error)) => Err(OpenError::Refused(error)),
        Err(_) => Err(OpenError::Schema { found: 0, wanted: LATEST }),
    }
}

/// The version that the database has.
pub(super) async fn version(db: &Database) -> Result<i64, Error> {
    db.call(|_| async {
        let mut tx = db.begin("").await?;
        let query = tx.query_scalar("SELECT max(version) FROM session.migrations WHERE success");
        let current: Option<i64> = query.fetch_one(&mut *tx).await?;
        tx.done().await?;
        Ok(current.unwrap_or(0))
    })
    .await
}

/// Makes partitions ahead and looks for rows that none took, now and from time to time.
pub(super) async fn keep_up(db: Arc<Database>, stop: CancellationToken) {
    loop {
        upkeep(&db).await;
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let pause = tokio::time::sleep(UPKEEP_EVERY);
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause => {}
        }
    }
}

async fn upkeep(db: &Database) {
    match prepare(db).await {
        Ok((_, 0)) => {}
        Ok((_, strays)) => tracing::error!(store.strays = strays, "events are outside of every partition"),
        Err(error) => {
            tracing::error!(error = %mar_runtime::status::chain(&error), "partitions of events are not made ahead");
        }
    }
}

/// Answers how many partitions were made, and how many rows no partition took.
async fn prepare(db: &Database) -> Result<(i32, i64), Error> {
    let strays = db
        .call(|_| async {
            let mut tx = db.begin("").await?;
            let strays: i64 = tx.query_scalar("SELECT session.events_strays()").fetch_one(&mut *tx).await?;
            tx.done().await?;
            Ok::<_, Fault>(strays)
        })
        .await?;
    let made = db
        .call(|_| async {
            let mut tx = db.begin("").await?;
            let query = tx.query_scalar("SELECT session.events_prepare($1)").bind(MONTHS_AHEAD);
            let made: i32 = query.fetch_one(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, Fault>(made)
        })
        .await;
    if strays > 0 {
        // Rows in the way of a partition are the likelier reason for a failure.
        return Ok((made.unwrap_or(0), strays));
    }
    Ok((made?, strays))
}
