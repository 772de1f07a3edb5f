//! Who executes a run: claims, parking, letting go. One process has the file, so that any other owner is gone.

use std::time::Duration;

use sqlx::{Row, SqlitePool, sqlite::SqliteRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{Claimed, Hold, fault::Fault};

use super::rows::{self, micros, now, run_columns};

pub(super) async fn claim(pool: &SqlitePool, owner: &str, log_version: i32, limit: i64) -> Result<Vec<Claimed>, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let picked = sqlx::query(concat!(
        "SELECT ",
        run_columns!(),
        ", l.epoch + 1 AS epoch, CASE WHEN l.owner IS NULL THEN ",
        now!(),
        " - l.wake_time END AS unattended_us FROM leases l JOIN runs r ON r.id = l.run \
         WHERE l.log_version <= $2 AND (l.owner <> $1 OR (l.owner IS NULL AND l.wake_time <= ",
        now!(),
        ")) ORDER BY l.run LIMIT $3"
    ))
    .bind(owner)
    .bind(log_version)
    .bind(limit.max(0))
    .fetch_all(&mut *tx)
    .await?;
    let claimed = picked.iter().map(row).collect::<Result<Vec<_>, Fault>>()?;
    for Claimed { run, epoch, .. } in &claimed {
        sqlx::query("UPDATE leases SET owner = $2, epoch = $3, wake_time = NULL WHERE run = $1")
            .bind(run.id)
            .bind(owner)
            .bind(epoch)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(claimed)
}

fn row(row: &SqliteRow) -> Result<Claimed, Fault> {
    let unattended: Option<i64> = row.try_get("unattended_us")?;
    Ok(Claimed {
        run: rows::run(row)?,
        epoch: row.try_get("epoch")?,
        unattended: unattended.map(|micros| Duration::from_micros(micros.try_into().unwrap_or(0))),
    })
}

pub(super) async fn leave(pool: &SqlitePool, owner: &str) -> Result<(), Fault> {
    let query = concat!("UPDATE leases SET owner = NULL, wake_time = ", now!(), " WHERE owner = $1");
    sqlx::query(query).bind(owner).execute(pool).await?;
    Ok(())
}

/// An unread command has left a wake time behind.
pub(super) async fn park(
    pool: &SqlitePool,
    tenant: &str,
    run: Uuid,
    hold: Hold<'_>,
    wake: OffsetDateTime,
) -> Result<bool, Fault> {
    let parked = sqlx::query(
        "UPDATE leases SET owner = NULL, wake_time = $5 \
         WHERE run = $1 AND tenant = $2 AND owner = $3 AND epoch = $4 AND wake_time IS NULL",
    )
    .bind(run)
    .bind(tenant)
    .bind(hold.owner)
    .bind(hold.epoch)
    .bind(micros(wake))
    .execute(pool)
    .await?;
    Ok(parked.rows_affected() == 1)
}

pub(super) async fn leave_run(
    pool: &SqlitePool,
    run: Uuid,
    hold: Hold<'_>,
    past: i64,
    rest: Duration,
) -> Result<bool, Fault> {
    let query = concat!(
        "UPDATE leases SET owner = NULL, epoch = max(epoch, $4), wake_time = ",
        now!(),
        " + $5 WHERE run = $1 AND owner = $2 AND epoch = $3"
    );
    let rest = i64::try_from(rest.as_micros()).unwrap_or(i64::MAX / 2);
    let query = sqlx::query(query).bind(run).bind(hold.owner).bind(hold.epoch).bind(past).bind(rest);
    Ok(query.execute(pool).await?.rows_affected() == 1)
}

pub(super) async fn held(pool: &SqlitePool, owner: &str) -> Result<Vec<(Uuid, i64)>, Fault> {
    let query = sqlx::query("SELECT run, epoch FROM leases WHERE owner = $1 ORDER BY run");
    let rows = query.bind(owner).fetch_all(pool).await?;
    rows.iter().map(|row| Ok((row.try_get("run")?, row.try_get("epoch")?))).collect()
}
