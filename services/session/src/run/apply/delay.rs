//! Time that a run lost to a store that was away.

use mar_proto::session::CommitDelayed;
use time::Duration;

use super::timestamp;
use crate::run::State;

impl State {
    /// What the run could not use does not count as active. Only what it was RUNNING for is given back: the rest was not
    /// counted.
    pub(super) fn stand_still(&mut self, delayed: &CommitDelayed) {
        let stamps = (delayed.since.as_ref().and_then(timestamp), delayed.until.as_ref().and_then(timestamp));
        let (Some(since), Some(until)) = stamps else { return };
        self.delayed_until = self.delayed_until.max(Some(until));
        if let Some(running) = self.running_since {
            let lost = until - since.max(running);
            self.running_since = Some(running + lost.max(Duration::ZERO));
        }
    }
}
