//! What the store keeps of budgets: one row for each window, and the slices that were granted of it. They are the truth
//! of what a budget has given; [`crate::counters::budget`] says how counters and rows work together.

use async_trait::async_trait;
use uuid::Uuid;

use super::Error;
use crate::counters::budget::Spend;

/// A budget's window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetKey {
    /// The budget's name in the counters.
    pub budget: String,
    /// Day of the window, counted from 1970-01-01 UTC; -1 for a budget without days.
    pub day: i64,
}

/// A slice that was granted to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceRow {
    /// Id of the grant.
    pub id: Uuid,
    /// Of which window.
    pub key: BudgetKey,
    /// To which run.
    pub run: Uuid,
    /// How much.
    pub granted: Spend,
}

/// Everything that is known of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetLedger {
    /// Its generation.
    pub generation: i64,
    /// What closed slices have used.
    pub closed: Spend,
    /// Open slices, whole.
    pub open: Vec<(Uuid, Spend)>,
    /// The highest thresholds that were reached, 0 for none: of cost, of runs.
    pub reached: [u8; 2],
}

/// The store's contract for budgets.
#[async_trait]
pub trait BudgetStore {
    /// The generation of a window, which begins at 0.
    async fn budget_generation(&self, tenant: &str, key: &BudgetKey) -> Result<i64, Error>;
    /// Raises the generation by one and tells what is known of the window as of then; nothing when it is not `from` any
    /// more. So a generation has one ledger, and what was stored in it since cannot be missing from another.
    async fn budget_raise(&self, tenant: &str, key: &BudgetKey, from: i64) -> Result<Option<BudgetLedger>, Error>;
    /// Stores a slice, and thresholds that are higher than those stored, while the window is in this generation; answers
    /// whether it is. Repeating it is safe.
    async fn slice_put(&self, tenant: &str, slice: &SliceRow, generation: i64, reached: [u8; 2])
    -> Result<bool, Error>;
    /// The open slices of a run, in no order.
    async fn slice_list(&self, tenant: &str, run: Uuid) -> Result<Vec<SliceRow>, Error>;
    /// Closes a slice at what of it was used. One that is closed stays as it is.
    async fn slice_close(&self, tenant: &str, id: Uuid, used: Spend) -> Result<(), Error>;
}

impl BudgetLedger {
    /// Adds a slice: closed at what it used, or open.
    pub(super) fn add(&mut self, id: Uuid, granted: Spend, used_cost: Option<i64>) {
        match used_cost {
            None => self.open.push((id, granted)),
            Some(used) => {
                self.closed.cost_nano_usd = self.closed.cost_nano_usd.saturating_add(used);
                self.closed.runs = self.closed.runs.saturating_add(granted.runs);
            }
        }
    }
}
