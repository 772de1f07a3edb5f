//! Runs: admission, state changes, reads.

use uuid::Uuid;

use crate::store::{
    Admission, Error, EventRow, Page, RequestKey, RunChange, RunRow, SESSION_OPEN,
    append::{self, Scope},
    fault::Fault,
    session_log::kind,
};

use super::{
    database::{Database, Try, Tx},
    events, expiry, hooks,
    requests::{Request, take_in_tx},
    rows::{self, run_columns},
    sessions::{lock_in_tx, log_append_in_tx},
};

pub(super) async fn admit(
    db: &Database,
    key: &RequestKey,
    run: &RunRow,
    first: &EventRow,
    owner: &str,
) -> Result<Admission, Fault> {
    append::check_first(first)?;
    let mut tx = db.begin(&run.tenant).await?;
    match take_in_tx(&mut tx, &run.tenant, key, run.session, run.id).await? {
        Request::New => {}
        Request::Reused => return Ok(Admission::Reused),
        Request::Repeated(id) if id == run.id => return Ok(Admission::Admitted),
        Request::Repeated(id) => {
            let stored = read_in_tx(&mut tx, &run.tenant, id).await?;
            return Ok(Admission::Repeated(stored.ok_or(Error::Corrupt("request id"))?));
        }
    }
    match lock_in_tx(&mut tx, &run.tenant, run.session).await? {
        Some(SESSION_OPEN) => {}
        other => return Ok(Admission::NotOpen(other)),
    }
    if let Some(open) = busy_in_tx(&mut tx, run).await? {
        return Ok(Admission::Busy(open));
    }
    insert_in_tx(&mut tx, run, Some(owner)).await?;
    let scope = Scope { tenant: &run.tenant, session: run.session, run: run.id };
    events::insert_first_in_tx(&mut tx, scope, first).await?;
    log_append_in_tx(&mut tx, &run.tenant, run.session, kind::RUN_ADMITTED, Some((run.id, first.hash))).await?;
    hooks::mark_in_tx(&mut tx, db.hooks_of(&run.tenant), &run.tenant, run.session).await?;
    tx.commit().await?;
    Ok(Admission::Admitted)
}

pub(super) async fn admit_child(db: &Database, run: &RunRow, first: &EventRow) -> Result<Admission, Fault> {
    append::check_first(first)?;
    let mut tx = db.begin(&run.tenant).await?;
    // Whoever else admits it waits for the session's lock.
    let session = lock_in_tx(&mut tx, &run.tenant, run.session).await?;
    if read_in_tx(&mut tx, &run.tenant, run.id).await?.is_some() {
        return Ok(Admission::Admitted);
    }
    match session {
        Some(SESSION_OPEN) => {}
        other => return Ok(Admission::NotOpen(other)),
    }
    insert_in_tx(&mut tx, run, None).await?;
    let scope = Scope { tenant: &run.tenant, session: run.session, run: run.id };
    events::insert_first_in_tx(&mut tx, scope, first).await?;
    log_append_in_tx(&mut tx, &run.tenant, run.session, kind::RUN_ADMITTED, Some((run.id, first.hash))).await?;
    hooks::mark_in_tx(&mut tx, db.hooks_of(&run.tenant), &run.tenant, run.session).await?;
    tx.commit().await?;
    Ok(Admission::Admitted)
}

/// An open run of the session that lets no other be open, or any open one where this run lets none.
async fn busy_in_tx(tx: &mut Tx, run: &RunRow) -> Result<Option<Uuid>, Fault> {
    Ok(tx.query_scalar(
        "SELECT id FROM session.runs WHERE session = $1 AND state < 4 AND NOT ($2 AND parallel) ORDER BY id LIMIT 1",
    )
    .bind(run.session)
    .bind(run.parallel)
    .fetch_optional(&mut **tx)
    .await?)
}

