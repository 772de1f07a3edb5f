//! Claims of open runs.

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Row, postgres::PgRow};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::store::{RunRow, fault::Fault};

use super::rows::{self, run_columns};

/// A claim whose commit was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    run: Uuid,
    epoch: i64,
}

/// Claims up to `limit` open runs, those first whose claim by this store was committed without an answer. One at a time in a
/// store: a claim in doubt and one on its way look the same.
pub(super) async fn claim(
    pool: &PgPool,
    owner: &str,
    log_version: i32,
    limit: i64,
    patience: Duration,
    doubtful: &Mutex<Vec<Claim>>,
) -> Result<Vec<(RunRow, i64)>, Fault> {
    let mut doubtful = doubtful.lock().await;
    let mut tx = pool.begin().await?;
    let mut claimed = committed_in_tx(&mut tx, owner, &doubtful).await?;
    let left = limit.saturating_sub(i64::try_from(claimed.len()).unwrap_or(i64::MAX)).max(0);
    claimed.extend(claim_in_tx(&mut tx, owner, log_version, left, patience).await?);
    *doubtful = claimed.iter().map(|(run, epoch)| Claim { run: run.id, epoch: *epoch }).collect();
    tx.commit().await?;
    doubtful.clear();
    Ok(claimed)
}

/// Which claims in doubt have happened and still hold.
async fn committed_in_tx(tx: &mut PgConnection, owner: &str, doubtful: &[Claim]) -> Result<Vec<(RunRow, i64)>, Fault> {
    if doubtful.is_empty() {
        return Ok(Vec::new());
    }
    let runs: Vec<Uuid> = doubtful.iter().map(|claim| claim.run).collect();
    let epochs: Vec<i64> = doubtful.iter().map(|claim| claim.epoch).collect();
    let rows = sqlx::query(concat!(
        "SELECT ",
        run_columns!(),
        ", l.epoch FROM unnest($2::uuid[], $3::bigint[]) AS claim (run, epoch) \
         JOIN session.leases l ON l.run = claim.run AND l.epoch = claim.epoch AND l.owner = $1 \
         JOIN session.runs r ON r.id = l.run ORDER BY r.id"
    ))
    .bind(owner)
    .bind(runs)
    .bind(epochs)
    .fetch_all(tx)
    .await?;
    rows.iter().map(row).collect()
}

async fn claim_in_tx(
    tx: &mut PgConnection,
    owner: &str,
    log_version: i32,
    limit: i64,
    patience: Duration,
) -> Result<Vec<(RunRow, i64)>, Fault> {
    let rows = sqlx::query(concat!(
        "WITH picked AS ( \
           SELECT run FROM session.leases l WHERE log_version <= $2 AND CASE WHEN owner IS NULL THEN wake_time <= now() \
             ELSE owner <> $1 AND NOT EXISTS (SELECT 1 FROM session.heartbeats h \
               WHERE h.owner = l.owner AND h.beat_time > now() - $4 * interval '1 millisecond') END \
           ORDER BY run LIMIT $3 FOR UPDATE SKIP LOCKED), \
         claimed AS ( \
           UPDATE session.leases l SET owner = $1, epoch = l.epoch + 1, wake_time = NULL FROM picked WHERE l.run = picked.run \
           RETURNING l.run, l.epoch) \
         SELECT ",
        run_columns!(),
        ", claimed.epoch FROM claimed JOIN session.runs r ON r.id = claimed.run ORDER BY r.id"
    ))
    .bind(owner)
    .bind(log_version)
    .bind(limit)
    .bind(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX / 2))
    .fetch_all(tx)
    .await?;
    rows.iter().map(row).collect()
}

fn row(row: &PgRow) -> Result<(RunRow, i64), Fault> {
    Ok((rows::run(row)?, row.try_get("epoch")?))
}
