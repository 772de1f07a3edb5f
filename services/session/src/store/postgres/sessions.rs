//! Sessions and their own short chain.

use sqlx::Row;
use uuid::Uuid;

use crate::store::{
    Error, Outcome, Page, RequestKey, SESSION_ENDED, SessionLogRow, SessionRow,
    fault::Fault,
    session_log::{self, kind},
};

use super::{
    claims::millis,
    database::{Database, Try, Tx},
    expiry, hooks,
    requests::{Request, take_in_tx},
    rows::{self, log_columns, session_columns},
};

pub(super) async fn start(db: &Database, key: &RequestKey, session: &SessionRow) -> Result<Outcome<SessionRow>, Fault> {
    let mut tx = db.begin(&session.tenant).await?;
    match take_in_tx(&mut tx, &session.tenant, key, session.id, session.id).await? {
        Request::New => {}
        Request::Reused => return Ok(Outcome::Reused),
        Request::Repeated(id) => {
            let stored = existing(&mut tx, &session.tenant, id).await?;
            return Ok(if id == session.id { Outcome::Done(stored) } else { Outcome::Repeated(stored) });
        }
    }
    let row = tx.query(
        concat!("INSERT INTO session.sessions (id, tenant, state, principal, body, salt_key, version, create_time, update_time, idle_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING ", session_columns!()),
    )
    .bind(session.id)
    .bind(&session.tenant)
    .bind(session.state)
    .bind(&session.principal)
    .bind(&session.body[..])
    .bind(&session.salt_key[..])
    .bind(session.version)
    .bind(session.create_time)
    .bind(session.update_time)
    .bind(session.idle_timeout.map(millis))
    .fetch_one(&mut *tx)
    .await?;
    let stored = rows::session(&row)?;
    log_append_in_tx(&mut tx, &session.tenant, session.id, kind::STARTED, None).await?;
    expiry::arm_in_tx(&mut tx, &stored).await?;
    hooks::mark_in_tx(&mut tx, db.hooks_of(&session.tenant), &session.tenant, session.id).await?;
    tx.commit().await?;
    Ok(Outcome::Done(stored))
}

pub(super) async fn read(db: &Database, tenant: &str, id: Uuid) -> Result<Option<SessionRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let session = read_in_tx(&mut tx, tenant, id).await?;
    tx.done().await?;
    Ok(session)
}

async fn read_in_tx(tx: &mut Tx, tenant: &str, id: Uuid) -> Result<Option<SessionRow>, Fault> {
    let query =
        tx.query(concat!("SELECT ", session_columns!(), " FROM session.sessions WHERE id = $1 AND tenant = $2"));
    let row = query.bind(id).bind(tenant).fetch_optional(&mut **tx).await?;
    row.as_ref().map(rows::session).transpose()
}

/// A session that a request id names.
async fn existing(tx: &mut Tx, tenant: &str, id: Uuid) -> Result<SessionRow, Fault> {
    Ok(read_in_tx(tx, tenant, id).await?.ok_or(Error::Corrupt("request id"))?)
}

pub(super) async fn list(db: &Database, tenant: &str, page: Page) -> Result<Vec<SessionRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let rows = tx
        .query(concat!(
            "SELECT ",
            session_columns!(),
            " FROM session.sessions \
         WHERE tenant = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::smallint IS NULL OR state = $3) \
         ORDER BY id DESC LIMIT $4"
        ))
        .bind(tenant)
        .bind(page.before)
        .bind(page.state)
        .bind(page.limit.max(0))
        .fetch_all(&mut *tx)
        .await?;
    tx.done().await?;
    rows.iter().map(rows::session).collect()
}

