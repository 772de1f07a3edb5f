//! What Postgres's errors mean.

/// Whether a statement may be repeated at once: its connection died, or it lost a race.
#[must_use]
pub fn may_repeat(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            // Connection errors, shutdowns, serialisation failures and deadlocks.
            code.starts_with("08") || matches!(&*code, "57P01" | "57P02" | "40001" | "40P01")
        }),
        _ => false,
    }
}

/// Whether an error passes by itself.
#[must_use]
pub fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database.code().is_some_and(|code| code_passes(&code)),
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        _ => false,
    }
}

/// Connections, resources, locks, timeouts, shutdowns and a standby in the place of the primary.
#[must_use]
pub fn code_passes(code: &str) -> bool {
    ["08", "28", "3D", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        || matches!(code, "25006" | "25P03" | "55P03")
}

/// Whether the schema, its table or its roles are not there, or not for this login.
pub(crate) fn is_without_schema(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(&*code, "3F000" | "42P01" | "42501" | "22023" | "42704"))
}
