//! Claims of open runs.

use sqlx::{Row, SqlitePool, sqlite::SqliteRow};

use crate::store::{RunRow, fault::Fault};

use super::rows::{self, run_columns};

pub(super) async fn claim(
    pool: &SqlitePool,
    owner: &str,
    log_version: i32,
    limit: i64,
) -> Result<Vec<(RunRow, i64)>, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let picked = sqlx::query(concat!(
        "SELECT ",
        run_columns!(),
        ", l.epoch + 1 AS epoch FROM leases l JOIN runs r ON r.id = l.run \
         WHERE l.owner <> $1 AND l.log_version <= $2 ORDER BY l.run LIMIT $3"
    ))
    .bind(owner)
    .bind(log_version)
    .bind(limit.max(0))
    .fetch_all(&mut *tx)
    .await?;
    let claimed = picked.iter().map(row).collect::<Result<Vec<_>, Fault>>()?;
    for (run, epoch) in &claimed {
        sqlx::query("UPDATE leases SET owner = $2, epoch = $3 WHERE run = $1")
            .bind(run.id)
            .bind(owner)
            .bind(epoch)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(claimed)
}

fn row(row: &SqliteRow) -> Result<(RunRow, i64), Fault> {
    Ok((rows::run(row)?, row.try_get("epoch")?))
}
