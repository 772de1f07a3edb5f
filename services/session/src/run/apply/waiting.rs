//! From state to state by events about waiting.

use mar_proto::session::{RunWaiting, WaitReason};
use time::OffsetDateTime;

use super::timestamp;
use crate::run::state::{Phase, State};

impl State {
    pub(super) fn wait(&mut self, waiting: &RunWaiting, at: OffsetDateTime) {
        let reason = waiting.reason();
        self.renews_at = waiting.until.as_ref().and_then(timestamp);
        self.active = self.active_time(at);
        self.running_since = None;
        self.phase = match self.phase {
            Phase::Pending(_) => Phase::Pending(Some(reason)),
            _ => Phase::Waiting(reason),
        };
        self.changed_at = at;
    }

    /// A run that is resumed before it could park goes on as it was.
    pub(super) fn resume(&mut self, reason: WaitReason, at: OffsetDateTime) {
        if reason == WaitReason::Paused {
            self.paused = false;
            if self.phase != Phase::Waiting(WaitReason::Paused) {
                return;
            }
        }
        if matches!(self.phase, Phase::Pending(_)) {
            self.phase = Phase::Pending(None);
            self.renews_at = None;
            return;
        }
        self.run(at);
    }
}
