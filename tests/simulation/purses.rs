//! What the simulated store keeps of budgets.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mar_session::counters::budget::Spend;
use mar_session::store::{BudgetKey, BudgetLedger, BudgetStore, Error, SliceRow};
use uuid::Uuid;

use crate::store::SimStore;

/// Windows by budget and day: generation, and thresholds that were reached.
type Windows = BTreeMap<(String, i64), (i64, [u8; 2])>;

/// Budgets and their slices.
#[derive(Debug, Default, Clone)]
pub struct Purses {
    windows: Windows,
    /// With what of it was used, once it is closed.
    slices: BTreeMap<Uuid, (SliceRow, Option<i64>)>,
}

fn place(key: &BudgetKey) -> (String, i64) {
    (key.budget.clone(), key.day)
}

impl Purses {
    fn raise(&mut self, key: &BudgetKey, from: i64) -> Option<BudgetLedger> {
        let (generation, reached) = self.windows.entry(place(key)).or_insert((0, [0, 0]));
        if *generation != from {
            return None;
        }
        *generation += 1;
        let mut ledger =
            BudgetLedger { generation: *generation, closed: Spend::default(), open: Vec::new(), reached: *reached };
        for (row, used) in self.slices.values().filter(|(row, _)| row.key == *key) {
            match used {
                None => ledger.open.push((row.id, row.granted)),
                Some(used) => {
                    ledger.closed.cost_nano_usd += used;
                    ledger.closed.runs += row.granted.runs;
                }
            }
        }
        Some(ledger)
    }

    fn put(&mut self, slice: &SliceRow, generation: i64, reached: [u8; 2]) -> bool {
        let Some((now, highest)) = self.windows.get_mut(&place(&slice.key)) else { return false };
        if *now != generation {
            return false;
        }
        highest.iter_mut().zip(reached).for_each(|(highest, reached)| *highest = reached.max(*highest));
        self.slices.entry(slice.id).or_insert_with(|| (slice.clone(), None));
        true
    }

    /// What each window has given away for good, or may still see used.
    pub fn spent(&self) -> BTreeMap<(String, i64), i64> {
        let mut spent = BTreeMap::new();
        for (row, used) in self.slices.values() {
            *spent.entry(place(&row.key)).or_default() += used.unwrap_or(row.granted.cost_nano_usd);
        }
        spent
    }

    /// Slices that were never closed.
    pub fn open(&self) -> impl Iterator<Item = &SliceRow> {
        self.slices.values().filter(|(_, used)| used.is_none()).map(|(row, _)| row)
    }
}

#[async_trait]
impl BudgetStore for SimStore {
    async fn budget_generation(&self, _: &str, key: &BudgetKey) -> Result<i64, Error> {
        let read = |windows: &Windows| windows.get(&place(key)).map_or(0, |(generation, _)| *generation);
        self.ask(Uuid::nil(), |tables, _| read(&tables.purses.windows)).await
    }

    async fn budget_raise(&self, _: &str, key: &BudgetKey, from: i64) -> Result<Option<BudgetLedger>, Error> {
        self.ask(Uuid::nil(), |tables, _| tables.purses.raise(key, from)).await
    }

    async fn slice_put(&self, _: &str, slice: &SliceRow, generation: i64, reached: [u8; 2]) -> Result<bool, Error> {
        self.ask(slice.run, |tables, _| tables.purses.put(slice, generation, reached)).await
    }

    async fn slice_list(&self, _: &str, run: Uuid) -> Result<Vec<SliceRow>, Error> {
        self.ask(run, |tables, _| {
            let open = tables.purses.slices.values().filter(|(row, used)| row.run == run && used.is_none());
            open.map(|(row, _)| row.clone()).collect()
        })
        .await
    }

    async fn slice_close(&self, _: &str, id: Uuid, used: Spend) -> Result<(), Error> {
        self.ask(Uuid::nil(), |tables, _| {
            if let Some((_, open)) = tables.purses.slices.get_mut(&id) {
                open.get_or_insert(used.cost_nano_usd);
            }
        })
        .await
    }
}
