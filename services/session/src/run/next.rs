//! Second half of a transition: what comes after everything in flight is closed.

use mar_proto::session::RunState;
use mar_proto::types::HaltReason;

use super::absorb::Plan;
use super::answer;
use super::delegation::Carving;
use super::event::{answer_rejected, failed, halted};
use super::history::LeftOut;
use super::state::{Call, CallState};
use super::summary::{Aim, Upcoming};
use crate::counters::Amounts;

/// What a run wants to begin; needs the counters' consent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// Nothing: something is in flight, not due yet, or the run is over.
    Nothing,
    /// A generation.
    Generate(Box<Due>),
    /// The calls that the last turn asks for.
    Call(Vec<Call>),
    /// The child runs of a call.
    Delegate(Box<Carving>),
}

/// A generation that is due.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Due {
    /// Its step.
    pub step: i64,
    /// Session's number of the attempt.
    pub attempt: i64,
    /// What it may use.
    pub reservation: Amounts,
    /// Whether it repairs an answer.
    pub repair: bool,
    /// What it is for.
    pub aim: Aim,
    /// Calls whose results are left out of its prompt.
    pub elided: Vec<String>,
    /// Messages of earlier runs that are left out of its prompt.
    pub left_out: LeftOut,
}

impl Next {
    /// What it reserves.
    pub fn reservation(&self) -> Amounts {
        match self {
            Self::Nothing => Amounts::default(),
            Self::Generate(due) => due.reservation,
            Self::Delegate(carving) => carving.reserved,
            Self::Call(calls) => {
                Amounts { tool_calls: i64::try_from(calls.len()).unwrap_or(i64::MAX), ..Amounts::default() }
            }
        }
    }
}

impl Plan {
    /// What comes next. Judges a final answer, which may end the run here.
    pub fn next(&mut self) -> Next {
        let next = self.following();
        self.covered(next)
    }

    fn following(&mut self) -> Next {
        if self.draining || self.state.ended() || self.state.stop.is_some() || self.state.agent.is_none() {
            return Next::Nothing;
        }
        self.issue_approved();
        if self.state.in_flight() {
            return Next::Nothing;
        }
        if self.state.renews_at.is_some() && self.state.parks_for().is_none() {
            return Next::Nothing;
        }
        if let Some(carving) = self.due_delegation() {
            return Next::Delegate(Box::new(carving));
        }
        if self.state.parks_for().is_some() {
            self.park();
            return Next::Nothing;
        }
        if let Some(candidate) = self.state.candidate.clone() {
            return match answer::judge(&self.state, &candidate) {
                Ok(answer) => {
                    let ended =
                        mar_proto::session::RunEnded { state: RunState::Succeeded.into(), ..Default::default() };
                    self.end(ended, Some(answer));
                    Next::Nothing
                }
                Err(problems) => self.reject(&problems),
            };
        }
        let wanted: Vec<Call> =
            self.state.calls.iter().filter(|call| call.state == CallState::Wanted).cloned().collect();
        if !wanted.is_empty() {
            return Next::Call(wanted);
        }
        match self.state.retry {
            Some(retry) if self.now < retry.at => Next::Nothing,
            Some(retry) => self.generate(self.state.step, retry.attempt + 1, 0),
            None if self.state.looping => {
                self.end(halted(HaltReason::LoopDetected), None);
                Next::Nothing
            }
            None => self.generate(self.state.step + 1, 1, 1),
        }
    }

    fn generate(&self, step: i64, attempt: i64, steps: i64) -> Next {
        let upcoming = self.state.upcoming();
        let reservation = self.state.reservation_of(&upcoming, steps);
        let repair = self.state.repairing && upcoming.aim == Aim::Turn;
        let Upcoming { aim, elided, left_out, .. } = upcoming;
        Next::Generate(Box::new(Due { step, attempt, reservation, repair, aim, elided, left_out }))
    }

    fn reject(&mut self, problems: &[String]) -> Next {
        let draft = answer_rejected(self.state.step, problems);
        if self.state.repaired {
            self.emit(self.now, draft);
            let text = "the answer does not fit after a repair; AnswerRejected says why";
            self.end(failed(RunState::Failed, "ANSWER_INVALID", text), None);
            return Next::Nothing;
        }
        self.emit(self.now, draft);
        self.generate(self.state.step + 1, 1, 1)
    }
}
