//! What Postgres's errors mean.

use mar_postgres::failure::code_passes;
pub(super) use mar_postgres::failure::passes;

use crate::store::{Error, fault};

/// What an error means to the caller.
pub(super) fn classify(error: sqlx::Error) -> Error {
    fault::classify(error, code_passes)
}

/// Whether a row with this key is there already.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// Whether the event before is another or none: the append marks it by a position that may not be.
pub(super) fn is_gap(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("23502"))
}
