//! Timers of sessions.

use std::time::Duration;

use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use uuid::Uuid;

use crate::store::{
    fault::Fault,
    timer::{HOLD, Timer, TimerKind},
};

use super::rows::now;

/// Sets a timer, unless it is set.
pub(super) async fn set_in_tx(
    tx: &mut SqliteConnection,
    tenant: &str,
    session: Uuid,
    kind: TimerKind,
    span: Duration,
) -> Result<(), Fault> {
    sqlx::query(concat!(
        "INSERT INTO timers (session, kind, tenant, due_time) VALUES ($1, $2, $3, ",
        now!(),
        " + $4) ON CONFLICT (session, kind) DO NOTHING"
    ))
    .bind(session)
    .bind(kind.number())
    .bind(tenant)
    .bind(micros(span))
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether a timer is set.
pub(super) async fn is_set_in_tx(tx: &mut SqliteConnection, session: Uuid, kind: TimerKind) -> Result<bool, Fault> {
    let query = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM timers WHERE session = $1 AND kind = $2)");
    Ok(query.bind(session).bind(kind.number()).fetch_one(tx).await?)
}

pub(super) async fn claim(pool: &SqlitePool, limit: i64) -> Result<Vec<Timer>, Fault> {
    let rows = sqlx::query(concat!(
        "UPDATE timers SET due_time = ",
        now!(),
        " + $2 WHERE (session, kind) IN (SELECT session, kind FROM timers WHERE due_time <= ",
        now!(),
        " ORDER BY due_time LIMIT $1) RETURNING tenant, session, kind"
    ))
    .bind(limit.max(0))
    .bind(micros(HOLD))
    .fetch_all(pool)
    .await?;
    rows.iter().filter_map(|row| timer(row).transpose()).collect()
}

/// One of a kind that a newer version knows is left to it.
fn timer(row: &SqliteRow) -> Result<Option<Timer>, Fault> {
    let Some(kind) = TimerKind::from_number(row.try_get("kind")?) else { return Ok(None) };
    Ok(Some(Timer { tenant: row.try_get("tenant")?, session: row.try_get("session")?, kind }))
}

pub(super) async fn put_off(pool: &SqlitePool, timer: &Timer, span: Duration) -> Result<(), Fault> {
    sqlx::query(concat!(
        "UPDATE timers SET due_time = ",
        now!(),
        " + $4 WHERE session = $1 AND kind = $2 AND tenant = $3"
    ))
    .bind(timer.session)
    .bind(timer.kind.number())
    .bind(&timer.tenant)
    .bind(micros(span))
    .execute(pool)
    .await?;
    Ok(())
}

pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX / 4)
}
