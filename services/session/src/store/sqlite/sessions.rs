//! Sessions and their own short chain.

use sqlx::{Row, SqliteConnection, SqliteExecutor, SqlitePool};
use uuid::Uuid;

use crate::store::{
    Error, Outcome, Page, RequestKey, SESSION_ENDED, SessionLogRow, SessionRow,
    fault::Fault,
    session_log::{self, kind},
};

use super::{
    expiry, hooks,
    requests::{Request, take_in_tx},
    rows::{self, log_columns, micros, session_columns},
};

pub(super) async fn start(
    pool: &SqlitePool,
    key: &RequestKey,
    session: &SessionRow,
) -> Result<Outcome<SessionRow>, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    match take_in_tx(&mut tx, &session.tenant, key, session.id, session.id).await? {
        Request::New => {}
        Request::Reused => return Ok(Outcome::Reused),
        Request::Repeated(id) => {
            let stored = existing(&mut *tx, &session.tenant, id).await?;
            return Ok(if id == session.id { Outcome::Done(stored) } else { Outcome::Repeated(stored) });
        }
    }
    let row = sqlx::query(concat!(
        "INSERT INTO sessions (id, tenant, state, principal, body, salt_key, version, create_time, update_time, \
         idle_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING ",
        session_columns!()
    ))
    .bind(session.id)
    .bind(&session.tenant)
    .bind(session.state)
    .bind(&session.principal)
    .bind(&session.body[..])
    .bind(&session.salt_key[..])
    .bind(session.version)
    .bind(micros(session.create_time))
    .bind(micros(session.update_time))
    .bind(session.idle_timeout.map(expiry::millis))
    .fetch_one(&mut *tx)
    .await?;
    let stored = rows::session(&row)?;
    log_append_in_tx(&mut tx, &session.tenant, session.id, kind::STARTED, None).await?;
    expiry::arm_in_tx(&mut tx, &stored).await?;
    hooks::mark_in_tx(&mut tx, &session.tenant, session.id).await?;
    tx.commit().await?;
    Ok(Outcome::Done(stored))
}

pub(super) async fn read(db: impl SqliteExecutor<'_>, tenant: &str, id: Uuid) -> Result<Option<SessionRow>, Fault> {
    let row = sqlx::query(concat!("SELECT ", session_columns!(), " FROM sessions WHERE id = $1 AND tenant = $2"))
        .bind(id)
        .bind(tenant)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(rows::session).transpose()
}

/// A session that a request id names.
async fn existing(db: impl SqliteExecutor<'_>, tenant: &str, id: Uuid) -> Result<SessionRow, Fault> {
    Ok(read(db, tenant, id).await?.ok_or(Error::Corrupt("request id"))?)
}

pub(super) async fn list(pool: &SqlitePool, tenant: &str, page: Page) -> Result<Vec<SessionRow>, Fault> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        session_columns!(),
        " FROM sessions \
         WHERE tenant = $1 AND ($2 IS NULL OR id < $2) AND ($3 IS NULL OR state = $3) \
         ORDER BY id DESC LIMIT $4"
    ))
    .bind(tenant)
    .bind(page.before)
    .bind(page.state)
    .bind(page.limit.max(0))
    .fetch_all(pool)
    .await?;
    rows.iter().map(rows::session).collect()
}

pub(super) async fn change(
    pool: &SqlitePool,
    key: Option<&RequestKey>,
    session: &SessionRow,
) -> Result<Option<Outcome<SessionRow>>, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    if let Some(key) = key {
        match take_in_tx(&mut tx, &session.tenant, key, session.id, session.id).await? {
            Request::New => {}
            Request::Reused => return Ok(Some(Outcome::Reused)),
            Request::Repeated(id) => {
                let stored = existing(&mut *tx, &session.tenant, id).await?;
                return Ok(Some(Outcome::Repeated(stored)));
            }
        }
    }
    let row = sqlx::query(concat!("SELECT ", session_columns!(), " FROM sessions WHERE id = $1 AND tenant = $2"))
        .bind(session.id)
        .bind(&session.tenant)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(before) = row.as_ref().map(rows::session).transpose()? else {
        return Ok(None);
    };
    if before.version.checked_add(1) != Some(session.version) {
        return Ok(None);
    }
    let row = sqlx::query(concat!(
        "UPDATE sessions SET state = $2, body = $3, update_time = $4, version = $5, idle_ms = $6 WHERE id = $1 RETURNING ",
        session_columns!()
    ))
    .bind(session.id)
    .bind(session.state)
    .bind(&session.body[..])
    .bind(micros(session.update_time))
    .bind(session.version)
    .bind(session.idle_timeout.map(expiry::millis))
    .fetch_one(&mut *tx)
    .await?;
    let stored = rows::session(&row)?;
    expiry::follow_in_tx(&mut tx, &before, &stored).await?;
    if before.state < SESSION_ENDED && stored.state == SESSION_ENDED {
        log_append_in_tx(&mut tx, &session.tenant, session.id, kind::ENDED, None).await?;
        hooks::mark_in_tx(&mut tx, &session.tenant, session.id).await?;
    }
    tx.commit().await?;
    Ok(Some(Outcome::Done(stored)))
}

pub(super) async fn log(pool: &SqlitePool, tenant: &str, id: Uuid) -> Result<Vec<SessionLogRow>, Fault> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        log_columns!(),
        " FROM session_log WHERE session = $1 AND tenant = $2 ORDER BY seq"
    ))
    .bind(id)
    .bind(tenant)
    .fetch_all(pool)
    .await?;
    rows.iter().map(rows::log).collect()
}

/// The state of a session. The transaction is the only writer.
pub(super) async fn state_in_tx(tx: &mut SqliteConnection, tenant: &str, id: Uuid) -> Result<Option<i16>, Fault> {
    Ok(sqlx::query_scalar("SELECT state FROM sessions WHERE id = $1 AND tenant = $2")
        .bind(id)
        .bind(tenant)
        .fetch_optional(tx)
        .await?)
}

/// Adds an entry to a session's log.
pub(super) async fn log_append_in_tx(
    tx: &mut SqliteConnection,
    tenant: &str,
    session: Uuid,
    kind: &str,
    run: Option<(Uuid, [u8; 32])>,
) -> Result<(), Fault> {
    let last = sqlx::query("SELECT seq, hash FROM session_log WHERE session = $1 ORDER BY seq DESC LIMIT 1")
        .bind(session)
        .fetch_optional(&mut *tx)
        .await?;
    let last = match &last {
        Some(row) => Some((row.try_get("seq")?, rows::hash(row, "hash")?)),
        None => None,
    };
    let entry = session_log::next(last, kind, run);
    sqlx::query(
        "INSERT INTO session_log (session, seq, tenant, kind, run, run_hash, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(session)
    .bind(entry.seq)
    .bind(tenant)
    .bind(&entry.kind)
    .bind(entry.run)
    .bind(entry.run_hash.as_ref().map(|hash| &hash[..]))
    .bind(&entry.hash[..])
    .execute(tx)
    .await?;
    Ok(())
}
