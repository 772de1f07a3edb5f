//! Commands on their way to runs.

use bytes::Bytes;
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use crate::store::{CommandRow, Hold, Outcome, RequestKey, fault::Fault};

use super::requests::{Request, take_in_tx};
use super::rows::now;

pub(super) async fn put(
    pool: &SqlitePool,
    tenant: &str,
    run: Uuid,
    key: Option<&RequestKey>,
    command: &CommandRow,
) -> Result<Option<Outcome<Uuid>>, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    if let Some(key) = key {
        let query = sqlx::query_scalar("SELECT session FROM runs WHERE id = $1 AND tenant = $2");
        let session: Option<Uuid> = query.bind(run).bind(tenant).fetch_optional(&mut *tx).await?;
        let Some(session) = session else { return Ok(None) };
        match take_in_tx(&mut tx, tenant, key, session, command.id).await? {
            Request::New => {}
            Request::Reused => return Ok(Some(Outcome::Reused)),
            Request::Repeated(id) => return Ok(Some(Outcome::Repeated(id))),
        }
    }
    let woken = sqlx::query(concat!("UPDATE leases SET wake_time = ", now!(), " WHERE run = $1 AND tenant = $2"))
        .bind(run)
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
    if woken.rows_affected() == 0 {
        return Ok(None);
    }
    sqlx::query("INSERT INTO commands (run, id, tenant, body) VALUES ($1, $2, $3, $4)")
        .bind(run)
        .bind(command.id)
        .bind(tenant)
        .bind(&command.body[..])
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Some(Outcome::Done(command.id)))
}

pub(super) async fn read(pool: &SqlitePool, tenant: &str, run: Uuid, hold: Hold<'_>) -> Result<Vec<CommandRow>, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("UPDATE leases SET wake_time = NULL WHERE run = $1 AND tenant = $2 AND owner = $3 AND epoch = $4")
        .bind(run)
        .bind(tenant)
        .bind(hold.owner)
        .bind(hold.epoch)
        .execute(&mut *tx)
        .await?;
    let rows = sqlx::query("SELECT id, body FROM commands WHERE run = $1 AND tenant = $2 ORDER BY id")
        .bind(run)
        .bind(tenant)
        .fetch_all(&mut *tx)
        .await?;
    tx.commit().await?;
    let command = |row: &sqlx::sqlite::SqliteRow| {
        Ok(CommandRow { id: row.try_get("id")?, body: Bytes::from(row.try_get::<Vec<u8>, _>("body")?) })
    };
    rows.iter().map(command).collect()
}

pub(super) async fn drop(pool: &SqlitePool, tenant: &str, run: Uuid, ids: &[Uuid]) -> Result<(), Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    for id in ids {
        sqlx::query("DELETE FROM commands WHERE run = $1 AND tenant = $2 AND id = $3")
            .bind(run)
            .bind(tenant)
            .bind(id)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn runs(pool: &SqlitePool, owner: &str) -> Result<Vec<Uuid>, Fault> {
    Ok(sqlx::query_scalar("SELECT run FROM leases WHERE owner = $1 AND wake_time IS NOT NULL ORDER BY run")
        .bind(owner)
        .fetch_all(pool)
        .await?)
}
