//! From rows to the contract's types.

use std::time::Duration;

use bytes::Bytes;
use sqlx::{Row, sqlite::SqliteRow};
use time::OffsetDateTime;

use crate::store::{Error, EventRow, RunRow, SessionLogRow, SessionRow, fault, fault::Fault};

/// Columns are named, never `*`: a migration that adds one must not break the statements prepared before it.
macro_rules! session_columns {
    () => {
        "id, tenant, state, principal, body, salt_key, version, create_time, update_time, idle_ms"
    };
}
macro_rules! log_columns {
    () => {
        "seq, kind, run, run_hash, hash"
    };
}
macro_rules! run_columns {
    () => {
        "id, r.tenant, r.session, state, parallel, r.log_version, caller, summary, create_time, update_time, expire_time"
    };
}
/// Microseconds since 1970 by the system's clock.
macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}
pub(super) use {log_columns, now, run_columns, session_columns};

pub(super) fn session(row: &SqliteRow) -> Result<SessionRow, Fault> {
    Ok(SessionRow {
        tenant: row.try_get("tenant")?,
        id: row.try_get("id")?,
        state: row.try_get("state")?,
        principal: row.try_get("principal")?,
        body: bytes(row, "body")?,
        salt_key: bytes(row, "salt_key")?,
        version: row.try_get("version")?,
        create_time: time(row, "create_time")?,
        update_time: time(row, "update_time")?,
        idle_timeout: row.try_get::<Option<i64>, _>("idle_ms")?.map(|ms| Duration::from_millis(ms.unsigned_abs())),
    })
}

pub(super) fn log(row: &SqliteRow) -> Result<SessionLogRow, Fault> {
    Ok(SessionLogRow {
        seq: row.try_get("seq")?,
        kind: row.try_get("kind")?,
        run: row.try_get("run")?,
        run_hash: row
            .try_get::<Option<&[u8]>, _>("run_hash")?
            .map(|hash| fault::hash(hash, "session log"))
            .transpose()?,
        hash: hash(row, "hash")?,
    })
}

pub(super) fn run(row: &SqliteRow) -> Result<RunRow, Fault> {
    Ok(RunRow {
        tenant: row.try_get("tenant")?,
        session: row.try_get("session")?,
        id: row.try_get("id")?,
        state: row.try_get("state")?,
        parallel: row.try_get("parallel")?,
        log_version: row.try_get("log_version")?,
        caller: bytes(row, "caller")?,
        summary: bytes(row, "summary")?,
        create_time: time(row, "create_time")?,
        update_time: time(row, "update_time")?,
        expire_time: time(row, "expire_time")?,
    })
}

pub(super) fn event(row: &SqliteRow) -> Result<EventRow, Fault> {
    Ok(EventRow {
        seq: row.try_get("seq")?,
        prev_hash: link(row)?,
        hash: hash(row, "hash")?,
        leaf: bytes(row, "leaf")?,
        content: row.try_get::<Option<Vec<u8>>, _>("content")?.map(Bytes::from),
    })
}

/// Of the first event its own; of another the hash of the row before, zeros where that was not read or cannot be.
fn link(row: &SqliteRow) -> Result<[u8; 32], Fault> {
    let before = row.try_get::<Option<&[u8]>, _>("prev_hash")?.unwrap_or_default();
    match fault::hash(before, "prev_hash") {
        Err(_) if row.try_get::<i64, _>("seq")? > 0 => Ok([0; 32]),
        link => Ok(link?),
    }
}

pub(super) fn hash(row: &SqliteRow, column: &'static str) -> Result<[u8; 32], Fault> {
    Ok(fault::hash(row.try_get(column)?, column)?)
}

fn bytes(row: &SqliteRow, column: &str) -> Result<Bytes, Fault> {
    Ok(Bytes::from(row.try_get::<Vec<u8>, _>(column)?))
}

/// Microseconds since 1970, the precision that the contract keeps.
pub(super) fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX)
}

pub(super) fn time(row: &SqliteRow, column: &'static str) -> Result<OffsetDateTime, Fault> {
    let micros: i64 = row.try_get(column)?;
    Ok(OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(|_| Error::Corrupt(column))?)
}
