//! Events: one statement appends, one reads.

use sqlx::{Postgres, Row, postgres::PgArguments, query::Query};
use uuid::Uuid;

use crate::store::{
    Append, EventRow,
    append::{self, Blobs, Placed, Scope},
    fault::Fault,
};

use super::{
    appends::Entry,
    database::{Database, Tx},
    failure, rows,
};

/// Appends of several runs of a tenant, whose contents are all inline.
///
/// The setting comes first: row-level security looks at it when the event before is read and when a row is stored, and each
/// of the two needs a row of `batch`, which needs `scope`. The first row of each run is checked against the event before
/// it, so a log has no gaps; that costs one look into the primary key, which the insert visits anyway. A row without its
/// predecessor gets no position, which refuses the whole statement. $2 and $3 bound the runs, so that only their partitions are
/// opened. Never ON CONFLICT on events: the key is the fence.
const APPEND: &str = "\
    WITH scope AS MATERIALIZED (SELECT set_config('mar.tenant', $1, true) AS tenant), \
    batch AS MATERIALIZED ( \
      SELECT scope.tenant, b.* FROM scope, \
        unnest($4::uuid[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[]) \
          AS b (run_id, seq, before, hash, leaf, content)) \
    INSERT INTO session.events (run_id, seq, tenant, hash, leaf, content) \
    SELECT b.run_id, \
      CASE WHEN b.before IS NULL OR ( \
        SELECT e.hash FROM session.events e \
        WHERE e.run_id = b.run_id AND e.seq = b.seq - 1 AND e.tenant = b.tenant \
          AND e.run_id >= $2 AND e.run_id <= $3) = b.before THEN b.seq END, \
      b.tenant, b.hash, b.leaf, b.content FROM batch b";

/// An append of one run with large contents, which become blobs in the same statement.
const APPEND_WITH_BLOBS: &str = "\
    WITH scope AS MATERIALIZED (SELECT set_config('mar.tenant', $1, true) AS tenant), \
    before AS MATERIALIZED ( \
      SELECT scope.tenant FROM scope WHERE ( \
        SELECT e.hash FROM session.events e WHERE e.run_id = $3 AND e.seq = $4 AND e.tenant = scope.tenant) = $5 \
        AND EXISTS (SELECT FROM session.runs r WHERE r.id = $3 AND r.tenant = scope.tenant AND r.session = $2)), \
    stored AS ( \
      INSERT INTO session.blobs (tenant, session, sha256, content) \
      SELECT before.tenant, $2, b.sha256, b.content FROM before, unnest($6::bytea[], $7::bytea[]) AS b (sha256, content) \
      ON CONFLICT (tenant, session, sha256) DO NOTHING) \
    INSERT INTO session.events (run_id, seq, tenant, hash, leaf, content, blob_sha256) \
    SELECT $3, e.seq, before.tenant, e.hash, e.leaf, e.content, e.blob \
    FROM before, unnest($8::bigint[], $9::bytea[], $10::bytea[], $11::bytea[], $12::bytea[]) \
      AS e (seq, hash, leaf, content, blob)";

/// The payload's lengths are read from the rows' headers, so that nothing beyond `max_bytes` is fetched.
const READ: &str = "\
    SELECT seq, prev_hash, hash, leaf, content FROM ( \
      SELECT seq, prev_hash, hash, leaf, content, bytes, sum(bytes) OVER (ORDER BY seq) AS upto FROM ( \
        SELECT e.seq, e.hash, e.leaf, coalesce(e.content, b.content) AS content, \
          CASE WHEN e.seq > 0 AND e.seq = $3 \
            THEN (SELECT p.hash FROM session.events p WHERE p.run_id = $1 AND p.tenant = $2 AND p.seq = $3 - 1) \
            ELSE e.prev_hash END AS prev_hash, \
          octet_length(e.leaf) + coalesce(octet_length(e.content), octet_length(b.content), 0) AS bytes \
        FROM session.events e \
        LEFT JOIN session.blobs b ON b.tenant = e.tenant AND b.sha256 = e.blob_sha256 \
          AND b.session = (SELECT r.session FROM session.runs r WHERE r.id = $1 AND r.tenant = $2) \
        WHERE e.run_id = $1 AND e.tenant = $2 AND e.seq >= $3 ORDER BY e.seq LIMIT $4) AS page) AS summed \
    WHERE upto - bytes < $5 OR upto = bytes ORDER BY seq";

