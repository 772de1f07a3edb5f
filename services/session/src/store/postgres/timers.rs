//! Timers of sessions: claimed across tenants as the scheduler, who sees ids alone.

use std::time::Duration;

use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::store::{
    fault::Fault,
    timer::{HOLD, Timer, TimerKind},
};

use super::{
    claims::millis,
    database::{Database, Tx},
};

/// Sets a timer, unless it is set.
pub(super) async fn set_in_tx(
    tx: &mut Tx,
    tenant: &str,
    session: Uuid,
    kind: TimerKind,
    span: Duration,
) -> Result<(), Fault> {
    let query = tx.query(
        "INSERT INTO session.timers (session, kind, tenant, due_time) \
         VALUES ($1, $2, $3, now() + $4 * interval '1 millisecond') ON CONFLICT (session, kind) DO NOTHING",
    );
    query.bind(session).bind(kind.number()).bind(tenant).bind(millis(span)).execute(&mut **tx).await?;
    Ok(())
}

/// Whether a timer is set.
pub(super) async fn is_set_in_tx(tx: &mut Tx, session: Uuid, kind: TimerKind) -> Result<bool, Fault> {
    let query = tx.query_scalar("SELECT EXISTS (SELECT FROM session.timers WHERE session = $1 AND kind = $2)");
    Ok(query.bind(session).bind(kind.number()).fetch_one(&mut **tx).await?)
}

pub(super) async fn claim(db: &Database, limit: i64) -> Result<Vec<Timer>, Fault> {
    let mut tx = db.begin_as_scheduler().await?;
    let query = tx.query(
        "WITH picked AS ( \
           SELECT session, kind FROM session.timers WHERE due_time <= now() \
           ORDER BY due_time LIMIT $1 FOR UPDATE SKIP LOCKED) \
         UPDATE session.timers t SET due_time = now() + $2 * interval '1 millisecond' FROM picked \
         WHERE t.session = picked.session AND t.kind = picked.kind RETURNING t.tenant, t.session, t.kind",
    );
    let rows = query.bind(limit.max(0)).bind(millis(HOLD)).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    rows.iter().filter_map(|row| timer(row).transpose()).collect()
}

/// One of a kind that a newer version knows is left to it.
fn timer(row: &PgRow) -> Result<Option<Timer>, Fault> {
    let Some(kind) = TimerKind::from_number(row.try_get("kind")?) else { return Ok(None) };
    Ok(Some(Timer { tenant: row.try_get("tenant")?, session: row.try_get("session")?, kind }))
}

pub(super) async fn put_off(db: &Database, timer: &Timer, span: Duration) -> Result<(), Fault> {
    let mut tx = db.begin(&timer.tenant).await?;
    let query = tx.query(
        "UPDATE session.timers SET due_time = now() + $4 * interval '1 millisecond' \
         WHERE session = $1 AND kind = $2 AND tenant = $3",
    );
    let query = query.bind(timer.session).bind(timer.kind.number()).bind(&timer.tenant).bind(millis(span));
    query.execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}
