//! Sessions that end by themselves, and those that are past retention.

use std::time::Duration;

use uuid::Uuid;

use crate::store::{
    SESSION_ENDED, SESSION_ENDING, SESSION_OPEN, SessionRow,
    fault::Fault,
    session_log::kind,
    timer::{Expiry, GRACE, HOLD, TimerKind},
};

use super::{
    claims::millis,
    database::{Database, Tx},
    hooks,
    rows::{self, session_columns},
    sessions::log_append_in_tx,
};

const END: i16 = TimerKind::End.number();

/// Sets the timer of a session that ends when it is idle.
pub(super) async fn arm_in_tx(tx: &mut Tx, session: &SessionRow) -> Result<(), Fault> {
    match session.idle_timeout {
        Some(idle) if session.state == SESSION_OPEN => {
            set_in_tx(tx, session, Some(idle), idle.saturating_add(GRACE)).await
        }
        _ => Ok(()),
    }
}

/// Sets or drops the timer as the session's change wants it.
pub(super) async fn follow_in_tx(tx: &mut Tx, before: &SessionRow, now: &SessionRow) -> Result<(), Fault> {
    let reaches = |state: i16| before.state < state && now.state >= state;
    if reaches(SESSION_ENDED) || (now.state == SESSION_OPEN && before.idle_timeout != now.idle_timeout) {
        let query = tx.query("DELETE FROM session.timers WHERE session = $1 AND kind = $2");
        query.bind(now.id).bind(END).execute(&mut **tx).await?;
        return arm_in_tx(tx, now).await;
    }
    if reaches(SESSION_ENDING) { set_in_tx(tx, now, None, HOLD).await } else { Ok(()) }
}

async fn set_in_tx(tx: &mut Tx, session: &SessionRow, idle: Option<Duration>, due: Duration) -> Result<(), Fault> {
    let query = tx.query(
        "INSERT INTO session.timers (session, kind, tenant, idle_ms, due_time, seen_time) \
         VALUES ($1, $2, $3, $4, now() + $5 * interval '1 millisecond', now()) ON CONFLICT (session, kind) DO UPDATE \
         SET idle_ms = excluded.idle_ms, due_time = excluded.due_time, seen_time = excluded.seen_time",
    );
    let query = query.bind(session.id).bind(END).bind(&session.tenant).bind(idle.map(millis)).bind(millis(due));
    query.execute(&mut **tx).await?;
    Ok(())
}

/// Something has happened in a session.
pub(super) async fn seen_in_tx(tx: &mut Tx, session: Uuid) -> Result<(), Fault> {
    let query = tx.query(
        "UPDATE session.timers SET seen_time = now(), due_time = now() + (idle_ms + $3) * interval '1 millisecond' \
         WHERE session = $1 AND kind = $2 AND idle_ms IS NOT NULL",
    );
    query.bind(session).bind(END).bind(millis(GRACE)).execute(&mut **tx).await?;
    Ok(())
}

/// Across tenants, so as the scheduler, who sees ids alone.
pub(super) async fn seen(db: &Database, seen: &[(String, Uuid)]) -> Result<(), Fault> {
    let (tenants, sessions): (Vec<&str>, Vec<Uuid>) = seen.iter().map(|(tenant, id)| (tenant.as_str(), *id)).unzip();
    let mut tx = db.begin_as_scheduler().await?;
    let query = tx.query(
        "UPDATE session.timers t SET seen_time = now(), due_time = now() + (t.idle_ms + $4) * interval '1 millisecond' \
         FROM unnest($1::text[], $2::uuid[]) AS seen (tenant, session) \
         WHERE t.session = seen.session AND t.tenant = seen.tenant AND t.kind = $3 AND t.idle_ms IS NOT NULL",
    );
    query.bind(tenants).bind(sessions).bind(END).bind(millis(GRACE)).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn expire(db: &Database, session: &SessionRow) -> Result<Expiry, Fault> {
    let mut tx = db.begin(&session.tenant).await?;
    let query = tx.query(concat!(
        "SELECT ",
        session_columns!(),
        " FROM session.sessions WHERE id = $1 AND tenant = $2 FOR UPDATE"
    ));
    let row = query.bind(session.id).bind(&session.tenant).fetch_optional(&mut *tx).await?;
    let Some(before) = row.as_ref().map(rows::session).transpose()? else { return Ok(Expiry::Changed) };
    if before.state != SESSION_OPEN || before.version.checked_add(1) != Some(session.version) {
        return Ok(Expiry::Changed);
    }
    if !is_idle_in_tx(&mut tx, session.id).await? {
        tx.commit().await?;
        return Ok(Expiry::NotIdle);
    }
    let query =
        tx.query("UPDATE session.sessions SET state = $2, body = $3, update_time = $4, version = $5 WHERE id = $1");
    let query = query.bind(session.id).bind(SESSION_ENDING).bind(&session.body[..]);
    query.bind(session.update_time).bind(session.version).execute(&mut *tx).await?;
    log_append_in_tx(&mut tx, &session.tenant, session.id, kind::EXPIRED, None).await?;
    set_in_tx(&mut tx, session, None, HOLD).await?;
    hooks::mark_in_tx(&mut tx, db.hooks_of(&session.tenant), &session.tenant, session.id).await?;
    tx.commit().await?;
    Ok(Expiry::Ending)
}

/// Whether the locked session is idle; else its timer is set to when it may be.
async fn is_idle_in_tx(tx: &mut Tx, session: Uuid) -> Result<bool, Fault> {
    let query = tx.query_scalar(
        "UPDATE session.timers t SET due_time = CASE \
           WHEN EXISTS (SELECT FROM session.runs r WHERE r.session = $1 AND r.state < 4) \
             THEN now() + (idle_ms + $3) * interval '1 millisecond' \
           ELSE seen_time + (idle_ms + $3) * interval '1 millisecond' END \
         WHERE session = $1 AND kind = $2 AND idle_ms IS NOT NULL RETURNING due_time <= now()",
    );
    let idle: Option<bool> = query.bind(session).bind(END).bind(millis(GRACE)).fetch_optional(&mut **tx).await?;
    Ok(idle.unwrap_or(false))
}

pub(super) async fn past(db: &Database, tenant: &str, retention: Duration, limit: i64) -> Result<Vec<Uuid>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query_scalar(
        "SELECT id FROM session.sessions WHERE tenant = $1 AND state = 3 AND NOT pruned \
         AND update_time < now() - $2 * interval '1 millisecond' ORDER BY update_time LIMIT $3",
    );
    let past = query.bind(tenant).bind(millis(retention)).bind(limit.max(0)).fetch_all(&mut *tx).await?;
    tx.done().await?;
    Ok(past)
}
