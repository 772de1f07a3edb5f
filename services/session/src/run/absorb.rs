//! First half of a transition: what the inputs close.

use mar_proto::session::{
    Agent, AgentSealed, RunClaimed, RunEnded, RunState, ToolOutcome, WaitReason, event_leaf::Body,
};
use mar_proto::types::{HaltReason, Usage};
use time::OffsetDateTime;
use uuid::Uuid;

use super::event::{
    Draft, bare, commit_delayed, ended_by, failed, generation_failed, stop_requested, tool_returned, turn_committed,
    waiting_for,
};
use super::input::{CallReturn, Delay, FinishedTurn, Input, Retry, Timed};
use super::state::{Call, CallState, Phase, State};
use super::summary::{Aim, CONTEXT_EXCEEDED};
use super::{CANCEL_GRACE, Effect, Event, MAX_ATTEMPTS};
use crate::counters::Amounts;

mod children;
mod summary;

/// Reason of a generation that died with its replica.
pub(super) const LOST: &str = "LOST";
/// Characters of what a peer says that go into a run's failure.
const MAX_MESSAGE: usize = 1_000;
/// Reason of a run whose store has lost events of it.
pub const LOG_TAIL_LOST: &str = "LOG_TAIL_LOST";
/// Reason of a generation that was stopped.
const CANCELLED: &str = "CANCELLED";
/// What the model reads about a call whose effect nobody knows.
pub(super) const UNKNOWN_TEXT: &str = "OUTCOME_UNKNOWN: the call was issued, but it is not known whether it took effect. Do not assume \
                            either; check before you repeat it.";

/// Whether a generation that failed for this reason had left the runtime.
pub(super) fn reaches_provider(reason: &str) -> bool {
    !matches!(reason, "PEER_UNAVAILABLE" | "DRAINING" | "STORE_UNAVAILABLE" | CONTEXT_EXCEEDED)
}

/// Events and effects in the making, with the state that they lead to.
pub(super) struct Plan {
    pub state: State,
    pub events: Vec<Event>,
    pub effects: Vec<Effect>,
    pub settle: Amounts,
    pub now: OffsetDateTime,
    /// The command that is being taken.
    pub command: Option<Uuid>,
    /// Whether nothing may begin.
    pub draining: bool,
    /// The `seq` of a pool whose children have all ended.
    pub closed_pool: Option<i64>,
}

impl Plan {
    /// What the inputs close, time limits included.
    pub fn of(state: &State, inputs: &[Timed]) -> Self {
        let now = inputs.iter().map(|timed| timed.at).max().unwrap_or(state.changed_at);
        let mut plan = Self {
            state: state.clone(),
            events: Vec::new(),
            effects: Vec::new(),
            settle: Amounts::default(),
            now,
            command: None,
            draining: inputs.iter().any(|timed| timed.input == Input::Draining),
            closed_pool: None,
        };
        let mut at = inputs.first().map_or(now, |first| first.at);
        for timed in inputs {
            if plan.state.ended() {
                break;
            }
            // What came while a commit waited is taken after it.
            at = at.max(timed.at);
            plan.absorb(&timed.input, at);
        }
        if !plan.state.ended() {
            plan.renew();
            plan.lapse();
            plan.check_time();
            plan.finish_stop();
        }
        plan
    }

    /// Adds an event and moves the state on.
    pub fn emit(&mut self, time: OffsetDateTime, (body, content): Draft) {
        let event = Event { time, body, content, counted_seq: None, command: self.command };
        self.state.apply(&event);
        self.events.push(event);
    }

    /// Ends the run.
    pub fn end(&mut self, mut ended: RunEnded, answer: Option<mar_proto::session::Answer>) {
        ended.totals = Some(self.state.totals(self.now));
        let content = mar_proto::session::EventContent { answer, ..Default::default() };
        self.emit(self.now, (Body::RunEnded(ended), content));
        self.effects.retain(|effect| *effect == Effect::Stop);
        self.effects.push(Effect::Seal);
    }

