//! Time that is lost to a store that is away.

use mar_proto::session::CommitDelayed;
use time::Duration;

use super::audit::Audit;
use crate::run::{Event, State, timestamp};

impl Audit {
    /// Each moment is lost once, and only what the run was RUNNING for is given back.
    pub(super) fn loses(&mut self, delayed: &CommitDelayed, event: &Event, state: &State) {
        let since = delayed.since.as_ref().and_then(timestamp).unwrap();
        let until = delayed.until.as_ref().and_then(timestamp).unwrap();
        assert!(since < until && until <= event.time, "{delayed:?} at {}", event.time);
        assert!(self.delayed_until.is_none_or(|before| before <= since), "lost twice: {delayed:?}");
        assert!(delayed.failures > 0 && !delayed.dependency.is_empty());
        assert!(!self.ended && self.phase.is_none_or(|before| before == state.phase), "it changes nothing but time");
        self.delayed_until = Some(until);
        if let Some(running) = self.running_since {
            self.lost += (until - since.max(running)).max(Duration::ZERO);
        }
    }
}
