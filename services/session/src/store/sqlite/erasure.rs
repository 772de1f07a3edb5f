//! Erasures. What is removed is overwritten in the file, and the log beside the file is emptied at the end.

use bytes::Bytes;
use sqlx::{SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::store::{
    Error, RequestKey, SESSION_ENDED, SESSION_ERASED, SessionRow,
    erasure::{Begun, Extent},
    fault::Fault,
    session_log::kind,
    timer::{HOLD, TimerKind},
};

use super::{
    hooks,
    requests::{Request, take_in_tx},
    rows::micros,
    sessions::{log_append_in_tx, state_in_tx},
    timers,
};

pub(super) async fn begin(
    pool: &SqlitePool,
    key: Option<&RequestKey>,
    tenant: &str,
    session: Uuid,
    extent: Extent,
) -> Result<Begun, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    if let Some(key) = key {
        match take_in_tx(&mut tx, tenant, key, session, session).await? {
            Request::Repeated(id) if id == session => {}
            Request::New => {}
            Request::Repeated(_) | Request::Reused => return Ok(Begun::Reused),
        }
    }
    match state_in_tx(&mut tx, tenant, session).await? {
        None => return Ok(Begun::Absent),
        Some(state) if state < SESSION_ENDED => return Ok(Begun::NotEnded(state)),
        Some(SESSION_ENDED) => {}
        Some(_) => {
            tx.commit().await?;
            return Ok(Begun::Gone);
        }
    }
    let kind = TimerKind::from(extent);
    if is_recorded_in_tx(&mut tx, tenant, session, extent.entry()).await? {
        let going = timers::is_set_in_tx(&mut tx, session, kind).await?;
        tx.commit().await?;
        return Ok(if going { Begun::Going } else { Begun::Gone });
    }
    let query = sqlx::query("UPDATE sessions SET pruned = 1, version = version + 1 WHERE id = $1");
    query.bind(session).execute(&mut *tx).await?;
    log_append_in_tx(&mut tx, tenant, session, extent.entry(), None).await?;
    timers::set_in_tx(&mut tx, tenant, session, kind, HOLD).await?;
    hooks::mark_in_tx(&mut tx, tenant, session).await?;
    tx.commit().await?;
    Ok(Begun::Going)
}

async fn is_recorded_in_tx(tx: &mut SqliteConnection, tenant: &str, session: Uuid, entry: &str) -> Result<bool, Fault> {
    let query = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM session_log WHERE session = $1 AND tenant = $2 AND kind = $3)",
    );
    Ok(query.bind(session).bind(tenant).bind(entry).fetch_one(tx).await?)
}

/// Whether everything of a session goes; none when nothing does.
async fn goes_in_tx(tx: &mut SqliteConnection, tenant: &str, session: Uuid) -> Result<Option<Extent>, Fault> {
    if is_recorded_in_tx(tx, tenant, session, kind::ERASED).await? {
        return Ok(Some(Extent::Everything));
    }
    Ok(is_recorded_in_tx(tx, tenant, session, kind::PRUNED).await?.then_some(Extent::Payloads))
}

const NOT_RECORDED: Fault = Fault::Store(Error::Invalid("no log says that this goes"));

pub(super) async fn run(pool: &SqlitePool, tenant: &str, run: Uuid, summary: &Bytes) -> Result<(), Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let query = sqlx::query_scalar("SELECT session FROM runs WHERE id = $1 AND tenant = $2 AND state >= 4");
    let session: Option<Uuid> = query.bind(run).bind(tenant).fetch_optional(&mut *tx).await?;
    let goes = match session {
        Some(session) => goes_in_tx(&mut tx, tenant, session).await?,
        None => None,
    };
    let Some(extent) = goes else { return Err(NOT_RECORDED) };
    for sql in [
        "UPDATE events SET content = NULL, blob_sha256 = NULL WHERE run_id = $1",
        "DELETE FROM approvals WHERE run = $1",
        "DELETE FROM commands WHERE run = $1",
    ] {
        sqlx::query(sql).bind(run).execute(&mut *tx).await?;
    }
    let query = sqlx::query("UPDATE runs SET summary = $2 WHERE id = $1");
    query.bind(run).bind(&summary[..]).execute(&mut *tx).await?;
    if extent == Extent::Everything {
        sqlx::query("UPDATE runs SET caller = x'' WHERE id = $1").bind(run).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn blobs(pool: &SqlitePool, tenant: &str, session: Uuid, limit: i32) -> Result<u64, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    if goes_in_tx(&mut tx, tenant, session).await?.is_none() {
        return Err(NOT_RECORDED);
    }
    let query = sqlx::query(
        "DELETE FROM blobs WHERE tenant = $1 AND session = $2 AND sha256 IN \
         (SELECT sha256 FROM blobs WHERE tenant = $1 AND session = $2 LIMIT $3)",
    );
    let mut removed = query.bind(tenant).bind(session).bind(limit.max(0)).execute(&mut *tx).await?.rows_affected();
    if removed == 0 {
        let query = sqlx::query(
            "DELETE FROM upload_pieces WHERE rowid IN ( \
               SELECT p.rowid FROM upload_pieces p JOIN uploads u ON u.tenant = p.tenant AND u.id = p.upload \
               WHERE u.tenant = $1 AND u.session = $2 LIMIT $3)",
        );
        removed = query.bind(tenant).bind(session).bind(limit.max(0)).execute(&mut *tx).await?.rows_affected();
        if removed == 0 {
            let query = sqlx::query("DELETE FROM uploads WHERE tenant = $1 AND session = $2");
            query.bind(tenant).bind(session).execute(&mut *tx).await?;
        }
    }
    tx.commit().await?;
    Ok(removed)
}

pub(super) async fn finish(pool: &SqlitePool, session: &SessionRow, extent: Extent) -> Result<(), Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    if extent == Extent::Everything {
        if goes_in_tx(&mut tx, &session.tenant, session.id).await? != Some(extent) {
            return Err(NOT_RECORDED);
        }
        sqlx::query(
            "UPDATE sessions SET state = $3, body = $4, update_time = $5, version = version + 1, salt_key = x'' \
             WHERE id = $1 AND tenant = $2 AND state = $6",
        )
        .bind(session.id)
        .bind(&session.tenant)
        .bind(SESSION_ERASED)
        .bind(&session.body[..])
        .bind(micros(session.update_time))
        .bind(SESSION_ENDED)
        .execute(&mut *tx)
        .await?;
        let query = sqlx::query(
            "UPDATE request_ids SET digest = zeroblob(32) WHERE tenant = $1 AND session = $2 \
             AND method NOT LIKE '%/EndSession' AND method NOT LIKE '%/EraseSession'",
        );
        query.bind(&session.tenant).bind(session.id).execute(&mut *tx).await?;
    }
    // Who erases everything has done what pruning would.
    let query = sqlx::query("DELETE FROM timers WHERE session = $1 AND tenant = $2 AND kind <= $3");
    let last = TimerKind::from(extent).number();
    query.bind(session.id).bind(&session.tenant).bind(last).execute(&mut *tx).await?;
    tx.commit().await?;
    // The log beside the file still has what was removed; a reader in its way leaves that to the next checkpoints.
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(pool).await?;
    Ok(())
}
