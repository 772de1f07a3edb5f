//! Erasures. The application may not change what it has written: functions of the retention role destroy payloads, of sessions
//! whose log says so.

use uuid::Uuid;

use bytes::Bytes;

use crate::store::{
    RequestKey, SESSION_ENDED, SESSION_ERASED, SessionRow,
    erasure::{Begun, Extent},
    fault::Fault,
    timer::{HOLD, TimerKind},
};

use super::{
    database::{Database, Tx},
    hooks,
    requests::{Request, take_in_tx},
    sessions::{lock_in_tx, log_append_in_tx},
    timers,
};

pub(super) async fn begin(
    db: &Database,
    key: Option<&RequestKey>,
    tenant: &str,
    session: Uuid,
    extent: Extent,
) -> Result<Begun, Fault> {
    let mut tx = db.begin(tenant).await?;
    if let Some(key) = key {
        match take_in_tx(&mut tx, tenant, key, session, session).await? {
            Request::Repeated(id) if id == session => {}
            Request::New => {}
            Request::Repeated(_) | Request::Reused => return Ok(Begun::Reused),
        }
    }
    match lock_in_tx(&mut tx, tenant, session).await? {
        None => return Ok(Begun::Absent),
        Some(state) if state < SESSION_ENDED => return Ok(Begun::NotEnded(state)),
        Some(SESSION_ENDED) => {}
        Some(_) => {
            tx.commit().await?;
            return Ok(Begun::Gone);
        }
    }
    let kind = TimerKind::from(extent);
    if is_recorded_in_tx(&mut tx, session, extent).await? {
        let going = timers::is_set_in_tx(&mut tx, session, kind).await?;
        tx.commit().await?;
        return Ok(if going { Begun::Going } else { Begun::Gone });
    }
    let query = tx.query("UPDATE session.sessions SET pruned = true, version = version + 1 WHERE id = $1");
    query.bind(session).execute(&mut *tx).await?;
    log_append_in_tx(&mut tx, tenant, session, extent.entry(), None).await?;
    timers::set_in_tx(&mut tx, tenant, session, kind, HOLD).await?;
    hooks::mark_in_tx(&mut tx, db.hooks_of(tenant), tenant, session).await?;
    tx.commit().await?;
    Ok(Begun::Going)
}

async fn is_recorded_in_tx(tx: &mut Tx, session: Uuid, extent: Extent) -> Result<bool, Fault> {
    let query = tx.query_scalar("SELECT EXISTS (SELECT FROM session.session_log WHERE session = $1 AND kind = $2)");
    Ok(query.bind(session).bind(extent.entry()).fetch_one(&mut **tx).await?)
}

pub(super) async fn run(db: &Database, tenant: &str, run: Uuid, summary: &Bytes) -> Result<(), Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query("SELECT session.run_forget($1, $2)");
    query.bind(run).bind(&summary[..]).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn blobs(db: &Database, tenant: &str, session: Uuid, limit: i32) -> Result<u64, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query_scalar("SELECT session.blobs_forget($1, $2)");
    let removed: i64 = query.bind(session).bind(limit.max(0)).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(removed.unsigned_abs())
}

pub(super) async fn finish(db: &Database, session: &SessionRow, extent: Extent) -> Result<(), Fault> {
    let mut tx = db.begin(&session.tenant).await?;
    if extent == Extent::Everything {
        tx.query("SELECT session.keys_forget($1)").bind(session.id).execute(&mut *tx).await?;
        let query = tx.query(
            "UPDATE session.sessions SET state = $3, body = $4, update_time = $5, version = version + 1 \
             WHERE id = $1 AND tenant = $2 AND state = $6",
        );
        let query = query.bind(session.id).bind(&session.tenant).bind(SESSION_ERASED);
        query.bind(&session.body[..]).bind(session.update_time).bind(SESSION_ENDED).execute(&mut *tx).await?;
    }
    // Who erases everything has done what pruning would.
    let query = tx.query("DELETE FROM session.timers WHERE session = $1 AND tenant = $2 AND kind <= $3");
    let last = TimerKind::from(extent).number();
    query.bind(session.id).bind(&session.tenant).bind(last).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}
