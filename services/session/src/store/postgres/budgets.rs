//! Budgets and their slices.

use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::counters::budget::Spend;
use crate::store::{BudgetKey, BudgetLedger, SliceRow, fault::Fault};

use super::database::{Database, Tx};

pub(super) async fn generation(db: &Database, tenant: &str, key: &BudgetKey) -> Result<i64, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query =
        tx.query_scalar("SELECT generation FROM session.budgets WHERE tenant = $1 AND budget = $2 AND day = $3");
    let found = query.bind(tenant).bind(&key.budget).bind(key.day).fetch_optional(&mut *tx).await?;
    tx.done().await?;
    Ok(found.unwrap_or(0))
}

pub(super) async fn raise(
    db: &Database,
    tenant: &str,
    key: &BudgetKey,
    from: i64,
) -> Result<Option<BudgetLedger>, Fault> {
    let mut tx = db.begin(tenant).await?;
    // The row is taken before the slices are read: whoever stores one holds it shared.
    let query = tx.query(
        "INSERT INTO session.budgets AS row (tenant, budget, day, generation, reached_cost, reached_runs) \
         VALUES ($1, $2, $3, $4 + 1, 0, 0) \
         ON CONFLICT (tenant, budget, day) DO UPDATE \
         SET generation = row.generation + 1 WHERE row.generation = $4 \
         RETURNING generation, reached_cost, reached_runs",
    );
    let row = query.bind(tenant).bind(&key.budget).bind(key.day).bind(from).fetch_optional(&mut *tx).await?;
    let Some(row) = row else { return Ok(None) };
    let query =
        tx.query("SELECT id, cost, runs, used_cost FROM session.slices WHERE tenant = $1 AND budget = $2 AND day = $3");
    let slices = query.bind(tenant).bind(&key.budget).bind(key.day).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let reached = |column: &str| Ok::<_, Fault>(u8::try_from(row.try_get::<i16, _>(column)?).unwrap_or(100));
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
    db: &Database,
    tenant: &str,
    slice: &SliceRow,
    generation: i64,
    reached: [u8; 2],
) -> Result<bool, Fault> {
    let mut tx = db.begin(tenant).await?;
    if !holds(&mut tx, tenant, &slice.key, generation).await? {
        return Ok(false);
    }
    let query = tx.query(
        "INSERT INTO session.slices (tenant, id, budget, day, run, cost, runs) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (tenant, id) DO NOTHING",
    );
    let query = query.bind(tenant).bind(slice.id).bind(&slice.key.budget).bind(slice.key.day).bind(slice.run);
    query.bind(slice.granted.cost_nano_usd).bind(slice.granted.runs).execute(&mut *tx).await?;
    tx.commit().await?;
    if reached != [0, 0] {
        reach(db, tenant, &slice.key, reached).await?;
    }
    Ok(true)
}

async fn holds(tx: &mut Tx, tenant: &str, key: &BudgetKey, generation: i64) -> Result<bool, Fault> {
    let query = tx.query_scalar(
        "SELECT generation FROM session.budgets WHERE tenant = $1 AND budget = $2 AND day = $3 FOR SHARE",
    );
    let found: Option<i64> = query.bind(tenant).bind(&key.budget).bind(key.day).fetch_optional(&mut **tx).await?;
    Ok(found == Some(generation))
}

/// In a transaction of its own: two that hold the row shared could not both change it. A repeated grant says it again.
async fn reach(db: &Database, tenant: &str, key: &BudgetKey, [cost, runs]: [u8; 2]) -> Result<(), Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "UPDATE session.budgets SET reached_cost = greatest(reached_cost, $4), reached_runs = greatest(reached_runs, $5) \
         WHERE tenant = $1 AND budget = $2 AND day = $3",
    );
    let query = query.bind(tenant).bind(&key.budget).bind(key.day).bind(i16::from(cost)).bind(i16::from(runs));
    query.execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn list(db: &Database, tenant: &str, run: Uuid) -> Result<Vec<SliceRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "SELECT id, budget, day, cost, runs FROM session.slices WHERE tenant = $1 AND run = $2 AND used_cost IS NULL",
    );
    let rows = query.bind(tenant).bind(run).fetch_all(&mut *tx).await?;
    tx.done().await?;
    let slice = |row: &PgRow| {
        Ok(SliceRow {
            id: row.try_get("id")?,
            key: BudgetKey { budget: row.try_get("budget")?, day: row.try_get("day")? },
            run,
            granted: Spend { cost_nano_usd: row.try_get("cost")?, runs: row.try_get("runs")? },
        })
    };
    rows.iter().map(slice).collect()
}

pub(super) async fn close(db: &Database, tenant: &str, id: Uuid, used: Spend) -> Result<(), Fault> {
    let mut tx = db.begin(tenant).await?;
    let query =
        tx.query("UPDATE session.slices SET used_cost = $3 WHERE tenant = $1 AND id = $2 AND used_cost IS NULL");
    query.bind(tenant).bind(id).bind(used.cost_nano_usd).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}
