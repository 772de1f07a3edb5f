//! The simulated counters: those of one process behind a network, which can be flushed and can fall back.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use mar_session::counters::budget::{BudgetRebuild, Budgets, GiveBack, Grant, Slice};
use mar_session::counters::memory::MemoryCounters;
use mar_session::counters::{Advance, Answer, Counters, Error, Held, Pool, PoolRebuild};
use uuid::Uuid;

use crate::link::{Link, Lost, Part};

/// A replica's connection to the counters.
pub struct SimCounters {
    pub link: Arc<Link>,
    pub memory: Arc<MemoryCounters>,
}

impl SimCounters {
    /// What the counters say, who answer at once, as far as the network lets it through.
    async fn ask<T>(&self, run: Uuid, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let away = || Error::Unavailable("they are away".into());
        let answered = self.link.trip(Part::Counters, run, || answer.now_or_never()).await;
        answered.map_err(|_: Lost| away())?.unwrap_or_else(|| Err(away()))
    }
}

#[async_trait]
impl Counters for SimCounters {
    async fn advance(&self, change: Advance) -> Result<Answer, Error> {
        self.ask(change.run, self.memory.advance(change)).await
    }

    async fn forget(&self, root: Uuid, run: Uuid) -> Result<(), Error> {
        self.ask(run, self.memory.forget(root, run)).await
    }

    async fn release(&self, root: Uuid, pool: Pool, ended: Held) -> Result<(), Error> {
        self.ask(ended.run, self.memory.release(root, pool, ended)).await
    }

    async fn rebuild_pool(&self, rebuild: &PoolRebuild) -> Result<(), Error> {
        self.ask(Uuid::nil(), self.memory.rebuild_pool(rebuild)).await
    }
}

#[async_trait]
impl Budgets for SimCounters {
    async fn grant(&self, slice: &Slice) -> Result<Grant, Error> {
        self.ask(Uuid::nil(), self.memory.grant(slice)).await
    }

    async fn give_back(&self, back: &GiveBack) -> Result<(), Error> {
        self.ask(Uuid::nil(), self.memory.give_back(back)).await
    }

    async fn rebuild_budget(&self, rebuild: &BudgetRebuild) -> Result<(), Error> {
        self.ask(Uuid::nil(), self.memory.rebuild_budget(rebuild)).await
    }
}
