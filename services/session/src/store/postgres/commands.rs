//! Commands on their way to runs.

use bytes::Bytes;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::store::{CommandRow, Hold, Outcome, RequestKey, fault::Fault};

use super::{
    database::{Database, Try},
    requests::{Request, take_in_tx},
};

pub(super) async fn put(
    db: &Database,
    tenant: &str,
    run: Uuid,
    key: Option<&RequestKey>,
    command: &CommandRow,
    which: Try,
) -> Result<Option<Outcome<Uuid>>, Fault> {
    let mut tx = db.begin(tenant).await?;
    if let Some(key) = key {
        let query = tx.query_scalar("SELECT session FROM session.runs WHERE id = $1 AND tenant = $2");
        let session: Option<Uuid> = query.bind(run).bind(tenant).fetch_optional(&mut *tx).await?;
        let Some(session) = session else { return Ok(None) };
        match take_in_tx(&mut tx, tenant, key, session, command.id).await? {
            Request::New => {}
            Request::Reused => return Ok(Some(Outcome::Reused)),
            Request::Repeated(id) if id == command.id => return Ok(Some(Outcome::Done(id))),
            Request::Repeated(id) => return Ok(Some(Outcome::Repeated(id))),
        }
    }
    let query = tx.query("UPDATE session.leases SET wake_time = now() WHERE run = $1 AND tenant = $2");
    let woken = query.bind(run).bind(tenant).execute(&mut *tx).await?;
    if woken.rows_affected() == 0 {
        return Ok(None);
    }
    // The first try may have stored it, and the run may have taken it since: then it is stored again and known by its id.
    let query = tx.query(
        "INSERT INTO session.commands (run, id, tenant, body) VALUES ($1, $2, $3, $4) ON CONFLICT (run, id) DO NOTHING",
    );
    let stored = query.bind(run).bind(command.id).bind(tenant).bind(&command.body[..]).execute(&mut *tx).await?;
    debug_assert!(which == Try::Again || stored.rows_affected() == 1, "a command's id is new");
    tx.commit().await?;
    Ok(Some(Outcome::Done(command.id)))
}

pub(super) async fn read(db: &Database, tenant: &str, run: Uuid, hold: Hold<'_>) -> Result<Vec<CommandRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "UPDATE session.leases SET wake_time = NULL \
         WHERE run = $1 AND tenant = $2 AND owner = $3 AND epoch = $4 AND wake_time IS NOT NULL",
    );
    query.bind(run).bind(tenant).bind(hold.owner).bind(hold.epoch).execute(&mut *tx).await?;
    let query = tx.query("SELECT id, body FROM session.commands WHERE run = $1 AND tenant = $2 ORDER BY id");
    let rows = query.bind(run).bind(tenant).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let command =
        |row: &PgRow| Ok(CommandRow { id: row.try_get("id")?, body: Bytes::from(row.try_get::<Vec<u8>, _>("body")?) });
    rows.iter().map(command).collect()
}

pub(super) async fn drop(db: &Database, tenant: &str, run: Uuid, ids: &[Uuid]) -> Result<(), Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query("DELETE FROM session.commands WHERE run = $1 AND tenant = $2 AND id = ANY($3)");
    query.bind(run).bind(tenant).bind(ids).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Across tenants, so as the scheduler, who sees ids alone.
pub(super) async fn runs(db: &Database, owner: &str) -> Result<Vec<Uuid>, Fault> {
    let mut tx = db.begin_as_scheduler().await?;
    let query =
        tx.query_scalar("SELECT run FROM session.leases WHERE owner = $1 AND wake_time IS NOT NULL ORDER BY run");
    let runs = query.bind(owner).fetch_all(&mut *tx).await?;
    tx.done().await?;
    Ok(runs)
}
