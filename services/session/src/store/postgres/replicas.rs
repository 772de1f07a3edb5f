//! Replicas: signs of life, parking and letting go.

use std::time::Duration;

use sqlx::Row as _;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{Hold, fault::Fault};

use super::claims::millis;
use super::database::Database;

/// A replica that has not been heard of for a day is forgotten.
pub(super) async fn beat(db: &Database, owner: &str, patience: Duration) -> Result<(), Fault> {
    let mut tx = db.begin_as_scheduler().await?;
    let query = tx.query(
        "WITH gone AS (DELETE FROM session.heartbeats WHERE beat_time < now() - interval '1 day' AND owner <> $1) \
         INSERT INTO session.heartbeats AS h (owner, beat_time, since_time) VALUES ($1, now(), now()) \
         ON CONFLICT (owner) DO UPDATE SET beat_time = now(), since_time = \
           CASE WHEN h.beat_time < now() - $2 * interval '1 millisecond' THEN now() ELSE h.since_time END",
    );
    query.bind(owner).bind(millis(patience)).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn leave(db: &Database, owner: &str) -> Result<(), Fault> {
    let mut tx = db.begin_as_scheduler().await?;
    let query = tx.query("UPDATE session.leases SET owner = NULL, wake_time = now() WHERE owner = $1");
    query.bind(owner).execute(&mut *tx).await?;
    tx.query("DELETE FROM session.heartbeats WHERE owner = $1").bind(owner).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// An unread command has left a wake time behind. It is looked at in the row that is updated, not in another table: a
/// command that commits while this waits for the row's lock must be seen.
pub(super) async fn park(
    db: &Database,
    tenant: &str,
    run: Uuid,
    hold: Hold<'_>,
    wake: OffsetDateTime,
) -> Result<bool, Fault> {
    let mut tx = db.begin_as_scheduler().await?;
    let query = tx.query(
        "UPDATE session.leases SET owner = NULL, wake_time = $5 \
         WHERE run = $1 AND tenant = $2 AND owner = $3 AND epoch = $4 AND wake_time IS NULL",
    );
    let query = query.bind(run).bind(tenant).bind(hold.owner).bind(hold.epoch).bind(wake);
    let parked = query.execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(parked.rows_affected() == 1)
}

pub(super) async fn leave_run(
    db: &Database,
    run: Uuid,
    hold: Hold<'_>,
    past: i64,
    rest: Duration,
) -> Result<bool, Fault> {
    let mut tx = db.begin_as_scheduler().await?;
    let query = tx.query(
        "UPDATE session.leases SET owner = NULL, epoch = greatest(epoch, $4), \
           wake_time = now() + $5 * interval '1 millisecond' WHERE run = $1 AND owner = $2 AND epoch = $3",
    );
    let left =
        query.bind(run).bind(hold.owner).bind(hold.epoch).bind(past).bind(millis(rest)).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(left.rows_affected() == 1)
}

pub(super) async fn held(db: &Database, owner: &str) -> Result<Vec<(Uuid, i64)>, Fault> {
    let mut tx = db.begin_as_scheduler().await?;
    let query = tx.query("SELECT run, epoch FROM session.leases WHERE owner = $1 ORDER BY run");
    let rows = query.bind(owner).fetch_all(&mut *tx).await?;
    tx.done().await?;
    rows.iter().map(|row| Ok((row.try_get("run")?, row.try_get("epoch")?))).collect()
}
