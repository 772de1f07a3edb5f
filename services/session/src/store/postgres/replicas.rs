//! Replicas: signs of life, parking and letting go.

use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{Hold, fault::Fault};

/// A replica that has not been heard of for a day is forgotten.
pub(super) async fn beat(pool: &PgPool, owner: &str) -> Result<(), Fault> {
    sqlx::query(
        "WITH gone AS (DELETE FROM session.heartbeats WHERE beat_time < now() - interval '1 day' AND owner <> $1) \
         INSERT INTO session.heartbeats (owner, beat_time) VALUES ($1, now()) \
         ON CONFLICT (owner) DO UPDATE SET beat_time = now()",
    )
    .bind(owner)
    .execute(pool)
    .await?;
    Ok(())
}

pub(super) async fn leave(pool: &PgPool, owner: &str) -> Result<(), Fault> {
    let mut tx = pool.begin().await?;
    sqlx::query("UPDATE session.leases SET owner = NULL, wake_time = now() WHERE owner = $1")
        .bind(owner)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM session.heartbeats WHERE owner = $1").bind(owner).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// An unread command has left a wake time behind. It is looked at in the row that is updated, not in another table: a
/// command that commits while this waits for the row's lock must be seen.
pub(super) async fn park(
    pool: &PgPool,
    tenant: &str,
    run: Uuid,
    hold: Hold<'_>,
    wake: OffsetDateTime,
) -> Result<bool, Fault> {
    let parked = sqlx::query(
        "UPDATE session.leases SET owner = NULL, wake_time = $5 \
         WHERE run = $1 AND tenant = $2 AND owner = $3 AND epoch = $4 AND wake_time IS NULL",
    )
    .bind(run)
    .bind(tenant)
    .bind(hold.owner)
    .bind(hold.epoch)
    .bind(wake)
    .execute(pool)
    .await?;
    Ok(parked.rows_affected() == 1)
}