    fn absorb(&mut self, input: &Input, at: OffsetDateTime) {
        match input {
            Input::Begin => self.synthesise(),
            Input::Claimed { epoch, owner, unattended_since } => self.claim((*epoch, owner), *unattended_since, at),
            Input::Synthesised(agent) => {
                if self.awaits_agent() && !self.state.is_to_recall() {
                    self.seal_agent(agent, at);
                }
            }
            Input::Recalled(recalled) => self.recalled(recalled, at),
            Input::SynthesisDelayed { dependency } => {
                if self.awaits_agent() && self.state.phase == Phase::Pending(None) {
                    self.emit(at, waiting_for(dependency));
                }
            }
            Input::SynthesisFailed { reason, message } => {
                if self.awaits_agent() {
                    let denied = reason == "POLICY_DENIED";
                    let state = if denied { RunState::Denied } else { RunState::Failed };
                    self.end(failed(state, reason, message), None);
                }
            }
            Input::Turn(turn) => self.turn(turn, at),
            Input::GenerationFailed { step, attempt, reason, retry, usage, message, models, attempts } => {
                if self.is_open(*step, *attempt) {
                    self.fail_generation((reason, message), (models, attempts), *retry, *usage, at);
                }
            }
            Input::Returned(back) => self.call_returned(back, at),
            Input::Probed(probed) => self.probed(probed, at),
            Input::ApprovalWanted(wanted) => self.ask(wanted, at),
            Input::HandedOver { call_id, attempt, reason, decision_json, policy_hashes } => {
                self.hand_over((call_id, *attempt), *reason, (decision_json, policy_hashes), at);
            }
            Input::Commanded { id, command } => self.take(*id, command, at),
            Input::ChildRefused { run } => self.child_refused(*run, at),
            Input::Cancel { reason, principal } => self.cancel(reason, principal, at),
            Input::Granted(granted) => self.granted(granted, at),
            Input::Exhausted { scope, number, again_at } => self.exhausted(*scope, *number, *again_at, at),
            Input::CommitDelayed(delay) => self.commit_delayed(*delay, at),
            Input::SliceDelayed { dependency } => self.slice_delayed(dependency, at),
            Input::Draining | Input::Timer => {}
        }
    }

    /// Each moment that was lost is told of once.
    fn commit_delayed(&mut self, delay: Delay, at: OffsetDateTime) {
        let since = self.state.lost_until.map_or(delay.since, |until| until.max(delay.since));
        let delay = Delay { since, until: delay.until.min(at), ..delay };
        if delay.since < delay.until {
            self.emit(at, commit_delayed(delay));
        }
    }

    pub(super) fn seal_agent(&mut self, agent: &Agent, at: OffsetDateTime) {
        let sealed = agent.descriptor.clone().unwrap_or_default();
        let body = AgentSealed {
            section_hashes: super::answer::section_hashes(&sealed.canonical),
            descriptor_hash: sealed.hash,
        };
        let content = mar_proto::session::EventContent { agent: Some(agent.clone()), ..Default::default() };
        self.emit(at, (Body::AgentSealed(body), content));
        // A fork may have begun with a turn.
        self.turn_down(at);
    }

    pub(super) fn awaits_agent(&self) -> bool {
        matches!(self.state.phase, Phase::Pending(_)) && self.state.agent.is_none() && self.state.stop.is_none()
    }

    /// Has an agent synthesised, when the run has its first slices.
    pub(super) fn synthesise(&mut self) {
        if self.draining || !self.awaits_agent() || self.state.renews_at.is_some() {
            return;
        }
        let first = if self.state.is_to_recall() { Effect::Recall } else { Effect::Synthesise };
        let effect = self.state.lack(0).map_or(first, Effect::Refill);
        self.effects.push(effect);
    }

    fn is_open(&self, step: i64, attempt: i64) -> bool {
        self.state.generation.as_ref().is_some_and(|open| open.step == step && open.attempt == attempt)
    }

    /// What the predecessor had in flight is lost with it.
    fn claim(&mut self, (epoch, owner): (i64, &str), unattended_since: Option<OffsetDateTime>, at: OffsetDateTime) {
        if epoch <= self.state.epoch {
            return;
        }
        let since = self.state.unattended_until(at, unattended_since).map(crate::log::stamp);
        let claimed = RunClaimed { owner: owner.to_owned(), epoch, unattended_since: since };
        self.emit(at, bare(Body::RunClaimed(claimed)));
        self.synthesise();
        if self.state.generation.is_some() {
            self.fail_generation((LOST, ""), (&[], &[]), Retry::Bounded, None, at);
        }
        let doubted: Vec<(Call, i64)> = self.doubted_calls();
        for (call, attempt) in self.open_calls() {
            self.doubt(&call, attempt, None, at);
        }
        for (call, attempt) in doubted {
            self.ask_again(call.call_id, attempt);
        }
        self.see_to_children();
    }

    fn open_calls(&self) -> Vec<(Call, i64)> {
        let open = self.state.calls.iter().filter_map(|call| match call.state {
            CallState::Open { attempt } => Some((call.clone(), attempt)),
            _ => None,
        });
        open.collect()
    }

    fn settle(&mut self, usage: &Usage) {
        if let Some(generation) = &self.state.generation {
            let reserved = Amounts { steps: 0, ..generation.reservation };
            self.settle = self.settle + (Amounts::of_usage(usage) - reserved);
        }
    }

