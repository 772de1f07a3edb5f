//! Events: one transaction appends, one statement reads.

use sqlx::{Row, SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::store::{
    Append, EventRow,
    append::{self, Scope},
    fault::Fault,
};

use super::{failure, rows};

/// The payload's lengths come before the payload, so that nothing beyond `max_bytes` is fetched.
const READ: &str = "\
    SELECT seq, prev_hash, hash, leaf, content FROM ( \
      SELECT seq, prev_hash, hash, leaf, content, bytes, sum(bytes) OVER (ORDER BY seq) AS upto FROM ( \
        SELECT e.seq, e.hash, e.leaf, coalesce(e.content, b.content) AS content, \
          CASE WHEN e.seq > 0 AND e.seq = $3 \
            THEN (SELECT p.hash FROM events p WHERE p.run_id = $1 AND p.tenant = $2 AND p.seq = $3 - 1) \
            ELSE e.prev_hash END AS prev_hash, \
          length(e.leaf) + coalesce(length(e.content), length(b.content), 0) AS bytes \
        FROM events e \
        LEFT JOIN blobs b ON b.tenant = e.tenant AND b.sha256 = e.blob_sha256 \
          AND b.session = (SELECT r.session FROM runs r WHERE r.id = $1 AND r.tenant = $2) \
        WHERE e.run_id = $1 AND e.tenant = $2 AND e.seq >= $3 ORDER BY e.seq LIMIT $4) AS page) AS summed \
    WHERE upto - bytes < $5 OR upto = bytes ORDER BY seq";

/// Appends checked events, or says why they cannot be.
pub(super) async fn append(
    pool: &SqlitePool,
    scope: Scope<'_>,
    events: &[EventRow],
    (first, last): (&EventRow, &EventRow),
) -> Result<Append, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    if follows_in_tx(&mut tx, scope, first).await? {
        match insert_in_tx(&mut tx, scope, events).await {
            Ok(()) => {
                tx.commit().await?;
                return Ok(Append::Done);
            }
            Err(error) if failure::is_conflict(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tx.rollback().await?;
    let stored = hashes(pool, scope, first.seq.saturating_sub(1), last.seq).await?;
    Ok(append::judge(events, &stored)?)
}

/// Whether the event before the first is stored: a log has no gaps.
async fn follows_in_tx(tx: &mut SqliteConnection, scope: Scope<'_>, first: &EventRow) -> Result<bool, Fault> {
    let before: Option<i64> = sqlx::query_scalar(
        "SELECT seq FROM events WHERE run_id = $1 AND seq = $2 AND hash = $3 AND tenant = $4 \
             AND EXISTS (SELECT 1 FROM runs WHERE id = $1 AND session = $5)",
    )
    .bind(scope.run)
    .bind(first.seq.saturating_sub(1))
    .bind(&first.prev_hash[..])
    .bind(scope.tenant)
    .bind(scope.session)
    .fetch_optional(tx)
    .await?;
    Ok(before.is_some())
}

/// Stores events, and their large contents once per session. Never ON CONFLICT on events: the key is the fence.
pub(super) async fn insert_in_tx(
    tx: &mut SqliteConnection,
    scope: Scope<'_>,
    events: &[EventRow],
) -> Result<(), sqlx::Error> {
    let (placed, blobs) = append::place(events);
    for (sha256, content) in &blobs {
        sqlx::query(
            "INSERT INTO blobs (tenant, session, sha256, content) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, session, sha256) DO NOTHING",
        )
        .bind(scope.tenant)
        .bind(scope.session)
        .bind(&sha256[..])
        .bind(*content)
        .execute(&mut *tx)
        .await?;
    }
    for row in &placed {
        sqlx::query(
            "INSERT INTO events (run_id, seq, tenant, prev_hash, hash, leaf, content, blob_sha256) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(scope.run)
        .bind(row.event.seq)
        .bind(scope.tenant)
        .bind((row.event.seq == 0).then_some(&row.event.prev_hash[..]))
        .bind(&row.event.hash[..])
        .bind(&row.event.leaf[..])
        .bind(row.inline)
        .bind(row.blob.as_ref().map(|sha256| &sha256[..]))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn hashes(pool: &SqlitePool, scope: Scope<'_>, from: i64, to: i64) -> Result<Vec<(i64, [u8; 32])>, Fault> {
    let rows = sqlx::query(
        "SELECT seq, hash FROM events \
         WHERE run_id = $1 AND tenant = $2 AND seq BETWEEN $3 AND $4 ORDER BY seq",
    )
    .bind(scope.run)
    .bind(scope.tenant)
    .bind(from)
    .bind(to)
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("seq")?, rows::hash(row, "hash")?))).collect()
}

pub(super) async fn read(
    pool: &SqlitePool,
    tenant: &str,
    run: Uuid,
    from_seq: i64,
    limit: i64,
    max_bytes: usize,
) -> Result<Vec<EventRow>, Fault> {
    let rows = sqlx::query(READ)
        .bind(run)
        .bind(tenant)
        .bind(from_seq)
        .bind(limit.max(0))
        .bind(i64::try_from(max_bytes).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    Ok(append::link(rows.iter().map(rows::event).collect::<Result<_, _>>()?))
}

pub(super) async fn next(pool: &SqlitePool, tenant: &str, run: Uuid) -> Result<i64, Fault> {
    let next = sqlx::query_scalar("SELECT coalesce(max(seq) + 1, 0) FROM events WHERE run_id = $1 AND tenant = $2");
    Ok(next.bind(run).bind(tenant).fetch_one(pool).await?)
}
