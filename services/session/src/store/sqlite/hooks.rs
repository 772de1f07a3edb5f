//! What hooks are told of.

use std::time::Duration;

use bytes::Bytes;
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use uuid::Uuid;

use crate::store::{
    fault::Fault,
    hook::{Claim, DeadNotice, DeadPage, Due, Hooked},
    timer::HOLD,
};

use super::{
    rows::{now, time},
    timers::micros,
};

/// Sets which hooks there are.
pub(super) async fn set(pool: &SqlitePool, hooked: &Hooked) -> Result<(), Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("DELETE FROM hooked").execute(&mut *tx).await?;
    for (tenant, hook) in hooked.iter().flat_map(|(tenant, hooks)| hooks.iter().map(move |hook| (tenant, hook))) {
        let query = sqlx::query("INSERT INTO hooked (tenant, hook) VALUES ($1, $2)");
        query.bind(tenant).bind(hook).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Something has happened in a session that hooks are to be told of. What is claimed or rests is not made due by it.
pub(super) async fn mark_in_tx(tx: &mut SqliteConnection, tenant: &str, session: Uuid) -> Result<(), Fault> {
    sqlx::query(concat!(
        "INSERT INTO hooks (session, hook, tenant, due_time, marks) SELECT $1, hook, $2, ",
        now!(),
        ", 1 FROM hooked WHERE tenant = $2 ON CONFLICT (session, hook) DO UPDATE \
         SET marks = marks + 1, due_time = coalesce(due_time, ",
        now!(),
        ")"
    ))
    .bind(session)
    .bind(tenant)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn claim(pool: &SqlitePool, tenant: &str, hook: &str, limit: i64) -> Result<Vec<Claim>, Fault> {
    let rows = sqlx::query(concat!(
        "UPDATE hooks SET due_time = ",
        now!(),
        " + $4, epoch = epoch + 1 WHERE (session, hook) IN (SELECT session, hook FROM hooks \
         WHERE tenant = $1 AND hook = $2 AND due_time <= ",
        now!(),
        " ORDER BY due_time LIMIT $3) RETURNING tenant, hook, session, cursor, attempts, marks, epoch"
    ))
    .bind(tenant)
    .bind(hook)
    .bind(limit.max(0))
    .bind(micros(HOLD))
    .fetch_all(pool)
    .await?;
    rows.iter().map(claimed).collect()
}

fn claimed(row: &SqliteRow) -> Result<Claim, Fault> {
    Ok(Claim {
        tenant: row.try_get("tenant")?,
        hook: row.try_get("hook")?,
        session: row.try_get("session")?,
        cursor: Bytes::from(row.try_get::<Vec<u8>, _>("cursor")?),
        attempts: row.try_get("attempts")?,
        marks: row.try_get("marks")?,
        epoch: row.try_get("epoch")?,
    })
}

pub(super) async fn save(
    pool: &SqlitePool,
    claim: &Claim,
    cursor: &[u8],
    attempts: i32,
    due: Due,
) -> Result<bool, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let saved = save_in_tx(&mut tx, claim, cursor, attempts, due).await?;
    tx.commit().await?;
    Ok(saved)
}

async fn save_in_tx(
    tx: &mut SqliteConnection,
    claim: &Claim,
    cursor: &[u8],
    attempts: i32,
    due: Due,
) -> Result<bool, Fault> {
    let (told, span) = match due {
        Due::Held => (false, HOLD),
        Due::Told => (true, Duration::ZERO),
        Due::In(span) => (false, span),
    };
    let query = sqlx::query(concat!(
        "UPDATE hooks SET cursor = $4, attempts = $5, due_time = CASE WHEN $6 AND marks = $7 THEN NULL ELSE ",
        now!(),
        " + $8 END WHERE session = $1 AND hook = $2 AND epoch = $3 AND tenant = $9"
    ));
    let query = query.bind(claim.session).bind(&claim.hook).bind(claim.epoch).bind(cursor).bind(attempts);
    let query = query.bind(told).bind(claim.marks).bind(micros(span)).bind(&claim.tenant);
    Ok(query.execute(tx).await?.rows_affected() == 1)
}

pub(super) async fn bury(pool: &SqlitePool, claim: &Claim, cursor: &[u8], dead: &DeadNotice) -> Result<bool, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    if !save_in_tx(&mut tx, claim, cursor, 0, Due::Held).await? {
        return Ok(false);
    }
    let query = sqlx::query(
        "INSERT INTO dead_notices (tenant, hook, id, session, notice, failure, attempts) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, hook, id) DO NOTHING",
    );
    let query = query.bind(&claim.tenant).bind(&dead.hook).bind(&dead.id).bind(dead.session);
    query.bind(&dead.notice[..]).bind(&dead.failure).bind(dead.attempts).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn dead_list(pool: &SqlitePool, tenant: &str, page: &DeadPage) -> Result<Vec<DeadNotice>, Fault> {
    let (after_hook, after_id) = page.after.clone().unzip();
    let query = sqlx::query(
        "SELECT hook, id, session, notice, failure, attempts, dead_time FROM dead_notices \
         WHERE tenant = $1 AND ($2 IS NULL OR hook = $2) AND ($3 IS NULL OR (hook, id) > ($3, $4)) \
         ORDER BY hook, id LIMIT $5",
    );
    let query = query.bind(tenant).bind(&page.hook).bind(after_hook).bind(after_id).bind(page.limit.max(0));
    query.fetch_all(pool).await?.iter().map(dead).collect()
}

pub(super) async fn dead_get(
    pool: &SqlitePool,
    tenant: &str,
    hook: &str,
    id: &str,
) -> Result<Option<DeadNotice>, Fault> {
    let query = sqlx::query(
        "SELECT hook, id, session, notice, failure, attempts, dead_time FROM dead_notices \
         WHERE tenant = $1 AND hook = $2 AND id = $3",
    );
    query.bind(tenant).bind(hook).bind(id).fetch_optional(pool).await?.as_ref().map(dead).transpose()
}

fn dead(row: &SqliteRow) -> Result<DeadNotice, Fault> {
    Ok(DeadNotice {
        hook: row.try_get("hook")?,
        id: row.try_get("id")?,
        session: row.try_get("session")?,
        notice: Bytes::from(row.try_get::<Vec<u8>, _>("notice")?),
        failure: row.try_get("failure")?,
        attempts: row.try_get("attempts")?,
        time: time(row, "dead_time")?,
    })
}

pub(super) async fn dead_drop(pool: &SqlitePool, tenant: &str, hook: &str, id: &str) -> Result<(), Fault> {
    let query = sqlx::query("DELETE FROM dead_notices WHERE tenant = $1 AND hook = $2 AND id = $3");
    query.bind(tenant).bind(hook).bind(id).execute(pool).await?;
    Ok(())
}

pub(super) async fn leaves(
    pool: &SqlitePool,
    tenant: &str,
    run: Uuid,
    from_seq: i64,
    limit: i64,
) -> Result<Vec<(i64, Bytes)>, Fault> {
    let query = sqlx::query(
        "SELECT seq, leaf FROM events WHERE run_id = $1 AND tenant = $2 AND seq >= $3 ORDER BY seq LIMIT $4",
    );
    let rows = query.bind(run).bind(tenant).bind(from_seq).bind(limit.max(0)).fetch_all(pool).await?;
    rows.iter().map(|row| Ok((row.try_get("seq")?, Bytes::from(row.try_get::<Vec<u8>, _>("leaf")?)))).collect()
}
