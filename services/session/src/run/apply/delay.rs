//! Time that a run lost: to a store that was away, or because nobody executed it.

use time::{Duration, OffsetDateTime};

use crate::run::State;

impl State {
    /// What the run could not use does not count as active. Only what it was RUNNING for is given back: the rest was not
    /// counted.
    pub(super) fn lose(&mut self, since: Option<OffsetDateTime>, until: Option<OffsetDateTime>) {
        let (Some(since), Some(until)) = (since, until) else { return };
        self.lost_until = self.lost_until.max(Some(until));
        if let Some(running) = self.running_since {
            let lost = until - since.max(running);
            self.running_since = Some(running + lost.max(Duration::ZERO));
        }
    }

    /// Since when a run that is RUNNING had nobody who executed it, until its next owner's `now`: at the earliest since its last
    /// event, and since then where nobody knows. `None` where there is nothing to be given back.
    pub(in crate::run) fn unattended_until(
        &self,
        now: OffsetDateTime,
        known: Option<OffsetDateTime>,
    ) -> Option<OffsetDateTime> {
        let since = known.map_or(self.latest_at, |known| known.max(self.latest_at)).max(self.running_since?);
        let since = self.lost_until.map_or(since, |lost| lost.max(since));
        (since < now).then_some(since)
    }
}
