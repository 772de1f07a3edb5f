//! Counters of one process: empty at start and rebuilt from the log, the code path of a lost Redis.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::sabotage::{Fault, Sabotage};

use super::{
    Advance, Amounts, Answer, Carve, Counters, Error, Held, Pool, PoolRebuild,
    budget::{self, Budget, BudgetRebuild, Budgets, GRACE_DAYS, GiveBack, Grant, Slice, Window},
    ledger::{self, Begun, Kept},
    pool,
};

/// Counters in maps.
#[derive(Debug, Default)]
pub struct MemoryCounters {
    tables: Mutex<Tables>,
    sabotage: Sabotage,
}

/// What counters held at one moment: what a copy of theirs knows that lags behind.
#[cfg(debug_assertions)]
#[derive(Debug, Clone)]
pub struct Copied(Tables);

#[derive(Debug, Clone, Default)]
struct Tables {
    runs: HashMap<(Uuid, Uuid), Kept>,
    /// By root, parent and `seq`.
    pools: HashMap<(Uuid, Uuid, i64), pool::Kept>,
    budgets: HashMap<(Budget, Window), budget::Kept>,
    /// The last nonce or token.
    minted: i64,
}

impl MemoryCounters {
    /// Empty counters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Empty counters with a test build's fault.
    #[must_use]
    pub fn of(sabotage: Sabotage) -> Self {
        Self { sabotage, ..Self::default() }
    }

    /// What they hold now.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn copy(&self) -> Copied {
        Copied(self.tables().clone())
    }

    /// Falls back to what was held before, as a promoted copy that had not heard the last. What several runs share does not
    /// outlive its server there: a promoted one has another replication id, by which pools and budgets are known to be lost.
    #[cfg(debug_assertions)]
    pub fn fall_back(&self, copied: &Copied) {
        let mut tables = self.tables();
        let (pools, budgets) = (HashMap::default(), HashMap::default());
        *tables = Tables { minted: tables.minted, pools, budgets, ..copied.0.clone() };
    }

    /// Forgets everything, as a restart does.
    pub fn clear(&self) {
        let mut tables = self.tables();
        // Nonces and tokens that are on their way stay what they are.
        *tables = Tables { minted: tables.minted, ..Tables::default() };
    }

    /// Forgets a pool, as a store that loses a single key does.
    pub fn lose_pool(&self, root: Uuid, parent: Uuid, seq: i64) {
        self.tables().pools.remove(&(root, parent, seq));
    }

    /// Forgets a budget, as a store that loses a single key does.
    pub fn lose_budget(&self, budget: &Budget, window: Window) {
        self.tables().budgets.remove(&(budget.clone(), window));
    }

    /// A change is computed before it is put in a map, so a panic elsewhere leaves no half change behind.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    const fn mint(&mut self) -> i64 {
        self.minted += 1;
        self.minted
    }

    /// The token of a pool that is lost.
    fn lose(&mut self, key: (Uuid, Uuid, i64)) -> i64 {
        if let Some(pool::Kept::Lost(token)) = self.pools.get(&key) {
            return *token;
        }
        let token = self.mint();
        self.pools.insert(key, pool::Kept::Lost(token));
        token
    }

    fn advance(&mut self, change: &Advance) -> Result<Answer, Error> {
        let key = (change.root, change.run);
        let settled = match ledger::begin(self.runs.get(&key).copied(), change)? {
            Begun::Repeated(answer) => return Ok(answer),
            Begun::New(settled) => settled,
        };
        let mut room = Amounts::default();
        if let Some(draw) = &change.draw {
            let key = (change.root, draw.pool.parent, draw.pool.seq);
            room = match pool::look(self.pools.get(&key), change, draw) {
                pool::Found::Room(room) => room,
                pool::Found::Lost => return Err(Error::PoolLost(self.lose(key))),
                pool::Found::Stale(epoch) => return Err(Error::Stale(change.epoch, epoch)),
            };
        }
        let nonce = matches!(change.carve, Some(Carve::Open(_))).then(|| self.mint());
        let (kept, answer) = settled.reserve(change, room, nonce);
        if let Some(draw) = &change.draw
            && let Some(pool::Kept::Whole(pool)) = self.pools.get_mut(&(change.root, draw.pool.parent, draw.pool.seq))
        {
            pool.take(change, draw, answer.drawn);
        }
        match (change.carve, answer.opened) {
            (Some(Carve::Open(size)), Some(nonce)) => {
                let opened = pool::Kept::Whole(pool::Whole::open(nonce, size));
                self.pools.insert((change.root, change.run, change.seq), opened);
            }
            (Some(Carve::Close(seq)), _) => drop(self.pools.remove(&(change.root, change.run, seq))),
            _ => {}
        }
        self.runs.insert(key, kept);
        Ok(answer)
    }
}

