//! Time that is lost: to a store that is away, or because nobody executes the run.

use mar_proto::session::{CommitDelayed, RunClaimed};
use time::{Duration, OffsetDateTime};

use super::Audit;
use crate::run::{Event, State, timestamp};

impl Audit {
    /// Each moment is lost once, and only what the run was RUNNING for is given back.
    pub(super) fn loses(&mut self, delayed: &CommitDelayed, event: &Event, state: &State) {
        let since = delayed.since.as_ref().and_then(timestamp).unwrap();
        let until = delayed.until.as_ref().and_then(timestamp).unwrap();
        assert!(since < until && until <= event.time, "{delayed:?} at {}", event.time);
        assert!(self.lost_until.is_none_or(|before| before <= since), "lost twice: {delayed:?}");
        assert!(delayed.failures > 0 && !delayed.dependency.is_empty());
        assert!(!self.ended && self.phase.is_none_or(|before| before == state.phase), "it changes nothing but time");
        self.lose(since, until);
    }

    /// Nobody executed it: after its last event, and while it was RUNNING.
    pub(super) fn unattended(&mut self, claimed: &RunClaimed, event: &Event, state: &State) {
        assert!(self.phase.is_none_or(|before| before == state.phase), "a takeover changes nothing but the owner");
        let Some(since) = claimed.unattended_since.as_ref().and_then(timestamp) else { return };
        assert!(since < event.time && self.running_since.is_some_and(|running| running <= since), "{claimed:?}");
        assert!(
            self.latest.is_none_or(|latest| latest <= since),
            "it was executed until {:?}: {claimed:?}",
            self.latest
        );
        assert!(self.lost_until.is_none_or(|before| before <= since), "lost twice: {claimed:?}");
        self.lose(since, event.time);
    }

    fn lose(&mut self, since: OffsetDateTime, until: OffsetDateTime) {
        self.lost_until = self.lost_until.max(Some(until));
        if let Some(running) = self.running_since {
            self.lost += (until - since.max(running)).max(Duration::ZERO);
        }
    }
}
