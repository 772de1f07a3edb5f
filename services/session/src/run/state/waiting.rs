//! What a run waits for, and until when.

use mar_proto::session::WaitReason;
use time::{Duration, OffsetDateTime};

use super::{CallState, Phase, State, Stop};
use crate::run::{CANCEL_GRACE, CHILDREN_GRACE};

impl State {
    /// Time in RUNNING as of `now`.
    pub fn active_time(&self, now: OffsetDateTime) -> Duration {
        self.active + self.running_since.map_or(Duration::ZERO, |since| (now - since).max(Duration::ZERO))
    }

    /// When `max_active_time` will have passed if the run goes on running.
    pub fn active_deadline(&self) -> Option<OffsetDateTime> {
        let limit = self.limits.max_active_time.as_ref()?;
        let left = Duration::new(limit.seconds, limit.nanos) - self.active;
        self.running_since.and_then(|since| since.checked_add(left))
    }

    /// Whether a generation or a call is in flight.
    pub fn in_flight(&self) -> bool {
        self.generation.is_some() || self.open_calls().next().is_some() || self.doubted_calls().next().is_some()
    }

    /// What the run waits for with nothing in flight; `None` while it can go on by itself.
    pub fn parks_for(&self) -> Option<WaitReason> {
        if self.in_flight() {
            return None;
        }
        let held = |wanted: fn(&CallState) -> bool| self.calls.iter().any(|call| wanted(&call.state));
        let ready = |state: &CallState| {
            matches!(state, CallState::Approved { .. } | CallState::Handed { reason: WaitReason::ChildRun })
        };
        if held(ready) && !self.paused {
            return None;
        }
        if held(|state| matches!(state, CallState::Asking { .. })) {
            return Some(WaitReason::Approval);
        }
        let handed = self.calls.iter().find_map(|call| match call.state {
            CallState::Handed { reason } if reason != WaitReason::ChildRun => Some(reason),
            _ => None,
        });
        let children = self.has_open_children().then_some(WaitReason::ChildRun);
        handed.or(children).or(self.paused.then_some(WaitReason::Paused))
    }

    /// What the run waits for, since [`State::changed_at`].
    pub fn waits_for(&self) -> Option<WaitReason> {
        match self.phase {
            Phase::Waiting(reason) | Phase::Pending(Some(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Whether the run waits for a command or a time: it needs no executor until then.
    pub fn is_parked(&self) -> bool {
        let waits = matches!(self.phase, Phase::Waiting(reason) if reason != WaitReason::Dependency);
        // What it waited for may have come, and a slice is being asked for: nothing would bring that to a run that is let go of.
        let waits = waits && (self.parks_for().is_some() || self.renews_at.is_some());
        let unfunded = self.phase == Phase::Pending(Some(WaitReason::Budget));
        (waits && !self.is_due() || unfunded) && self.stop.is_none() && !self.in_flight()
    }

    /// When the run next has something to do without any input. Stays where it is while counters are away: who asks them
    /// paces the asking.
    pub fn wake_at(&self) -> Option<OffsetDateTime> {
        if self.ended() {
            return None;
        }
        if let Some(stop) = &self.stop {
            return Some(if self.in_flight() { stop.at + CANCEL_GRACE } else { self.children_due(stop) });
        }
        let mut at = self.expires_at;
        if let Some(active) = self.active_deadline() {
            at = at.min(active);
        }
        // Something in flight brings its own input, and counters that are away hold back an attempt however overdue.
        if matches!(self.phase, Phase::Waiting(WaitReason::Dependency)) {
            at = at.min(self.changed_at + Duration::seconds(1));
        } else if self.is_due() {
            at = at.min(self.changed_at);
        } else if let Some(retry) = &self.retry
            && !self.in_flight()
            && !self.paused
        {
            at = at.min(retry.at);
        }
        let renewal = self.renews_at.into_iter();
        Some(self.approvals_due().chain(renewal).fold(at, OffsetDateTime::min))
    }

    /// Whether the run, a child, goes on at once: what it has committed says what it may draw for, and nothing brings another
    /// input. Budgets are its root's to ask.
    fn is_due(&self) -> bool {
        let stands = matches!(self.phase, Phase::Running | Phase::Waiting(_)) && self.parent.is_some();
        stands && !self.in_flight() && self.retry.is_none() && self.parks_for().is_none()
    }

    /// Until when the children of a run that stops are waited for.
    pub fn children_due(&self, stop: &Stop) -> OffsetDateTime {
        let levels = i32::try_from(self.limits.max_depth.unwrap_or(0).clamp(1, 8)).unwrap_or(1);
        stop.at + CHILDREN_GRACE * levels
    }
}