/// Stores appends of different runs, all or nothing; `false` when one of them has a gap or meets a stored row.
pub(super) async fn insert(db: &Database, tenant: &str, batch: &[Entry]) -> Result<bool, Fault> {
    let rows: usize = batch.iter().map(|entry| entry.events.len()).sum();
    let (mut runs, mut befores) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for entry in batch {
        for (at, event) in entry.events.iter().enumerate() {
            runs.push(entry.run);
            befores.push((at == 0).then_some(&event.prev_hash[..]));
        }
    }
    let events = || batch.iter().flat_map(|entry| &entry.events);
    let column = |of: fn(&EventRow) -> &[u8]| events().map(of).collect::<Vec<_>>();
    let (lowest, highest) = (runs.iter().min().copied(), runs.iter().max().copied());
    let query = |sql| {
        sqlx::query::<Postgres>(sql)
            .bind(tenant)
            .bind(lowest)
            .bind(highest)
            .bind(&runs)
            .bind(events().map(|event| event.seq).collect::<Vec<_>>())
            .bind(&befores)
            .bind(column(|event| &event.hash))
            .bind(column(|event| &event.leaf))
            .bind(events().map(|event| event.content.as_deref()).collect::<Vec<_>>())
    };
    match db.execute(tenant, query(APPEND)).await {
        Ok(_) => Ok(true),
        Err(error) if failure::is_conflict(&error) || failure::is_gap(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Appends checked events of one run, some of whose contents are large.
pub(super) async fn append_with_blobs(
    db: &Database,
    scope: Scope<'_>,
    events: &[EventRow],
    first: &EventRow,
) -> Result<Append, Fault> {
    let (placed, blobs) = append::place(events);
    match db.execute(scope.tenant, with_blobs(scope, first, &placed, &blobs)).await {
        Ok(0) => {}
        Ok(_) => return Ok(Append::Done),
        Err(error) if failure::is_conflict(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let stored = hashes(db, scope, events).await?;
    Ok(append::judge(events, &stored)?)
}

fn with_blobs<'q>(
    scope: Scope<'q>,
    first: &'q EventRow,
    placed: &'q [Placed<'q>],
    blobs: &'q Blobs<'q>,
) -> Query<'q, Postgres, PgArguments> {
    let column = |of: fn(&EventRow) -> &[u8]| placed.iter().map(|row| of(row.event)).collect::<Vec<_>>();
    sqlx::query(APPEND_WITH_BLOBS)
        .bind(scope.tenant)
        .bind(scope.session)
        .bind(scope.run)
        .bind(first.seq.saturating_sub(1))
        .bind(&first.prev_hash[..])
        .bind(blobs.keys().map(|sha256| &sha256[..]).collect::<Vec<_>>())
        .bind(blobs.values().copied().collect::<Vec<_>>())
        .bind(placed.iter().map(|row| row.event.seq).collect::<Vec<_>>())
        .bind(column(|event| &event.hash))
        .bind(column(|event| &event.leaf))
        .bind(placed.iter().map(|row| row.inline).collect::<Vec<_>>())
        .bind(placed.iter().map(|row| row.blob.as_ref().map(|sha256| &sha256[..])).collect::<Vec<_>>())
}

/// Stores the event that no other precedes, with the admission of its run.
pub(super) async fn insert_first_in_tx(tx: &mut Tx, scope: Scope<'_>, first: &EventRow) -> Result<(), Fault> {
    let (placed, blobs) = append::place(std::slice::from_ref(first));
    for (sha256, content) in &blobs {
        tx.query(
            "INSERT INTO session.blobs (tenant, session, sha256, content) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, session, sha256) DO NOTHING",
        )
        .bind(scope.tenant)
        .bind(scope.session)
        .bind(&sha256[..])
        .bind(*content)
        .execute(&mut **tx)
        .await?;
    }
    for row in &placed {
        tx.query(
            "INSERT INTO session.events (run_id, seq, tenant, prev_hash, hash, leaf, content, blob_sha256) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(scope.run)
        .bind(row.event.seq)
        .bind(scope.tenant)
        .bind(&row.event.prev_hash[..])
        .bind(&row.event.hash[..])
        .bind(&row.event.leaf[..])
        .bind(row.inline)
        .bind(row.blob.as_ref().map(|sha256| &sha256[..]))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// What is stored from the position before these events to their last.
pub(super) async fn hashes(
    db: &Database,
    scope: Scope<'_>,
    events: &[EventRow],
) -> Result<Vec<(i64, [u8; 32])>, Fault> {
    let ends = events.first().zip(events.last()).map(|(first, last)| (first.seq.saturating_sub(1), last.seq));
    let Some((from, to)) = ends else { return Ok(Vec::new()) };
    let mut tx = db.begin(scope.tenant).await?;
    let query = tx.query(
        "SELECT seq, hash FROM session.events \
         WHERE run_id = $1 AND tenant = $2 AND seq BETWEEN $3 AND $4 ORDER BY seq",
    );
    let rows = query.bind(scope.run).bind(scope.tenant).bind(from).bind(to).fetch_all(&mut *tx).await?;
    tx.done().await?;
    rows.iter().map(|row| Ok((row.try_get("seq")?, rows::hash(row, "hash")?))).collect()
}

pub(super) async fn read(
    db: &Database,
    tenant: &str,
    run: Uuid,
    from_seq: i64,
    limit: i64,
    max_bytes: usize,
) -> Result<Vec<EventRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let rows = tx
        .query(READ)
        .bind(run)
        .bind(tenant)
        .bind(from_seq)
        .bind(limit.max(0))
        .bind(i64::try_from(max_bytes).unwrap_or(i64::MAX))
        .fetch_all(&mut *tx)
        .await?;
    tx.done().await?;
    Ok(append::link(rows.iter().map(rows::event).collect::<Result<_, _>>()?))
}

pub(super) async fn next(db: &Database, tenant: &str, run: Uuid) -> Result<i64, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query =
        tx.query_scalar("SELECT coalesce(max(seq) + 1, 0) FROM session.events WHERE run_id = $1 AND tenant = $2");
    let next = query.bind(run).bind(tenant).fetch_one(&mut *tx).await?;
    tx.done().await?;
    Ok(next)
}
