//! The partitions of events, made ahead.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::store::{Error, fault::Fault};

use super::database::Database;

/// Months whose partitions are made ahead.
const MONTHS_AHEAD: i32 = 3;

/// Pause between two looks at the partitions.
const UPKEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Makes partitions ahead and looks for rows that none took, now and from time to time.
pub(super) async fn keep_up(db: Arc<Database>, stop: CancellationToken) {
    loop {
        upkeep(&db).await;
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let pause = tokio::time::sleep(UPKEEP_EVERY);
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause => {}
        }
    }
}

async fn upkeep(db: &Database) {
    match prepare(db).await {
        Ok((_, 0)) => {}
        Ok((_, strays)) => tracing::error!(store.strays = strays, "events are outside of every partition"),
        Err(error) => {
            tracing::error!(error = %mar_runtime::status::chain(&error), "partitions of events are not made ahead");
        }
    }
}

/// Answers how many partitions were made, and how many rows no partition took.
async fn prepare(db: &Database) -> Result<(i32, i64), Error> {
    let strays = db
        .call(|_| async {
            let mut tx = db.begin("").await?;
            let strays: i64 = tx.query_scalar("SELECT session.events_strays()").fetch_one(&mut *tx).await?;
            tx.done().await?;
            Ok::<_, Fault>(strays)
        })
        .await?;
    let made = db
        .call(|_| async {
            let mut tx = db.begin("").await?;
            let query = tx.query_scalar("SELECT session.events_prepare($1)").bind(MONTHS_AHEAD);
            let made: i32 = query.fetch_one(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, Fault>(made)
        })
        .await;
    if strays > 0 {
        // Rows in the way of a partition are the likelier reason for a failure.
        return Ok((made.unwrap_or(0), strays));
    }
    Ok((made?, strays))
}
