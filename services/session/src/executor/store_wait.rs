//! How long something that the run cannot go on without has waited for the store.

use std::time::Duration;

use time::OffsetDateTime;

use super::{STORE_BACKOFF, STUCK};
use crate::run::{Delay, Input, Timed};

/// One write, tried until the store takes it.
#[derive(Debug)]
pub(super) struct StoreWait {
    since: OffsetDateTime,
    pause: Duration,
    failures: i64,
}

impl StoreWait {
    /// Of a write that is tried for the first time at `since`.
    pub(super) fn new(since: OffsetDateTime) -> Self {
        Self { since, pause: STORE_BACKOFF.0, failures: 0 }
    }

    /// Notes a try in vain; answers the pause before the next.
    pub(super) fn failed(&mut self) -> Duration {
        self.failures += 1;
        let next = (self.pause * 2).min(STORE_BACKOFF.1);
        std::mem::replace(&mut self.pause, next)
    }

    /// What the log is told when the store has taken it: nothing where it did so soon. A store that is slow without failing is
    /// not away.
    pub(super) fn over(&self, now: OffsetDateTime) -> Option<Timed> {
        let delay = Delay { since: self.since, until: now, failures: self.failures };
        let told = self.failures > 0 && now - self.since >= STUCK;
        told.then_some(Timed { at: now, input: Input::CommitDelayed(delay) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn only_a_store_that_was_away_for_long_enough_is_told_of() {
        let mut wait = StoreWait::new(START);
        assert_eq!(wait.over(START + STUCK * 10), None, "it was slow");
        assert_eq!([wait.failed(), wait.failed(), wait.failed()].map(|pause| pause.as_millis()), [50, 100, 200]);
        assert_eq!(wait.over(START + STUCK - Duration::from_millis(1)), None, "nobody noticed");
        let until = START + STUCK;
        let delay = Delay { since: START, until, failures: 3 };
        assert_eq!(wait.over(until), Some(Timed { at: until, input: Input::CommitDelayed(delay) }));
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let mut wait = StoreWait::new(START);
        let pauses: Vec<Duration> = (0..20).map(|_| wait.failed()).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses.last(), Some(&STORE_BACKOFF.1));
    }
}