#[async_trait]
impl Counters for MemoryCounters {
    async fn advance(&self, mut change: Advance) -> Result<Answer, Error> {
        ledger::check(&change)?;
        let mut tables = self.tables();
        if self.sabotage.is(Fault::StaleCounter) {
            match tables.runs.get(&(change.root, change.run)) {
                Some(kept) => (change.last_seq, change.totals) = (kept.seq(), kept.used()),
                None => (change.last_seq, change.totals) = (-1, Amounts::default()),
            }
        }
        tables.advance(&change)
    }

    async fn forget(&self, root: Uuid, run: Uuid) -> Result<(), Error> {
        self.tables().runs.remove(&(root, run));
        Ok(())
    }

    async fn release(&self, root: Uuid, pool: Pool, ended: Held) -> Result<(), Error> {
        pool::check_held(&ended)?;
        let mut tables = self.tables();
        if let Some(pool::Kept::Whole(whole)) = tables.pools.get_mut(&(root, pool.parent, pool.seq)) {
            whole.release(pool.nonce, &ended);
        }
        tables.runs.remove(&(root, ended.run));
        Ok(())
    }

    async fn rebuild_pool(&self, rebuild: &PoolRebuild) -> Result<(), Error> {
        let sum = rebuild.sum()?;
        let mut tables = self.tables();
        let key = (rebuild.root, rebuild.pool.parent, rebuild.pool.seq);
        if matches!(tables.pools.get(&key), Some(pool::Kept::Lost(token)) if *token == rebuild.token) {
            tables.pools.insert(key, pool::Kept::Whole(pool::Whole::rebuilt(rebuild, sum)));
        }
        Ok(())
    }
}

#[async_trait]
impl Budgets for MemoryCounters {
    async fn grant(&self, slice: &Slice) -> Result<Grant, Error> {
        budget::check_slice(slice)?;
        let mut tables = self.tables();
        let kept = tables.budgets.get_mut(&(slice.budget.clone(), slice.window)).ok_or(Error::BudgetLost(-1))?;
        kept.grant(slice)
    }

    async fn give_back(&self, back: &GiveBack) -> Result<(), Error> {
        budget::check_back(back)?;
        if let Some(kept) = self.tables().budgets.get_mut(&(back.budget.clone(), back.window)) {
            kept.give_back(back);
        }
        Ok(())
    }

    async fn rebuild_budget(&self, rebuild: &BudgetRebuild) -> Result<(), Error> {
        let used = budget::check_rebuild(rebuild)?;
        let mut tables = self.tables();
        let key = (rebuild.budget.clone(), rebuild.window);
        if tables.budgets.get(&key).is_none_or(|kept| kept.generation() < rebuild.generation) {
            tables.budgets.insert(key, budget::Kept::rebuilt(rebuild, used));
        }
        if let Window::Day(today) = rebuild.window {
            let over = |window: &Window| matches!(window, Window::Day(day) if *day < today - GRACE_DAYS);
            tables.budgets.retain(|(budget, window), _| *budget != rebuild.budget || !over(window));
        }
        Ok(())
    }
}