pub(super) async fn change(
    db: &Database,
    key: Option<&RequestKey>,
    session: &SessionRow,
    which: Try,
) -> Result<Option<Outcome<SessionRow>>, Fault> {
    let mut tx = db.begin(&session.tenant).await?;
    if let Some(key) = key {
        match take_in_tx(&mut tx, &session.tenant, key, session.id, session.id).await? {
            Request::New => {}
            Request::Reused => return Ok(Some(Outcome::Reused)),
            Request::Repeated(id) => {
                let stored = existing(&mut tx, &session.tenant, id).await?;
                let own = which == Try::Again && is_change(&stored, session);
                return Ok(Some(if own { Outcome::Done(stored) } else { Outcome::Repeated(stored) }));
            }
        }
    }
    let row = tx
        .query(concat!(
            "SELECT ",
            session_columns!(),
            " FROM session.sessions WHERE id = $1 AND tenant = $2 FOR UPDATE"
        ))
        .bind(session.id)
        .bind(&session.tenant)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(before) = row.as_ref().map(rows::session).transpose()? else {
        return Ok(None);
    };
    if before.version.checked_add(1) != Some(session.version) {
        // The first try may have been the one that changed it.
        let own = which == Try::Again && is_change(&before, session);
        return Ok(own.then_some(Outcome::Done(before)));
    }
    let row = tx.query(concat!(
        "UPDATE session.sessions SET state = $2, body = $3, update_time = $4, version = $5, idle_ms = $6 WHERE id = $1 RETURNING ",
        session_columns!()
    ))
    .bind(session.id)
    .bind(session.state)
    .bind(&session.body[..])
    .bind(session.update_time)
    .bind(session.version)
    .bind(session.idle_timeout.map(millis))
    .fetch_one(&mut *tx)
    .await?;
    let stored = rows::session(&row)?;
    expiry::follow_in_tx(&mut tx, &before, &stored).await?;
    if before.state < SESSION_ENDED && stored.state == SESSION_ENDED {
        log_append_in_tx(&mut tx, &session.tenant, session.id, kind::ENDED, None).await?;
        hooks::mark_in_tx(&mut tx, db.hooks_of(&session.tenant), &session.tenant, session.id).await?;
    }
    tx.commit().await?;
    Ok(Some(Outcome::Done(stored)))
}

fn is_change(stored: &SessionRow, change: &SessionRow) -> bool {
    (stored.version, stored.state, &stored.body) == (change.version, change.state, &change.body)
}

pub(super) async fn log(db: &Database, tenant: &str, id: Uuid) -> Result<Vec<SessionLogRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let rows = tx
        .query(concat!(
            "SELECT ",
            log_columns!(),
            " FROM session.session_log WHERE session = $1 AND tenant = $2 ORDER BY seq"
        ))
        .bind(id)
        .bind(tenant)
        .fetch_all(&mut *tx)
        .await?;
    tx.done().await?;
    rows.iter().map(rows::log).collect()
}

/// Locks a session until the transaction's end and answers its state: what adds to its log is serialised.
pub(super) async fn lock_in_tx(tx: &mut Tx, tenant: &str, id: Uuid) -> Result<Option<i16>, Fault> {
    Ok(tx
        .query_scalar("SELECT state FROM session.sessions WHERE id = $1 AND tenant = $2 FOR UPDATE")
        .bind(id)
        .bind(tenant)
        .fetch_optional(&mut **tx)
        .await?)
}

/// Adds an entry to a session's log. The session is new or locked by this transaction.
pub(super) async fn log_append_in_tx(
    tx: &mut Tx,
    tenant: &str,
    session: Uuid,
    kind: &str,
    run: Option<(Uuid, [u8; 32])>,
) -> Result<(), Fault> {
    let last = tx
        .query("SELECT seq, hash FROM session.session_log WHERE session = $1 ORDER BY seq DESC LIMIT 1")
        .bind(session)
        .fetch_optional(&mut **tx)
        .await?;
    let last = match &last {
        Some(row) => Some((row.try_get("seq")?, rows::hash(row, "hash")?)),
        None => None,
    };
    let entry = session_log::next(last, kind, run);
    tx.query(
        "INSERT INTO session.session_log (session, seq, tenant, kind, run, run_hash, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(session)
    .bind(entry.seq)
    .bind(tenant)
    .bind(&entry.kind)
    .bind(entry.run)
    .bind(entry.run_hash.as_ref().map(|hash| &hash[..]))
    .bind(&entry.hash[..])
    .execute(&mut **tx)
    .await?;
    Ok(())
}
