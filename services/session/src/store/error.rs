//! Why a store gives no answer, or cannot be opened.

use std::path::PathBuf;

/// Why the store gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or the answer was lost; what was asked for may have happened.
    #[error("store is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// It answered with something that this version cannot have written.
    #[error("stored {0} cannot be read")]
    Corrupt(&'static str),
    /// The caller broke this contract; nothing was changed. Asking again gives the same answer.
    #[error("store was misused: {0}")]
    Invalid(&'static str),
    /// It refused the statement for another reason than load or a lost connection. Asking again gives the same answer.
    #[error("store refused the statement")]
    Refused(#[source] sqlx::Error),
}

impl Error {
    /// For who is told that the store is away, and did not ask it.
    #[must_use]
    pub const fn away() -> Self {
        Self::Unavailable(sqlx::Error::PoolTimedOut)
    }

    /// Whether asking again later may succeed.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Why a store in a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this one, holds the file.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The file, its directory or its lock file cannot be opened.
    #[error("{path} cannot be opened")]
    File {
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The database cannot be reached.
    #[error("store is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The schema cannot be brought up to date, or is newer than this version.
    #[error("store schema cannot be migrated")]
    Migration(#[source] sqlx::migrate::MigrateError),
}
