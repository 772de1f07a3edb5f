//! The life of a run: what counts it, when it is RUNNING, what it waits for, and how it stops.

use mar_proto::session::{
    AllotmentRefilled, RunEnded, RunResumed, RunState, RunWaiting, SliceGranted, StopRequested, WaitReason,
};
use mar_proto::types::HaltReason;
use time::{Duration, OffsetDateTime};

use super::{Audit, children::Family};
use crate::counters::Amounts;
use crate::run::{Event, State, timestamp};

impl Audit {
    pub(super) fn is_granted(&mut self, granted: &SliceGranted) {
        assert!(!self.stopped, "a stopped run needs nothing");
        let (slices, cost) = self.purses.get_mut(&granted.scope).expect("a budget that binds");
        assert_eq!(granted.runs, i64::from(*slices == 0), "a run counts once");
        (*slices, *cost) = (*slices + 1, *cost + granted.cost_nano_usd);
    }

    pub(super) fn refills(&mut self, refilled: &AllotmentRefilled) {
        let drawn = Amounts::of_reservation(refilled.drawn.as_ref().unwrap());
        assert!(!drawn.is_zero() && drawn.max(Amounts::default()) == drawn);
        self.limits = self.limits + drawn;
    }

    pub(super) fn is_sealed(&mut self, event: &Event) {
        assert!(self.purses.values().all(|(slices, _)| *slices > 0), "a run that no budget counts");
        assert!(!std::mem::replace(&mut self.sealed, true), "sealed twice");
        self.running_since = Some(event.time);
    }

    pub(super) fn waits(&mut self, waiting: &RunWaiting, event: &Event, state: &State) {
        self.has_reason_to_wait(waiting.reason());
        assert!(!self.stopped && self.generation.is_none() && state.open_calls().next().is_none());
        self.waits_for = self.sealed.then_some(waiting.reason());
        self.waiting = self.sealed;
        self.waited = Some((waiting.reason(), event.time));
        self.rests(event.time);
    }

    fn has_reason_to_wait(&self, reason: WaitReason) {
        let held = self.calls.values().any(|call| call.held && !call.to_delegate);
        match reason {
            WaitReason::Paused => assert!(self.paused && !held),
            WaitReason::Approval | WaitReason::ToolResult | WaitReason::Input => assert!(held),
            WaitReason::ChildRun => assert!(self.delegated.values().any(Family::is_open)),
            _ => {}
        }
    }

    pub(super) fn resumes(&mut self, resumed: &RunResumed, event: &Event) {
        let of_pause = resumed.reason() == WaitReason::Paused;
        assert!(!of_pause || std::mem::take(&mut self.paused), "resumed without a pause");
        match resumed.since.as_ref().and_then(timestamp) {
            Some(since) => assert_eq!(self.waited, Some((resumed.reason(), since))),
            None => assert!(of_pause, "{resumed:?} has not waited"),
        }
        if self.sealed && (!of_pause || self.waits_for == Some(WaitReason::Paused)) {
            assert!(std::mem::take(&mut self.waiting), "resumed without waiting");
            self.waits_for = None;
            self.running_since = Some(event.time);
        }
    }

    /// RUNNING is over for now, and its active time is counted.
    fn rests(&mut self, at: OffsetDateTime) {
        let ran = self.running_since.take().map_or(Duration::ZERO, |since| at - since);
        let lost = std::mem::take(&mut self.lost);
        assert!(lost <= ran.max(Duration::ZERO), "more was lost than there was");
        self.active += ran.max(Duration::ZERO) - lost;
    }

    pub(super) fn is_to_stop(&mut self, stop: &StopRequested, event: &Event, state: &State) {
        assert!(!std::mem::replace(&mut self.stopped, true), "stopped twice");
        let waited = stop.halt_reason() == HaltReason::CountersUnavailable;
        assert!(!waited || (self.waiting && event.time >= state.expires_at));
        assert_eq!(stop.outcome() == RunState::Halted, stop.halt_reason != 0);
    }

    pub(super) fn ends(&mut self, ended: &RunEnded, event: &Event, state: &State) {
        self.ended = true;
        self.rests(event.time);
        self.end(ended, event, state);
    }
}