    fn turn(&mut self, turn: &FinishedTurn, at: OffsetDateTime) {
        if !self.is_open(turn.step, turn.attempt) {
            return;
        }
        let aim = self.state.generation.as_ref().map(|open| open.aim).unwrap_or_default();
        if aim != Aim::Turn {
            return self.summary(turn, aim, at);
        }
        self.settle(&turn.usage);
        let draft = turn_committed(&self.state, turn);
        self.emit(at, draft);
        self.turn_down(at);
    }

    fn fail_generation(
        &mut self,
        (reason, message): (&str, &str),
        (models, attempts): (&[String], &[String]),
        retry: Retry,
        usage: Option<Usage>,
        at: OffsetDateTime,
    ) {
        let Some(generation) = self.state.generation.clone() else { return };
        let usage = usage.unwrap_or_else(|| generation.reservation.to_usage(true));
        self.settle(&usage);
        let reached = self.state.reached_with(models);
        let too_long = reason == CONTEXT_EXCEEDED;
        let again = match retry {
            // What can be shortened is sent again.
            _ if too_long => self.state.narrowed().upcoming().shortens(),
            Retry::Never => false,
            Retry::Bounded => reached + 1 < MAX_ATTEMPTS,
            Retry::WhenBack => true,
        };
        let retried = again && self.state.stop.is_none();
        self.emit(at, generation_failed(&generation, reason, (models, attempts), usage, retried));
        // Without a summary of what came before it the run goes on.
        let needed = !matches!(generation.aim, Aim::History { .. });
        if !retried && self.state.stop.is_none() && needed {
            if too_long {
                return self.halt(HaltReason::ContextWindow);
            }
            let mut text = format!("step {} got no turn from any model", generation.step);
            if generation.aim != Aim::Turn {
                text = format!("step {} got no summary of the steps before it", generation.step);
            }
            if !message.is_empty() {
                text.push_str(": ");
                text.extend(message.chars().take(MAX_MESSAGE));
            }
            self.end(failed(RunState::Failed, reason, &text), None);
        }
    }

    fn call_returned(&mut self, back: &CallReturn, at: OffsetDateTime) {
        let call = self.state.calls.iter().find(|call| call.call_id == back.call_id).cloned();
        let Some(call) = call else { return };
        if call.state != (CallState::Open { attempt: back.attempt }) {
            return;
        }
        let doubtful = back.outcome == ToolOutcome::Unknown && !back.recorded;
        if doubtful && self.draining {
            // The next owner finds it open.
        } else if doubtful {
            self.doubt(&call, back.attempt, Some(back), at);
        } else {
            let draft = tool_returned(&call, back);
            self.emit(at, draft);
        }
    }

    pub(super) fn cancel(&mut self, reason: &str, principal: &str, at: OffsetDateTime) {
        if self.state.stop.is_none() {
            self.stop(stop_requested(RunState::Cancelled, HaltReason::Unspecified, reason, principal), at);
        }
    }

    pub(super) fn stop(&mut self, draft: Draft, at: OffsetDateTime) {
        self.emit(at, draft);
        self.effects.clear();
        self.effects.push(Effect::Stop);
        self.see_to_children();
    }

    /// Limits of time bind whatever else happens.
    fn check_time(&mut self) {
        if self.state.stop.is_some() {
            return;
        }
        let reason = if self.now >= self.state.expires_at {
            match self.state.phase {
                Phase::Waiting(WaitReason::Dependency) => HaltReason::CountersUnavailable,
                _ => HaltReason::Expired,
            }
        } else if self.state.active_deadline().is_some_and(|deadline| self.now >= deadline) {
            HaltReason::ActiveTime
        } else {
            return;
        };
        self.stop(stop_requested(RunState::Halted, reason, "", ""), self.now);
    }

    /// Ends a run that is to stop, when nothing is in flight or the grace is over.
    pub(super) fn finish_stop(&mut self) {
        let Some(stop) = self.state.stop.clone() else { return };
        if self.state.in_flight() {
            if self.now < stop.at + CANCEL_GRACE {
                return;
            }
            if self.state.generation.is_some() {
                self.fail_generation((CANCELLED, ""), (&[], &[]), Retry::Never, None, self.now);
            }
            for (call, attempt) in self.open_calls().into_iter().chain(self.doubted_calls()) {
                self.doubt(&call, attempt, None, self.now);
            }
        }
        if self.state.has_open_children() {
            if self.now < self.state.children_due(&stop) {
                return;
            }
            self.give_children_up();
        }
        self.drop_held();
        self.end(ended_by(&stop), None);
    }
}
