//! Runs: admission, state changes, reads.

use sqlx::{SqliteConnection, SqliteExecutor, SqlitePool};
use uuid::Uuid;

use crate::store::{
    Admission, Error, EventRow, Page, RequestKey, RunChange, RunRow, SESSION_OPEN,
    append::{self, Scope},
    fault::Fault,
    session_log::kind,
};

use super::{
    events, expiry, hooks,
    requests::{Request, take_in_tx},
    rows::{self, micros, now, run_columns},
    sessions::{log_append_in_tx, state_in_tx},
};

pub(super) async fn admit(
    pool: &SqlitePool,
    key: &RequestKey,
    run: &RunRow,
    first: &EventRow,
    owner: &str,
) -> Result<Admission, Fault> {
    append::check_first(first)?;
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    match take_in_tx(&mut tx, &run.tenant, key, run.session, run.id).await? {
        Request::New => {}
        Request::Reused => return Ok(Admission::Reused),
        Request::Repeated(id) if id == run.id => return Ok(Admission::Admitted),
        Request::Repeated(id) => {
            let stored = read(&mut *tx, &run.tenant, id).await?;
            return Ok(Admission::Repeated(stored.ok_or(Error::Corrupt("request id"))?));
        }
    }
    match state_in_tx(&mut tx, &run.tenant, run.session).await? {
        Some(SESSION_OPEN) => {}
        other => return Ok(Admission::NotOpen(other)),
    }
    if let Some(open) = busy_in_tx(&mut tx, run).await? {
        return Ok(Admission::Busy(open));
    }
    insert_in_tx(&mut tx, run, Some(owner)).await?;
    let scope = Scope { tenant: &run.tenant, session: run.session, run: run.id };
    events::insert_in_tx(&mut tx, scope, std::slice::from_ref(first)).await?;
    log_append_in_tx(&mut tx, &run.tenant, run.session, kind::RUN_ADMITTED, Some((run.id, first.hash))).await?;
    hooks::mark_in_tx(&mut tx, &run.tenant, run.session).await?;
    tx.commit().await?;
    Ok(Admission::Admitted)
}

pub(super) async fn admit_child(pool: &SqlitePool, run: &RunRow, first: &EventRow) -> Result<Admission, Fault> {
    append::check_first(first)?;
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    if read(&mut *tx, &run.tenant, run.id).await?.is_some() {
        return Ok(Admission::Admitted);
    }
    match state_in_tx(&mut tx, &run.tenant, run.session).await? {
        Some(SESSION_OPEN) => {}
        other => return Ok(Admission::NotOpen(other)),
    }
    insert_in_tx(&mut tx, run, None).await?;
    let scope = Scope { tenant: &run.tenant, session: run.session, run: run.id };
    events::insert_in_tx(&mut tx, scope, std::slice::from_ref(first)).await?;
    log_append_in_tx(&mut tx, &run.tenant, run.session, kind::RUN_ADMITTED, Some((run.id, first.hash))).await?;
    hooks::mark_in_tx(&mut tx, &run.tenant, run.session).await?;
    tx.commit().await?;
    Ok(Admission::Admitted)
}

/// An open run of the session that lets no other be open, or any open one where this run lets none.
async fn busy_in_tx(tx: &mut SqliteConnection, run: &RunRow) -> Result<Option<Uuid>, Fault> {
    Ok(sqlx::query_scalar(
        "SELECT id FROM runs WHERE session = $1 AND state < 4 AND NOT ($2 AND parallel) ORDER BY id LIMIT 1",
    )
    .bind(run.session)
    .bind(run.parallel)
    .fetch_optional(tx)
    .await?)
}

/// One that nobody owns is there to be claimed.
async fn insert_in_tx(tx: &mut SqliteConnection, run: &RunRow, owner: Option<&str>) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO runs \
           (id, tenant, session, state, parallel, log_version, caller, summary, create_time, update_time, expire_time) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(run.id)
    .bind(&run.tenant)
    .bind(run.session)
    .bind(run.state)
    .bind(run.parallel)
    .bind(run.log_version)
    .bind(&run.caller[..])
    .bind(&run.summary[..])
    .bind(micros(run.create_time))
    .bind(micros(run.update_time))
    .bind(micros(run.expire_time))
    .execute(&mut *tx)
    .await?;
    sqlx::query(concat!(
        "INSERT INTO leases (run, tenant, session, owner, epoch, log_version, wake_time) \
         VALUES ($1, $2, $3, $4, 1, $5, CASE WHEN $4 IS NULL THEN ",
        now!(),
        " END)"
    ))
    .bind(run.id)
    .bind(&run.tenant)
    .bind(run.session)
    .bind(owner)
    .bind(run.log_version)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn read(db: impl SqliteExecutor<'_>, tenant: &str, id: Uuid) -> Result<Option<RunRow>, Fault> {
    let row = sqlx::query(concat!("SELECT ", run_columns!(), " FROM runs r WHERE id = $1 AND tenant = $2"))
        .bind(id)
        .bind(tenant)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(rows::run).transpose()
}

pub(super) async fn list(
    pool: &SqlitePool,
    tenant: &str,
    session: Option<Uuid>,
    page: Page,
) -> Result<Vec<RunRow>, Fault> {
    // Two texts, so that each has the plan of its index.
    let query = match session {
        Some(_) => {
            concat!(
                "SELECT ",
                run_columns!(),
                " FROM runs r WHERE tenant = $1 AND session = $2 \
             AND ($3 IS NULL OR id < $3) AND ($4 IS NULL OR state = $4) ORDER BY id DESC LIMIT $5"
            )
        }
        None => {
            concat!(
                "SELECT ",
                run_columns!(),
                " FROM runs r WHERE tenant = $1 AND $2 IS NULL \
             AND ($3 IS NULL OR id < $3) AND ($4 IS NULL OR state = $4) ORDER BY id DESC LIMIT $5"
            )
        }
    };
    let rows = sqlx::query(query)
        .bind(tenant)
        .bind(session)
        .bind(page.before)
        .bind(page.state)
        .bind(page.limit.max(0))
        .fetch_all(pool)
        .await?;
    rows.iter().map(rows::run).collect()
}

pub(super) async fn change(pool: &SqlitePool, tenant: &str, id: Uuid, change: &RunChange) -> Result<bool, Fault> {
    let head = change.ends()?;
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let session: Option<Uuid> = sqlx::query_scalar(
        "UPDATE runs SET state = $3, summary = $4, update_time = $5 \
         WHERE id = $1 AND tenant = $2 AND state < 4 \
           AND ($6 IS NULL OR $6 = (SELECT hash FROM events WHERE run_id = $1 ORDER BY seq DESC LIMIT 1)) \
         RETURNING session",
    )
    .bind(id)
    .bind(tenant)
    .bind(change.state)
    .bind(&change.summary[..])
    .bind(micros(change.time))
    .bind(head.as_ref().map(|head| &head[..]))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(session) = session else {
        change.end_is_stored(read(&mut *tx, tenant, id).await?.as_ref())?;
        return Ok(false);
    };
    if let Some(head) = head {
        sqlx::query("DELETE FROM leases WHERE run = $1").bind(id).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM commands WHERE run = $1").bind(id).execute(&mut *tx).await?;
        log_append_in_tx(&mut tx, tenant, session, kind::RUN_SEALED, Some((id, head))).await?;
        expiry::seen_in_tx(&mut tx, session).await?;
    }
    hooks::mark_in_tx(&mut tx, tenant, session).await?;
    tx.commit().await?;
    Ok(true)
}
