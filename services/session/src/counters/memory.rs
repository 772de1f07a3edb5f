//! Counters of one process: empty at start and rebuilt from the log, the code path of a lost Redis.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Advance, Answer, Counters, Error,
    ledger::{self, Kept},
};

/// Counters in a map.
#[derive(Debug, Default)]
pub struct MemoryCounters {
    runs: Mutex<HashMap<(Uuid, Uuid), Kept>>,
}

impl MemoryCounters {
    /// Empty counters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets every run, as a restart does.
    pub fn clear(&self) {
        self.runs().clear();
    }

    /// A change is computed before it is put in the map, so a panic elsewhere leaves no half change behind.
    fn runs(&self) -> MutexGuard<'_, HashMap<(Uuid, Uuid), Kept>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Counters for MemoryCounters {
    async fn advance(&self, change: Advance) -> Result<Answer, Error> {
        ledger::check(&change)?;
        let key = (change.root, change.run);
        let mut runs = self.runs();
        let (kept, answer) = ledger::advance(runs.get(&key).copied(), &change)?;
        runs.insert(key, kept);
        Ok(answer)
    }

    async fn forget(&self, root: Uuid, run: Uuid) -> Result<(), Error> {
        self.runs().remove(&(root, run));
        Ok(())
    }
}
