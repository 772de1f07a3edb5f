//! Budgets and their slices.

use sqlx::{Row as _, SqlitePool, sqlite::SqliteRow};
use uuid::Uuid;

use crate::counters::budget::Spend;
use crate::store::{BudgetKey, BudgetLedger, SliceRow, fault::Fault};

pub(super) async fn generation(pool: &SqlitePool, tenant: &str, key: &BudgetKey) -> Result<i64, Fault> {
    let found = sqlx::query_scalar("SELECT generation FROM budgets WHERE tenant = $1 AND budget = $2 AND day = $3")
        .bind(tenant)
        .bind(&key.budget)
        .bind(key.day)
        .fetch_optional(pool)
        .await?;
    Ok(found.unwrap_or(0))
}

pub(super) async fn raise(
    pool: &SqlitePool,
    tenant: &str,
    key: &BudgetKey,
    from: i64,
) -> Result<Option<BudgetLedger>, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let row = sqlx::query(
        "INSERT INTO budgets (tenant, budget, day, generation, reached_cost, reached_runs) \
         VALUES ($1, $2, $3, $4 + 1, 0, 0) \
         ON CONFLICT (tenant, budget, day) DO UPDATE \
         SET generation = generation + 1 WHERE generation = $4 \
         RETURNING generation, reached_cost, reached_runs",
    )
    .bind(tenant)
    .bind(&key.budget)
    .bind(key.day)
    .bind(from)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let slices =
        sqlx::query("SELECT id, cost, runs, used_cost FROM slices WHERE tenant = $1 AND budget = $2 AND day = $3")
            .bind(tenant)
            .bind(&key.budget)
            .bind(key.day)
            .fetch_all(&mut *tx)
            .await?;
    tx.commit().await?;
    let reached = |column: &str| Ok::<_, Fault>(u8::try_from(row.try_get::<i64, _>(column)?).unwrap_or(100));
    let mut ledger = BudgetLedger {
        generation: row.try_get("generation")?,
        closed: Spend::default(),
        open: Vec::new(),
        reached: [reached("reached_cost")?, reached("reached_runs")?],
    };
    for slice in &slices {
        let granted = Spend { cost_nano_usd: slice.try_get("cost")?, runs: slice.try_get("runs")? };
        ledger.add(slice.try_get("id")?, granted, slice.try_get("used_cost")?);
    }
    Ok(Some(ledger))
}

pub(super) async fn put(
    pool: &SqlitePool,
    tenant: &str,
    slice: &SliceRow,
    generation: i64,
    [cost, runs]: [u8; 2],
) -> Result<bool, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let reached = sqlx::query(
        "UPDATE budgets SET reached_cost = max(reached_cost, $5), reached_runs = max(reached_runs, $6) \
         WHERE tenant = $1 AND budget = $2 AND day = $3 AND generation = $4",
    )
    .bind(tenant)
    .bind(&slice.key.budget)
    .bind(slice.key.day)
    .bind(generation)
    .bind(i64::from(cost))
    .bind(i64::from(runs))
    .execute(&mut *tx)
    .await?;
    if reached.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO slices (tenant, id, budget, day, run, cost, runs) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (tenant, id) DO NOTHING",
    )
    .bind(tenant)
    .bind(slice.id)
    .bind(&slice.key.budget)
    .bind(slice.key.day)
    .bind(slice.run)
    .bind(slice.granted.cost_nano_usd)
    .bind(slice.granted.runs)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn list(pool: &SqlitePool, tenant: &str, run: Uuid) -> Result<Vec<SliceRow>, Fault> {
    let rows = sqlx::query(
        "SELECT id, budget, day, cost, runs FROM slices WHERE tenant = $1 AND run = $2 AND used_cost IS NULL",
    )
    .bind(tenant)
    .bind(run)
    .fetch_all(pool)
    .await?;
    let slice = |row: &SqliteRow| {
        Ok(SliceRow {
            id: row.try_get("id")?,
            key: BudgetKey { budget: row.try_get("budget")?, day: row.try_get("day")? },
            run,
            granted: Spend { cost_nano_usd: row.try_get("cost")?, runs: row.try_get("runs")? },
        })
    };
    rows.iter().map(slice).collect()
}

pub(super) async fn close(pool: &SqlitePool, tenant: &str, id: Uuid, used: Spend) -> Result<(), Fault> {
    sqlx::query("UPDATE slices SET used_cost = $3 WHERE tenant = $1 AND id = $2 AND used_cost IS NULL")
        .bind(tenant)
        .bind(id)
        .bind(used.cost_nano_usd)
        .execute(pool)
        .await?;
    Ok(())
}
