//! Events: one statement appends, one reads.

use sqlx::{PgConnection, PgExecutor, PgPool, Row};
use uuid::Uuid;

use crate::store::{
    Append, EventRow,
    append::{self, Blobs, Placed, Scope},
    fault::Fault,
};

use super::{failure, rows};

/// Large contents become blobs in the same statement. The rows depend on the event before them, so a log has no gaps; that
/// costs one look into the primary key, which the insert visits anyway. Never ON CONFLICT on events: the key is the fence.
const APPEND: &str = "\
    WITH before AS ( \
      SELECT 1 FROM session.events WHERE run_id = $3 AND seq = $4 AND hash = $5 AND tenant = $1 AND session = $2), \
    stored AS ( \
      INSERT INTO session.blobs (tenant, session, sha256, content) \
      SELECT $1, $2, b.sha256, b.content FROM unnest($6::bytea[], $7::bytea[]) AS b (sha256, content), before \
      ON CONFLICT (tenant, session, sha256) DO NOTHING) \
    INSERT INTO session.events (run_id, seq, tenant, session, prev_hash, hash, leaf, content, blob_sha256) \
    SELECT $3, e.seq, $1, $2, e.prev_hash, e.hash, e.leaf, e.content, e.blob \
    FROM unnest($8::bigint[], $9::bytea[], $10::bytea[], $11::bytea[], $12::bytea[], $13::bytea[]) \
      AS e (seq, prev_hash, hash, leaf, content, blob), before";

/// The payload's lengths are read from the rows' headers, so that nothing beyond `max_bytes` is fetched.
const READ: &str = "\
    SELECT seq, prev_hash, hash, leaf, content FROM ( \
      SELECT seq, prev_hash, hash, leaf, content, bytes, sum(bytes) OVER (ORDER BY seq) AS upto FROM ( \
        SELECT e.seq, e.prev_hash, e.hash, e.leaf, coalesce(e.content, b.content) AS content, \
          octet_length(e.leaf) + coalesce(octet_length(e.content), octet_length(b.content), 0) AS bytes \
        FROM session.events e \
        LEFT JOIN session.blobs b ON b.tenant = e.tenant AND b.session = e.session AND b.sha256 = e.blob_sha256 \
        WHERE e.run_id = $1 AND e.tenant = $2 AND e.seq >= $3 ORDER BY e.seq LIMIT $4) AS page) AS summed \
    WHERE upto - bytes < $5 OR upto = bytes ORDER BY seq";

/// Appends checked events, or says why they cannot be.
pub(super) async fn append(
    pool: &PgPool,
    scope: Scope<'_>,
    events: &[EventRow],
    (first, last): (&EventRow, &EventRow),
) -> Result<Append, Fault> {
    let (placed, blobs) = append::place(events);
    match insert(pool, scope, first, &placed, &blobs).await {
        Ok(0) => {}
        Ok(_) => return Ok(Append::Done),
        Err(error) if failure::is_conflict(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let stored = hashes(pool, scope, first.seq.saturating_sub(1), last.seq).await?;
    Ok(append::judge(events, &stored)?)
}

async fn insert(
    db: impl PgExecutor<'_>,
    scope: Scope<'_>,
    first: &EventRow,
    placed: &[Placed<'_>],
    blobs: &Blobs<'_>,
) -> Result<u64, sqlx::Error> {
    let column = |of: fn(&EventRow) -> &[u8]| placed.iter().map(|row| of(row.event)).collect::<Vec<_>>();
    let done = sqlx::query(APPEND)
        .bind(scope.tenant)
        .bind(scope.session)
        .bind(scope.run)
        .bind(first.seq.saturating_sub(1))
        .bind(&first.prev_hash[..])
        .bind(blobs.keys().map(|sha256| &sha256[..]).collect::<Vec<_>>())
        .bind(blobs.values().copied().collect::<Vec<_>>())
        .bind(placed.iter().map(|row| row.event.seq).collect::<Vec<_>>())
        .bind(column(|event| &event.prev_hash))
        .bind(column(|event| &event.hash))
        .bind(column(|event| &event.leaf))
        .bind(placed.iter().map(|row| row.inline).collect::<Vec<_>>())
        .bind(placed.iter().map(|row| row.blob.as_ref().map(|sha256| &sha256[..])).collect::<Vec<_>>())
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

/// Stores the event that no other precedes, with the admission of its run.
pub(super) async fn insert_first_in_tx(tx: &mut PgConnection, scope: Scope<'_>, first: &EventRow) -> Result<(), Fault> {
    let (placed, blobs) = append::place(std::slice::from_ref(first));
    for (sha256, content) in &blobs {
        sqlx::query(
            "INSERT INTO session.blobs (tenant, session, sha256, content) VALUES ($1, $2, $3, $4) \
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
            "INSERT INTO session.events (run_id, seq, tenant, session, prev_hash, hash, leaf, content, blob_sha256) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(scope.run)
        .bind(row.event.seq)
        .bind(scope.tenant)
        .bind(scope.session)
        .bind(&row.event.prev_hash[..])
        .bind(&row.event.hash[..])
        .bind(&row.event.leaf[..])
        .bind(row.inline)
        .bind(row.blob.as_ref().map(|sha256| &sha256[..]))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn hashes(pool: &PgPool, scope: Scope<'_>, from: i64, to: i64) -> Result<Vec<(i64, [u8; 32])>, Fault> {
    let rows = sqlx::query(
        "SELECT seq, hash FROM session.events \
         WHERE run_id = $1 AND tenant = $2 AND session = $3 AND seq BETWEEN $4 AND $5 ORDER BY seq",
    )
    .bind(scope.run)
    .bind(scope.tenant)
    .bind(scope.session)
    .bind(from)
    .bind(to)
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("seq")?, rows::hash(row, "hash")?))).collect()
}

pub(super) async fn read(
    pool: &PgPool,
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
    rows.iter().map(rows::event).collect()
}

pub(super) async fn next(pool: &PgPool, tenant: &str, run: Uuid) -> Result<i64, Fault> {
    let next =
        sqlx::query_scalar("SELECT coalesce(max(seq) + 1, 0) FROM session.events WHERE run_id = $1 AND tenant = $2");
    Ok(next.bind(run).bind(tenant).fetch_one(pool).await?)
}
