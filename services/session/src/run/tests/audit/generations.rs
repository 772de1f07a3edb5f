//! Generations: one at a time, in their steps, each settled at what it used.

use mar_proto::session::{AnswerRejected, GenerationFailed, GenerationStarted, SummaryCommitted, TurnCommitted};
use mar_proto::types::Usage;

use super::conversation::{calls_of, well_formed};
use super::{Audit, spent};
use crate::counters::Amounts;
use crate::run::tests::fixture::SUMMARY_OUTPUT;
use crate::run::{Event, MAX_ATTEMPTS, State};

impl Audit {
    pub(super) fn starts(&mut self, started: &GenerationStarted, state: &State) {
        assert!(!self.stopped && self.sealed && !self.waiting && !self.paused, "a generation out of turn");
        assert!(self.generation.is_none() && self.owed.is_empty(), "something is open");
        self.comes_next(started);
        self.repairing = started.repair;
        let rejected = self.rejections + self.shared_rejections >= 1 && self.rejections <= 1;
        assert!(!started.repair || rejected);
        self.reserves(started, state);
        well_formed(&state.transcript);
        self.seen.starts(started, state);
        self.shortened.starts(started, state);
    }

    /// A step begins when the one before has its turn; until then there are attempts of that one.
    fn comes_next(&mut self, started: &GenerationStarted) {
        let (step, attempt) = match started.attempt {
            1 => (self.last_step + 1, 1),
            _ => (self.last_step, self.last_attempt + 1),
        };
        assert_eq!((started.step, started.attempt), (step, attempt));
        assert!(!self.turns.contains(&step), "a step that has its turn is tried again");
        (self.last_step, self.last_attempt) = (step, attempt);
    }

    fn reserves(&mut self, started: &GenerationStarted, state: &State) {
        let reservation = started.reservation.as_ref().map(Amounts::of_reservation).unwrap();
        assert_eq!(reservation.steps, i64::from(started.attempt == 1));
        let output = match started.role.as_str() {
            _ if started.history => SUMMARY_OUTPUT.min(state.history.summary_tokens),
            "summarise" => SUMMARY_OUTPUT,
            _ => state.max_output_tokens,
        };
        assert_eq!(reservation.output_tokens, output);
        self.used = self.used + reservation;
        let covered = self.purses.values().all(|(_, cost)| self.used.cost_nano_usd <= *cost);
        assert!(covered, "a generation beyond its slices: {:?}", self.purses);
        self.reserved = reservation;
        self.generation = Some((started.step, started.attempt, reservation));
        let left = started.left.as_ref().map(Amounts::of_reservation).unwrap();
        assert_eq!(left, (self.limits - self.used).max(Amounts::default()));
    }

    pub(super) fn turns(&mut self, turn: &TurnCommitted, event: &Event) {
        assert!(self.turns.insert(turn.step), "step {} has two turns", turn.step);
        self.finish = turn.finish_reason();
        self.settles(turn.step, turn.attempt, &turn.usage.unwrap());
        self.repairs += i64::from(std::mem::take(&mut self.repairing));
        assert!(self.repairs <= 1);
        self.shortened.turns();
        let message = event.content.turn.as_ref().unwrap();
        self.owed = calls_of(message).map(str::to_owned).collect();
        assert_eq!(i64::try_from(self.owed.len()).unwrap(), turn.tool_calls);
    }

    pub(super) fn sums_up(&mut self, summary: &SummaryCommitted, event: &Event, state: &State) {
        assert!(self.turns.insert(summary.step), "step {} has two ends", summary.step);
        self.settles(summary.step, summary.attempt, &summary.usage.unwrap());
        self.seen.sums_up(summary, event, state);
        if !summary.history {
            self.shortened.sums_up(summary, event, state);
        }
    }

    pub(super) fn fails(&mut self, failed: &GenerationFailed) {
        self.settles(failed.step, failed.attempt, &failed.usage.unwrap());
        match failed.reason.as_str() {
            "CONTEXT_EXCEEDED" => self.seen.refused(),
            _ => self.seen.fails(failed.retried),
        }
        let (reached, dead) = self.reached.entry(failed.step).or_default();
        for model in &failed.models {
            if dead.insert(model.clone()) {
                *reached = 0;
            }
        }
        if !matches!(failed.reason.as_str(), "PEER_UNAVAILABLE" | "CANCELLED" | "CONTEXT_EXCEEDED") {
            *reached += 1;
            assert!(*reached <= MAX_ATTEMPTS, "too many attempts");
            assert!(!(failed.retried && *reached == MAX_ATTEMPTS));
        }
    }

    pub(super) fn rejects(&mut self, rejected: &AnswerRejected) {
        self.rejections += 1;
        assert!(rejected.problems > 0 && self.rejections + self.shared_rejections.min(1) <= 2);
    }

    fn settles(&mut self, step: i64, attempt: i64, usage: &Usage) {
        let (open_step, open_attempt, reservation) = self.generation.take().expect("nothing to settle");
        assert_eq!((step, attempt), (open_step, open_attempt));
        let difference = spent(usage) - Amounts { steps: 0, ..reservation };
        self.used = self.used + difference;
        self.overshoot = self.overshoot + difference.max(Amounts::default());
        self.reserved = Amounts::default();
    }
}
