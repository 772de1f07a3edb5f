//! The highest epoch seen of each run: a call of a lower one comes from an owner that has lost the run.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mar_proto::types::ErrorReason;
use tonic::{Code, Status};

use crate::status::Fault;

const DEFAULT_CAPACITY: usize = 100_000;

/// Remembers the highest epoch per (tenant, run). Bounded: the runs that were not called for longest are forgotten, at
/// least half of `capacity` is always remembered.
#[derive(Debug)]
pub struct EpochGuard {
    capacity: usize,
    generations: Mutex<Generations>,
}

type Key = (String, String);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, u64>,
    old: HashMap<Key, u64>,
}

impl EpochGuard {
    /// A guard that remembers up to `capacity` runs.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(2), generations: Mutex::default() }
    }

    /// Lets a call of `epoch` pass and remembers it.
    ///
    /// # Errors
    /// FAILED_PRECONDITION, `EPOCH_STALE`, when a higher epoch of the run was seen.
    pub fn admit(&self, tenant: &str, run: &str, epoch: u64) -> Result<(), Status> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.to_owned(), run.to_owned());
        let seen = generations.young.get(&key).or_else(|| generations.old.get(&key)).copied().unwrap_or(0);
        if epoch < seen {
            return Err(stale(epoch, seen));
        }
        if generations.young.len() >= self.capacity / 2 && !generations.young.contains_key(&key) {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, epoch);
        Ok(())
    }
}

impl Default for EpochGuard {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

fn stale(epoch: u64, seen: u64) -> Status {
    Fault::new(Code::FailedPrecondition, ErrorReason::EpochStale, "another owner has taken the run over")
        .metadata("epoch", epoch.to_string())
        .metadata("epoch_seen", seen.to_string())
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Reason;

    #[test]
    fn a_lower_epoch_is_stale_for_its_run_only() {
        let guard = EpochGuard::default();
        guard.admit("acme", "r", 2).unwrap();
        guard.admit("acme", "r", 2).unwrap();
        guard.admit("other", "r", 1).unwrap();
        let refused = guard.admit("acme", "r", 1).unwrap_err();
        assert_eq!(Reason::of(&refused), Some(ErrorReason::EpochStale));
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_runs_in_use() {
        let guard = EpochGuard::new(10);
        for at in 0..1_000 {
            guard.admit("acme", "busy", 5).unwrap();
            guard.admit("acme", &format!("r{at}"), 1).unwrap();
        }
        let generations = guard.generations.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 10);
        drop(generations);
        assert!(guard.admit("acme", "busy", 4).is_err());
    }
}
