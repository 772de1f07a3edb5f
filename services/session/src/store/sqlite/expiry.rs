//! Sessions that end by themselves, and those that are past retention.

use std::time::Duration;

use sqlx::{SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::store::{
    SESSION_ENDED, SESSION_ENDING, SESSION_OPEN, SessionRow,
    fault::Fault,
    session_log::kind,
    timer::{Expiry, GRACE, HOLD, TimerKind},
};

use super::{
    hooks,
    rows::{self, micros, now, session_columns},
    sessions::log_append_in_tx,
    timers,
};

const END: i16 = TimerKind::End.number();

pub(super) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2_000)
}

/// Sets the timer of a session that ends when it is idle.
pub(super) async fn arm_in_tx(tx: &mut SqliteConnection, session: &SessionRow) -> Result<(), Fault> {
    match session.idle_timeout {
        Some(idle) if session.state == SESSION_OPEN => {
            set_in_tx(tx, session, Some(idle), idle.saturating_add(GRACE)).await
        }
        _ => Ok(()),
    }
}

/// Sets or drops the timer as the session's change wants it.
pub(super) async fn follow_in_tx(
    tx: &mut SqliteConnection,
    before: &SessionRow,
    now: &SessionRow,
) -> Result<(), Fault> {
    let reaches = |state: i16| before.state < state && now.state >= state;
    if reaches(SESSION_ENDED) || (now.state == SESSION_OPEN && before.idle_timeout != now.idle_timeout) {
        let query = sqlx::query("DELETE FROM timers WHERE session = $1 AND kind = $2");
        query.bind(now.id).bind(END).execute(&mut *tx).await?;
        return arm_in_tx(tx, now).await;
    }
    if reaches(SESSION_ENDING) { set_in_tx(tx, now, None, HOLD).await } else { Ok(()) }
}

async fn set_in_tx(
    tx: &mut SqliteConnection,
    session: &SessionRow,
    idle: Option<Duration>,
    due: Duration,
) -> Result<(), Fault> {
    sqlx::query(concat!(
        "INSERT INTO timers (session, kind, tenant, idle_ms, due_time, seen_time) VALUES ($1, $2, $3, $4, ",
        now!(),
        " + $5, ",
        now!(),
        ") ON CONFLICT (session, kind) DO UPDATE \
         SET idle_ms = excluded.idle_ms, due_time = excluded.due_time, seen_time = excluded.seen_time"
    ))
    .bind(session.id)
    .bind(END)
    .bind(&session.tenant)
    .bind(idle.map(millis))
    .bind(timers::micros(due))
    .execute(tx)
    .await?;
    Ok(())
}

const SEEN: &str = concat!(
    "UPDATE timers SET seen_time = ",
    now!(),
    ", due_time = ",
    now!(),
    " + (idle_ms * 1000) + $3 WHERE session = $1 AND kind = $2 AND idle_ms IS NOT NULL"
);

/// Something has happened in a session.
pub(super) async fn seen_in_tx(tx: &mut SqliteConnection, session: Uuid) -> Result<(), Fault> {
    sqlx::query(SEEN).bind(session).bind(END).bind(timers::micros(GRACE)).execute(tx).await?;
    Ok(())
}

pub(super) async fn seen(pool: &SqlitePool, seen: &[(String, Uuid)]) -> Result<(), Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    for (tenant, session) in seen {
        let query = sqlx::query(concat!(
            "UPDATE timers SET seen_time = ",
            now!(),
            ", due_time = ",
            now!(),
            " + (idle_ms * 1000) + $3 WHERE session = $1 AND kind = $2 AND idle_ms IS NOT NULL AND tenant = $4"
        ));
        query.bind(session).bind(END).bind(timers::micros(GRACE)).bind(tenant).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn expire(pool: &SqlitePool, session: &SessionRow) -> Result<Expiry, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let query = sqlx::query(concat!("SELECT ", session_columns!(), " FROM sessions WHERE id = $1 AND tenant = $2"));
    let row = query.bind(session.id).bind(&session.tenant).fetch_optional(&mut *tx).await?;
    let Some(before) = row.as_ref().map(rows::session).transpose()? else { return Ok(Expiry::Changed) };
    if before.state != SESSION_OPEN || before.version.checked_add(1) != Some(session.version) {
        return Ok(Expiry::Changed);
    }
    if !is_idle_in_tx(&mut tx, session.id).await? {
        tx.commit().await?;
        return Ok(Expiry::NotIdle);
    }
    let query = sqlx::query("UPDATE sessions SET state = $2, body = $3, update_time = $4, version = $5 WHERE id = $1");
    let query = query.bind(session.id).bind(SESSION_ENDING).bind(&session.body[..]);
    query.bind(micros(session.update_time)).bind(session.version).execute(&mut *tx).await?;
    log_append_in_tx(&mut tx, &session.tenant, session.id, kind::EXPIRED, None).await?;
    set_in_tx(&mut tx, session, None, HOLD).await?;
    hooks::mark_in_tx(&mut tx, &session.tenant, session.id).await?;
    tx.commit().await?;
    Ok(Expiry::Ending)
}

/// Whether the session is idle; else its timer is set to when it may be.
async fn is_idle_in_tx(tx: &mut SqliteConnection, session: Uuid) -> Result<bool, Fault> {
    let query = sqlx::query_scalar(concat!(
        "UPDATE timers SET due_time = (idle_ms * 1000) + $3 + CASE \
           WHEN EXISTS (SELECT 1 FROM runs r WHERE r.session = $1 AND r.state < 4) THEN ",
        now!(),
        " ELSE seen_time END WHERE session = $1 AND kind = $2 AND idle_ms IS NOT NULL RETURNING due_time <= ",
        now!()
    ));
    let query = query.bind(session).bind(END).bind(timers::micros(GRACE));
    let idle: Option<bool> = query.fetch_optional(tx).await?;
    Ok(idle.unwrap_or(false))
}

pub(super) async fn past(pool: &SqlitePool, tenant: &str, retention: Duration, limit: i64) -> Result<Vec<Uuid>, Fault> {
    let query = sqlx::query_scalar(concat!(
        "SELECT id FROM sessions WHERE tenant = $1 AND state = 3 AND NOT pruned AND update_time < ",
        now!(),
        " - $2 ORDER BY update_time LIMIT $3"
    ));
    Ok(query.bind(tenant).bind(timers::micros(retention)).bind(limit.max(0)).fetch_all(pool).await?)
}