/// One that nobody owns is there to be claimed.
async fn insert_in_tx(tx: &mut Tx, run: &RunRow, owner: Option<&str>) -> Result<(), Fault> {
    tx.query(
        "WITH run AS ( \
           INSERT INTO session.runs \
             (id, tenant, session, state, parallel, log_version, caller, summary, create_time, update_time, expire_time) \
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)) \
         INSERT INTO session.leases (run, tenant, session, owner, epoch, log_version, wake_time) \
         VALUES ($1, $2, $3, $12, 1, $6, CASE WHEN $12::text IS NULL THEN now() END)",
    )
    .bind(run.id)
    .bind(&run.tenant)
    .bind(run.session)
    .bind(run.state)
    .bind(run.parallel)
    .bind(run.log_version)
    .bind(&run.caller[..])
    .bind(&run.summary[..])
    .bind(run.create_time)
    .bind(run.update_time)
    .bind(run.expire_time)
    .bind(owner)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn read(db: &Database, tenant: &str, id: Uuid) -> Result<Option<RunRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let run = read_in_tx(&mut tx, tenant, id).await?;
    tx.done().await?;
    Ok(run)
}

async fn read_in_tx(tx: &mut Tx, tenant: &str, id: Uuid) -> Result<Option<RunRow>, Fault> {
    let query = tx.query(concat!("SELECT ", run_columns!(), " FROM session.runs r WHERE id = $1 AND tenant = $2"));
    let row = query.bind(id).bind(tenant).fetch_optional(&mut **tx).await?;
    row.as_ref().map(rows::run).transpose()
}

pub(super) async fn list(db: &Database, tenant: &str, session: Option<Uuid>, page: Page) -> Result<Vec<RunRow>, Fault> {
    // Two texts, so that each has the plan of its index.
    let query = match session {
        Some(_) => {
            concat!(
                "SELECT ",
                run_columns!(),
                " FROM session.runs r WHERE tenant = $1 AND session = $2 \
             AND ($3::uuid IS NULL OR id < $3) AND ($4::smallint IS NULL OR state = $4) ORDER BY id DESC LIMIT $5"
            )
        }
        None => {
            concat!(
                "SELECT ",
                run_columns!(),
                " FROM session.runs r WHERE tenant = $1 AND $2::uuid IS NULL \
             AND ($3::uuid IS NULL OR id < $3) AND ($4::smallint IS NULL OR state = $4) ORDER BY id DESC LIMIT $5"
            )
        }
    };
    let mut tx = db.begin(tenant).await?;
    let rows = tx
        .query(query)
        .bind(tenant)
        .bind(session)
        .bind(page.before)
        .bind(page.state)
        .bind(page.limit.max(0))
        .fetch_all(&mut *tx)
        .await?;
    tx.done().await?;
    rows.iter().map(rows::run).collect()
}

pub(super) async fn change(
    db: &Database,
    tenant: &str,
    id: Uuid,
    change: &RunChange,
    which: Try,
) -> Result<bool, Fault> {
    let head = change.ends()?;
    let mut tx = db.begin(tenant).await?;
    let session: Option<Uuid> = tx
        .query_scalar(
            "UPDATE session.runs SET state = $3, summary = $4, update_time = $5 \
             WHERE id = $1 AND tenant = $2 AND state < 4 AND ($6::bytea IS NULL OR $6 = ( \
               SELECT e.hash FROM session.events e WHERE e.run_id = $1 AND e.tenant = $2 ORDER BY e.seq DESC LIMIT 1)) \
             RETURNING session",
        )
        .bind(id)
        .bind(tenant)
        .bind(change.state)
        .bind(&change.summary[..])
        .bind(change.time)
        .bind(head.as_ref().map(|head| &head[..]))
        .fetch_optional(&mut *tx)
        .await?;
    let Some(session) = session else {
        let stored = read_in_tx(&mut tx, tenant, id).await?;
        change.end_is_stored(stored.as_ref())?;
        // The first try may have been the one that ended it.
        return Ok(
            which == Try::Again && stored.is_some_and(|run| run.state == change.state && run.summary == change.summary)
        );
    };
    if let Some(head) = head {
        tx.query("DELETE FROM session.leases WHERE run = $1").bind(id).execute(&mut *tx).await?;
        tx.query("DELETE FROM session.commands WHERE run = $1").bind(id).execute(&mut *tx).await?;
        lock_in_tx(&mut tx, tenant, session).await?;
        log_append_in_tx(&mut tx, tenant, session, kind::RUN_SEALED, Some((id, head))).await?;
        expiry::seen_in_tx(&mut tx, session).await?;
    }
    hooks::mark_in_tx(&mut tx, db.hooks_of(tenant), tenant, session).await?;
    tx.commit().await?;
    Ok(true)
}
