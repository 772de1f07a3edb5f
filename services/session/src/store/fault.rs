//! Errors inside a store, before it is known what they mean to the caller.

use super::Error;

/// A driver's error that still may be retried, or a verdict.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(sqlx::Error),
    Store(Error),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// What a driver's error means; `passing` says of a database's error code whether it passes by itself.
pub(super) fn classify(error: sqlx::Error, passing: impl FnOnce(&str) -> bool) -> Error {
    match &error {
        sqlx::Error::Database(database) => match database.code() {
            Some(code) if passing(&code) => Error::Unavailable(error),
            _ => Error::Refused(error),
        },
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound => Error::Corrupt("row"),
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) | sqlx::Error::Configuration(_) => {
            Error::Refused(error)
        }
        _ => Error::Unavailable(error),
    }
}

/// Turns stored bytes into a hash.
pub(super) fn hash(bytes: &[u8], what: &'static str) -> Result<[u8; 32], Error> {
    bytes.try_into().map_err(|_| Error::Corrupt(what))
}
