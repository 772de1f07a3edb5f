//! What hooks are told of.

use bytes::Bytes;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::store::{
    fault::Fault,
    hook::{Claim, DeadNotice, DeadPage, Due},
    timer::HOLD,
};

use super::{
    claims::millis,
    database::{Database, Tx},
};

/// Something has happened in a session that hooks are to be told of. What is claimed or rests is not made due by it.
pub(super) async fn mark_in_tx(tx: &mut Tx, hooks: &[String], tenant: &str, session: Uuid) -> Result<(), Fault> {
    if hooks.is_empty() {
        return Ok(());
    }
    let query = tx.query(
        "INSERT INTO session.hooks AS h (session, hook, tenant, due_time, marks) \
         SELECT $1, hook, $2, now(), 1 FROM unnest($3::text[]) AS hook ORDER BY hook ON CONFLICT (session, hook) DO UPDATE \
         SET marks = h.marks + 1, due_time = coalesce(h.due_time, now())",
    );
    query.bind(session).bind(tenant).bind(hooks).execute(&mut **tx).await?;
    Ok(())
}

pub(super) async fn claim(db: &Database, tenant: &str, hook: &str, limit: i64) -> Result<Vec<Claim>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "WITH picked AS ( \
           SELECT session, hook FROM session.hooks WHERE tenant = $1 AND hook = $2 AND due_time <= now() \
           ORDER BY due_time LIMIT $3 FOR UPDATE SKIP LOCKED) \
         UPDATE session.hooks h SET due_time = now() + $4 * interval '1 millisecond', epoch = h.epoch + 1 FROM picked \
         WHERE h.session = picked.session AND h.hook = picked.hook \
         RETURNING h.tenant, h.hook, h.session, h.cursor, h.attempts, h.marks, h.epoch",
    );
    let rows = query.bind(tenant).bind(hook).bind(limit.max(0)).bind(millis(HOLD)).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    rows.iter().map(claimed).collect()
}

fn claimed(row: &PgRow) -> Result<Claim, Fault> {
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

pub(super) async fn save(db: &Database, claim: &Claim, cursor: &[u8], attempts: i32, due: Due) -> Result<bool, Fault> {
    let mut tx = db.begin(&claim.tenant).await?;
    let saved = save_in_tx(&mut tx, claim, cursor, attempts, due).await?;
    tx.commit().await?;
    Ok(saved)
}

async fn save_in_tx(tx: &mut Tx, claim: &Claim, cursor: &[u8], attempts: i32, due: Due) -> Result<bool, Fault> {
    let (told, span) = match due {
        Due::Held => (false, HOLD),
        Due::Told => (true, std::time::Duration::ZERO),
        Due::In(span) => (false, span),
    };
    let query = tx.query(
        "UPDATE session.hooks SET cursor = $4, attempts = $5, \
         due_time = CASE WHEN $6 AND marks = $7 THEN NULL ELSE now() + $8 * interval '1 millisecond' END \
         WHERE session = $1 AND hook = $2 AND epoch = $3 AND tenant = $9",
    );
    let query = query.bind(claim.session).bind(&claim.hook).bind(claim.epoch).bind(cursor).bind(attempts);
    let query = query.bind(told).bind(claim.marks).bind(millis(span)).bind(&claim.tenant);
    Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
}

pub(super) async fn bury(db: &Database, claim: &Claim, cursor: &[u8], dead: &DeadNotice) -> Result<bool, Fault> {
    let mut tx = db.begin(&claim.tenant).await?;
    if !save_in_tx(&mut tx, claim, cursor, 0, Due::Held).await? {
        return Ok(false);
    }
    let query = tx.query(
        "INSERT INTO session.dead_notices (tenant, hook, id, session, notice, failure, attempts) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, hook, id) DO NOTHING",
    );
    let query = query.bind(&claim.tenant).bind(&dead.hook).bind(&dead.id).bind(dead.session);
    query.bind(&dead.notice[..]).bind(&dead.failure).bind(dead.attempts).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn dead_list(db: &Database, tenant: &str, page: &DeadPage) -> Result<Vec<DeadNotice>, Fault> {
    let (after_hook, after_id) = page.after.clone().unzip();
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "SELECT hook, id, session, notice, failure, attempts, dead_time FROM session.dead_notices \
         WHERE tenant = $1 AND ($2::text IS NULL OR hook = $2) AND ($3::text IS NULL OR (hook, id) > ($3, $4)) \
         ORDER BY hook, id LIMIT $5",
    );
    let query = query.bind(tenant).bind(&page.hook).bind(after_hook).bind(after_id).bind(page.limit.max(0));
    let rows = query.fetch_all(&mut *tx).await?;
    tx.done().await?;
    rows.iter().map(dead).collect()
}

pub(super) async fn dead_get(db: &Database, tenant: &str, hook: &str, id: &str) -> Result<Option<DeadNotice>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "SELECT hook, id, session, notice, failure, attempts, dead_time FROM session.dead_notices \
         WHERE tenant = $1 AND hook = $2 AND id = $3",
    );
    let row = query.bind(tenant).bind(hook).bind(id).fetch_optional(&mut *tx).await?;
    tx.done().await?;
    row.as_ref().map(dead).transpose()
}

fn dead(row: &PgRow) -> Result<DeadNotice, Fault> {
    Ok(DeadNotice {
        hook: row.try_get("hook")?,
        id: row.try_get("id")?,
        session: row.try_get("session")?,
        notice: Bytes::from(row.try_get::<Vec<u8>, _>("notice")?),
        failure: row.try_get("failure")?,
        attempts: row.try_get("attempts")?,
        time: row.try_get("dead_time")?,
    })
}

pub(super) async fn dead_drop(db: &Database, tenant: &str, hook: &str, id: &str) -> Result<(), Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query("DELETE FROM session.dead_notices WHERE tenant = $1 AND hook = $2 AND id = $3");
    query.bind(tenant).bind(hook).bind(id).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn leaves(
    db: &Database,
    tenant: &str,
    run: Uuid,
    from_seq: i64,
    limit: i64,
) -> Result<Vec<(i64, Bytes)>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "SELECT seq, leaf FROM session.events WHERE run_id = $1 AND tenant = $2 AND seq >= $3 ORDER BY seq LIMIT $4",
    );
    let rows = query.bind(run).bind(tenant).bind(from_seq).bind(limit.max(0)).fetch_all(&mut *tx).await?;
    tx.done().await?;
    rows.iter().map(|row| Ok((row.try_get("seq")?, Bytes::from(row.try_get::<Vec<u8>, _>("leaf")?)))).collect()
}
