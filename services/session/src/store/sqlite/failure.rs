//! What SQLite's errors mean.

use crate::store::{Error, fault};

/// Whether an error passes by itself, or with room on the disk.
pub(super) fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database.code().is_some_and(|code| code_passes(&code)),
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        _ => false,
    }
}

/// What an error means to the caller.
pub(super) fn classify(error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|database| primary(&database.code()?));
    match code {
        // CORRUPT, NOTADB
        Some(11 | 26) => Error::Corrupt("file"),
        _ => fault::classify(error, code_passes),
    }
}

/// Whether a row with this key is there already.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN
fn code_passes(code: &str) -> bool {
    matches!(primary(code), Some(5..=10 | 13 | 14))
}

/// The primary code within an extended one.
fn primary(code: &str) -> Option<u32> {
    code.parse::<u32>().ok().map(|code| code & 0xff)
}
