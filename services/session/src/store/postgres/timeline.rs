//! Whether another server has taken the primary's place, and with how much of what was seen of it.
//!
//! A standby that is promoted goes on in a timeline of its own, from the position up to which it had heard its primary. What
//! was seen written beyond that is gone. Less than that may be gone, too: what came after the last look nobody here has
//! seen, and bytes of the write-ahead log are no commits.

use sqlx::{Row as _, postgres::PgRow};
use tokio::sync::Mutex;

use crate::store::{Promotion, fault::Fault};

use super::{database::Database, failure};

/// Where the write-ahead log is: its timeline, how far it is written, and where its last recovery ended, which is where a
/// promoted standby left its primary; there is none on a server that was never one.
const LOOK: &str = "\
    SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint AS timeline, \
      (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS written, \
      (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint AS recovered";

/// What the last look saw.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nobody has looked.
    #[default]
    Nothing,
    /// The log was here.
    At(Position),
    /// This server does not say, as some that are managed by others.
    Withheld,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    timeline: i64,
    written: i64,
    recovered: Option<i64>,
}

/// Looks, and compares with the last look.
pub(super) async fn look(db: &Database, seen: &Mutex<Seen>) -> Result<Option<Promotion>, Fault> {
    let mut seen = seen.lock().await;
    if *seen == Seen::Withheld {
        return Ok(None);
    }
    let now = match position(db).await {
        Ok(now) => now,
        Err(Fault::Sql(error)) if error.as_database_error().is_some() && !failure::passes(&error) => {
            tracing::info!(error = %error, "the store does not say whether another server takes its place");
            *seen = Seen::Withheld;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    match std::mem::replace(&mut *seen, Seen::At(now)) {
        Seen::At(before) => Ok(between(before, now)),
        Seen::Nothing | Seen::Withheld => Ok(None),
    }
}

async fn position(db: &Database) -> Result<Position, Fault> {
    let mut tx = db.begin_as_scheduler().await?;
    let row: PgRow = tx.query(LOOK).fetch_one(&mut *tx).await?;
    tx.done().await?;
    Ok(Position {
        timeline: row.try_get("timeline")?,
        written: row.try_get("written")?,
        recovered: row.try_get("recovered")?,
    })
}

/// Of several promotions in a row only the last says where it began.
fn between(before: Position, now: Position) -> Option<Promotion> {
    let missing = |from: i64| u64::try_from(before.written - from).unwrap_or(0);
    let one = now.timeline == before.timeline + 1;
    (now.timeline != before.timeline)
        .then(|| Promotion { timeline: now.timeline, missing_bytes: now.recovered.filter(|_| one).map(missing) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Position = Position { timeline: 3, written: 1_000, recovered: Some(10) };

    #[test]
    fn what_was_seen_beyond_the_new_timelines_beginning_is_missing() {
        let promoted = |timeline, recovered| between(BEFORE, Position { timeline, written: 5_000, recovered });
        let missing = |timeline, recovered| promoted(timeline, recovered).map(|promotion| promotion.missing_bytes);
        assert_eq!(missing(3, Some(10)), None, "the same server");
        assert_eq!(missing(4, Some(900)), Some(Some(100)));
        assert_eq!(missing(4, Some(1_000)), Some(Some(0)));
        assert_eq!(missing(4, Some(1_200)), Some(Some(0)), "it has more than was seen");
        assert_eq!(missing(4, None), Some(None), "it was started again since");
        assert_eq!(missing(5, Some(900)), Some(None), "between two promotions nobody looked");
    }
}
