//! What must hold of any run, kept by a reader of events who does not trust the machine's own state.

use std::collections::{BTreeMap, BTreeSet};

use mar_proto::session::{
    EventShared, FinishReason, RunState, ToolOutcome, WaitReason, event_leaf::Body, event_shared,
};
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::{HaltReason, Message, Usage, part::Content};
use time::{Duration, OffsetDateTime};

use crate::counters::{Amounts, Verdict};
use crate::run::{
    Charge, Counted, Decision, Effect, Event, Input, MAX_ATTEMPTS, MAX_CALL_ATTEMPTS, Phase, State, Timed,
};

/// An open or closed call, as its events tell.
#[derive(Debug, Default)]
pub struct CallRecord {
    pub keys: BTreeSet<String>,
    pub attempts: i64,
    /// Harmless to repeat: declared so, or only decided on.
    pub idempotent: bool,
    pub returned: bool,
    /// A human or the caller has it.
    pub held: bool,
    /// It may be issued once more: people agreed, or its probe said that it had not happened.
    pub allowed: bool,
    /// Its probe, or a human, is asked whether it took effect.
    pub in_doubt: bool,
    /// What its probe said of the last try.
    pub probed: Option<ProbeAnswer>,
    /// Its last intent was neither answered nor handed to anybody.
    pub in_flight: bool,
    /// Handed to the runtime, which starts child runs for it.
    pub to_delegate: bool,
}

/// A reader of a run's events.
#[derive(Debug, Default)]
pub struct Audit {
    pub limits: Amounts,
    pub used: Amounts,
    pub reserved: Amounts,
    pub overshoot: Amounts,
    pub generation: Option<(i64, i64, Amounts)>,
    pub calls: BTreeMap<String, CallRecord>,
    /// Calls of the turn in hand that have no result yet.
    pub owed: BTreeSet<String>,
    pub turns: BTreeSet<i64>,
    /// Why the model stopped in the last of them.
    pub finish: FinishReason,
    pub last_step: i64,
    pub last_attempt: i64,
    pub reached: BTreeMap<i64, (i64, BTreeSet<String>)>,
    pub rejections: i64,
    /// Of those that a fork begins with.
    pub shared_rejections: i64,
    /// Whether a fork with an agent of its own begins with a turn that asks for tools.
    pub asked: bool,
    /// What the run, a fork, was forked from.
    pub origin: Option<super::audit_fork::OriginRecord>,
    pub repairs: i64,
    /// Whether the generation in flight repairs an answer.
    pub repairing: bool,
    pub passages: BTreeSet<String>,
    /// The words that came with each of them.
    pub words: BTreeMap<String, String>,
    pub running_since: Option<OffsetDateTime>,
    pub active: Duration,
    /// What was lost of the time since `running_since`.
    pub lost: Duration,
    /// Until when the log has told of lost time.
    pub lost_until: Option<OffsetDateTime>,
    /// When the last event was decided.
    pub latest: Option<OffsetDateTime>,
    /// Where the run was in its life after the last event.
    pub phase: Option<Phase>,
    pub sealed: bool,
    pub waiting: bool,
    pub waits_for: Option<WaitReason>,
    /// What it waited for last, and since when.
    pub waited: Option<(WaitReason, OffsetDateTime)>,
    pub stopped: bool,
    pub ended: bool,
    pub seals: usize,
    pub paused: bool,
    pub approvals: BTreeMap<String, super::audit_held::Asked>,
    /// Child runs by call.
    pub delegated: BTreeMap<String, super::audit_children::Family>,
    /// Commands of earlier commits.
    pub commands: BTreeSet<uuid::Uuid>,
    /// What is left out of prompts.
    pub shortened: super::audit_summary::Shortened,
    /// What is seen of earlier runs.
    pub seen: super::audit_history::Seen,
    /// Slices of each budget, and what they grant.
    pub purses: BTreeMap<i32, (usize, i64)>,
}

/// What an event counts that a fork begins with.
fn shared_counts(shared: &EventShared) -> Amounts {
    let (mut steps, mut tool_calls) = (0, 0);
    match &shared.body {
        Some(event_shared::Body::Turn(_) | event_shared::Body::Summary(_)) => steps = 1,
        Some(event_shared::Body::Result(_)) => tool_calls = i64::from(shared.counted),
        _ => {}
    }
    Amounts { steps, tool_calls, ..Amounts::default() }
}

pub fn spent(usage: &Usage) -> Amounts {
    Amounts {
        input_tokens: usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens,
        output_tokens: usage.output_tokens + usage.reasoning_tokens,
        cost_nano_usd: usage.cost_nano_usd,
        ..Amounts::default()
    }
}

impl Audit {
    pub fn new(state: &State) -> Self {
        let purses = state.budgets.iter().map(|purse| (purse.scope.into(), (0, 0))).collect();
        let seen = super::audit_history::Seen::new(&state.history);
        Self { seen, limits: state.limit_amounts(), purses, ..Self::default() }
    }

    /// A decision before its commit: effects against intents, and both against the counters.
    pub fn decision(
        &mut self,
        before: &State,
        inputs: &[Timed],
        charge: Charge,
        counted: Counted,
        decision: &Decision,
    ) {
        let Decision { events, effects } = decision;
        self.stops(before, decision);
        self.commands_count_once(events);
        let (mut begun, mut repeated, mut settled) = (Amounts::default(), Amounts::default(), Amounts::default());
        let (mut wanted, mut started) = (Vec::new(), Vec::new());
        let mut open = before.generation.clone();
        for event in events {
            match &event.body {
                Body::GenerationStarted(started) => {
                    let reservation = started.reservation.as_ref().map(Amounts::of_reservation).unwrap();
                    begun = begun + reservation;
                    wanted.push(Effect::Generate { step: started.step, attempt: started.attempt });
                }
                Body::ToolIntent(intent) => {
                    let count = if intent.attempt == 1 { &mut begun } else { &mut repeated };
                    count.tool_calls += 1;
                    wanted.push(Effect::Invoke { call_id: intent.call_id.clone(), attempt: intent.attempt });
                }
                Body::TurnCommitted(mar_proto::session::TurnCommitted { usage, .. })
                | Body::SummaryCommitted(mar_proto::session::SummaryCommitted { usage, .. })
                | Body::GenerationFailed(mar_proto::session::GenerationFailed { usage, .. }) => {
                    let reservation = open.take().expect("only an open generation closes").reservation;
                    let reserved = Amounts { steps: 0, ..reservation };
                    settled = settled + (spent(&usage.unwrap()) - reserved);
                }
                Body::DelegationIntent(intent) => {
                    begun = begun + Amounts::of_reservation(intent.reserved.as_ref().unwrap());
                    started.push(Effect::Delegate { call_id: intent.call_id.clone() });
                }
                Body::EventShared(shared) => settled = settled + shared_counts(shared),
                _ => {}
            }
        }
        let settled = settled + self.children_settle(events);
        assert_eq!(settled, charge.settle, "the counters settle what the events settle");
        let granted = matches!(counted, Counted::Answer(answer) if answer.verdict == Verdict::Granted);
        let expected = if granted { charge.reserve } else { Amounts::default() };
        assert_eq!(begun, expected, "what is begun is what was granted: {events:?}");
        let issued: Vec<Effect> = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Generate { .. } | Effect::Invoke { .. }))
            .cloned()
            .collect();
        self.probes(before, inputs, decision);
        if events.iter().any(|event| matches!(event.body, Body::StopRequested(_) | Body::RunEnded(_))) {
            assert!(issued.is_empty(), "effects beside a stop: {effects:?}");
        } else {
            assert_eq!(issued, wanted, "effects are the intents of the same commit");
        }
        self.children_are_seen_to(before, events, effects, &started);
        let seq = matches!(counted, Counted::Answer(_)).then_some(before.next_seq);
        assert!(events.iter().all(|event| event.counted_seq == seq));
        if !charge.is_zero() {
            assert!(!events.is_empty() || !matches!(counted, Counted::Answer(_)), "counted for nothing");
        }
        self.closed_inputs_change_nothing(before, inputs, charge, decision);
        self.takeover(before, inputs, decision);
    }

    fn stops(&mut self, before: &State, decision: &Decision) {
        let harmless = decision
            .effects
            .iter()
            .all(|effect| matches!(effect, Effect::Stop | Effect::Seal | Effect::StopChildren { .. }));
        let ends = decision.events.iter().position(|event| matches!(event.body, Body::RunEnded(_)));
        let seals = decision.effects.iter().filter(|effect| **effect == Effect::Seal).count();
        assert_eq!(seals, usize::from(ends.is_some()), "a seal with the end, once");
        self.seals += seals;
        if let Some(at) = ends {
            assert_eq!(at, decision.events.len() - 1, "the end is last");
        }
        if before.ended() {
            assert!(decision.events.is_empty() && decision.effects.is_empty(), "something after the end");
        }
        if before.stop.is_some() || ends.is_some() {
            assert!(harmless, "effects after a stop: {:?}", decision.effects);
        }
        let requested = decision.events.iter().any(|event| matches!(event.body, Body::StopRequested(_)));
        assert_eq!(decision.effects.contains(&Effect::Stop), requested, "a stop signals what is in flight, once");
    }

    fn closed_inputs_change_nothing(&self, before: &State, inputs: &[Timed], charge: Charge, decision: &Decision) {
        let quiet = inputs
            .iter()
            .all(|timed| closed(before, &timed.input) && before.wake_at().is_none_or(|wake| timed.at < wake));
        // A call that may start its children does so at the next occasion.
        let due = crate::run::CallState::Handed { reason: WaitReason::ChildRun };
        let quiet = quiet && before.calls.iter().all(|call| call.state != due);
        if quiet && !matches!(before.phase, Phase::Waiting(_)) {
            let asks = |effect: &Effect| matches!(effect, Effect::Refill(_));
            let quiet = decision.events.is_empty() && decision.effects.iter().all(asks);
            assert!(quiet, "{inputs:?} changed a thing");
            assert!(charge.is_zero());
        }
    }

    /// After a takeover nothing of the predecessor is left open.
    fn takeover(&self, before: &State, inputs: &[Timed], decision: &Decision) {
        let claims =
            inputs.iter().any(|timed| matches!(timed.input, Input::Claimed { epoch, .. } if epoch > before.epoch));
        if !claims || before.ended() || inputs.len() > 1 {
            return;
        }
        if let Some(generation) = &before.generation {
            let lost = decision.events.iter().find_map(|event| match &event.body {
                Body::GenerationFailed(failed) => Some(failed),
                _ => None,
            });
            let lost = lost.expect("an open generation is lost with its owner");
            assert_eq!((lost.step, lost.attempt), (generation.step, generation.attempt));
            let usage = lost.usage.unwrap();
            assert!(lost.reason == "LOST" && usage.estimated);
            assert_eq!(spent(&usage), Amounts { steps: 0, ..generation.reservation }, "lost is settled in full");
        }
        for call in before.open_calls() {
            let elsewhere = call.is_made_elsewhere() || call.recorded.is_some();
            let repeatable = elsewhere || call.definition.as_ref().is_some_and(|tool| tool.idempotent);
            let doubtful = if elsewhere { ToolOutcome::NotSent } else { ToolOutcome::Unknown };
            let unknown = decision.events.iter().any(|event| {
                matches!(&event.body, Body::ToolReturned(back) if back.call_id == call.call_id
                    && back.outcome() == doubtful)
            });
            let again = decision
                .events
                .iter()
                .any(|event| matches!(&event.body, Body::ToolIntent(intent) if intent.call_id == call.call_id));
            let asked = decision
                .events
                .iter()
                .any(|event| matches!(&event.body, Body::CallDoubted(doubted) if doubted.call_id == call.call_id));
            let ends = |event: &Event| matches!(event.body, Body::StopRequested(_) | Body::RunEnded(_));
            let stops = decision.events.iter().any(ends);
            // Time or a limit may be up in the same moment: then the question is closed as it was asked, and the repetition is
            // not sent.
            let ways = [unknown && !((asked || again) && stops), again, asked].into_iter().filter(|way| *way).count();
            assert_eq!(ways, 1, "a doubtful call is repeated, asked about or told to be unknown");
            assert!(!again || repeatable, "a call that may not be repeated was");
            assert!(!asked || call.doubt().is_some(), "asked about what nobody declared");
            // What was only decided on is not in doubt, whatever is declared of its tool.
            let may_ask = call.doubt().is_some() && !elsewhere && before.stop.is_none();
            assert!(!unknown || asked || again || !may_ask, "told without asking");
        }
    }

    /// A committed event, with the state after it.
    pub fn event(&mut self, event: &Event, state: &State) {
        assert!(!self.ended, "an event after the end");
        match &event.body {
            Body::RunAdmitted(_) => panic!("admitted twice"),
            Body::RunClaimed(claimed) => self.unattended(claimed, event, state),
            Body::CountersRebuilt(_) => {}
            Body::SliceGranted(granted) => {
                assert!(!self.stopped, "a stopped run needs nothing");
                let (slices, cost) = self.purses.get_mut(&granted.scope).expect("a budget that binds");
                assert_eq!(granted.runs, i64::from(*slices == 0), "a run counts once");
                (*slices, *cost) = (*slices + 1, *cost + granted.cost_nano_usd);
            }
            Body::AgentSealed(_) => {
                assert!(self.purses.values().all(|(slices, _)| *slices > 0), "a run that no budget counts");
                assert!(!std::mem::replace(&mut self.sealed, true), "sealed twice");
                self.running_since = Some(event.time);
            }
            Body::GenerationStarted(started) => {
                self.starts(started, state);
                well_formed(&state.transcript);
                self.seen.starts(started, state);
                self.shortened.starts(started, state);
            }
            Body::TurnCommitted(turn) => {
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
            Body::SummaryCommitted(summary) => {
                assert!(self.turns.insert(summary.step), "step {} has two ends", summary.step);
                self.settles(summary.step, summary.attempt, &summary.usage.unwrap());
                self.seen.sums_up(summary, event, state);
                if !summary.history {
                    self.shortened.sums_up(summary, event, state);
                }
            }
            Body::GenerationFailed(failed) => {
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
                    assert!(*reached <= MAX_ATTEMPTS, "too many tries");
                    assert!(!(failed.retried && *reached == MAX_ATTEMPTS));
                }
            }
            Body::ToolIntent(intent) => {
                assert!(!self.stopped && self.sealed && !self.waiting && self.generation.is_none());
                assert!(self.owed.contains(&intent.call_id), "nobody asks for {}", intent.call_id);
                assert_ne!(self.finish, FinishReason::ContentFilter, "a call of a turn that its provider cut");
                self.intends(intent, event, state);
                let call = self.calls.entry(intent.call_id.clone()).or_default();
                assert!(!call.returned, "a returned call was issued again");
                call.attempts += 1;
                let elsewhere = [super::fixture::PICK, super::fixture::DELEGATE].contains(&intent.tool.as_str());
                call.idempotent = intent.idempotent || elsewhere || intent.recorded_seq.is_some();
                call.keys.insert(intent.idempotency_key.clone());
                assert_eq!(intent.attempt, call.attempts);
                assert_eq!(call.keys.len(), 1, "another key for the same call");
                let allowed = std::mem::take(&mut call.allowed);
                let free = call.attempts == 1 || call.idempotent && call.attempts <= MAX_CALL_ATTEMPTS;
                assert!((free || allowed) && !call.held && !call.in_doubt, "{intent:?} of {call:?}");
                call.probed = None;
                // What a takeover finds in flight is repeated: a pause lets it come to its end.
                let repeated = std::mem::replace(&mut call.in_flight, true);
                assert!(!self.paused || repeated, "a call of a paused run");
                self.used.tool_calls += i64::from(intent.attempt == 1);
            }
            Body::ToolReturned(back) => {
                assert!(self.owed.remove(&back.call_id), "a result that nobody is owed");
                self.replays(back, event);
                let call = self.calls.entry(back.call_id.clone()).or_default();
                assert!(!call.in_doubt || back.outcome() == ToolOutcome::Unknown, "{back:?} of a call in doubt");
                let expected: &[ToolOutcome] = match call.probed.filter(|_| !call.held && !call.allowed) {
                    Some(ProbeAnswer::Happened) => &[ToolOutcome::Ok],
                    Some(ProbeAnswer::Unknown) => &[ToolOutcome::Unknown],
                    _ => &[back.outcome()],
                };
                assert!(expected.contains(&back.outcome()), "{back:?} of {call:?}");
                (call.returned, call.held, call.in_flight, call.in_doubt) = (true, false, false, false);
                self.family_returns(back);
                let result = event.content.tool_result.as_ref().unwrap();
                self.receives(result);
            }
            Body::OriginRecalled(recalled) => self.recalls(recalled, event, state),
            Body::EventShared(shared) => {
                self.shares(shared, event, state);
                self.used = self.used + shared_counts(shared);
                self.last_step = state.step;
                let wanted = state.calls.iter().filter(|call| call.state == crate::run::CallState::Wanted);
                self.owed = wanted.map(|call| call.call_id.clone()).collect();
            }
            Body::AnswerRejected(rejected) => {
                self.rejections += 1;
                assert!(rejected.problems > 0 && self.rejections + self.shared_rejections.min(1) <= 2);
            }
            Body::CommitDelayed(delayed) => self.loses(delayed, event, state),
            Body::PauseRequested(_)
            | Body::ApprovalRequested(_)
            | Body::ApprovalDecided(_)
            | Body::CallHandedOver(_) => self.held(event, state),
            Body::DelegationIntent(_) | Body::ChildEnded(_) => self.family(event, state),
            Body::AllotmentRefilled(refilled) => {
                let drawn = Amounts::of_reservation(refilled.drawn.as_ref().unwrap());
                assert!(!drawn.is_zero() && drawn.max(Amounts::default()) == drawn);
                self.limits = self.limits + drawn;
            }
            Body::CallDoubted(_) | Body::CallProbed(_) => self.doubted(event),
            Body::RunWaiting(waiting) => {
                self.parks(waiting.reason());
                assert!(!self.stopped && self.generation.is_none() && state.open_calls().next().is_none());
                self.waiting = self.sealed;
                self.waited = Some((waiting.reason(), event.time));
                self.pause(event.time);
            }
            Body::RunResumed(resumed) => {
                let of_pause = resumed.reason() == WaitReason::Paused;
                assert!(!of_pause || std::mem::take(&mut self.paused), "resumed without a pause");
                match resumed.since.as_ref().and_then(crate::run::timestamp) {
                    Some(since) => assert_eq!(self.waited, Some((resumed.reason(), since))),
                    None => assert!(of_pause, "{resumed:?} has not waited"),
                }
                if self.sealed && (!of_pause || self.waits_for == Some(WaitReason::Paused)) {
                    assert!(std::mem::take(&mut self.waiting), "resumed without waiting");
                    self.waits_for = None;
                    self.running_since = Some(event.time);
                }
            }
            Body::StopRequested(stop) => {
                assert!(!std::mem::replace(&mut self.stopped, true), "stopped twice");
                let waited = stop.halt_reason() == HaltReason::CountersUnavailable;
                assert!(!waited || (self.waiting && event.time >= state.expires_at));
                assert_eq!(stop.outcome() == RunState::Halted, stop.halt_reason != 0);
            }
            Body::RunEnded(ended) => {
                self.ended = true;
                self.pause(event.time);
                self.end(ended, event, state);
            }
        }
        self.phase = Some(state.phase);
        self.latest = Some(event.time);
    }

    fn parks(&mut self, reason: WaitReason) {
        let held = self.calls.values().any(|call| call.held && !call.to_delegate);
        match reason {
            WaitReason::Paused => assert!(self.paused && !held),
            WaitReason::Approval | WaitReason::ToolResult | WaitReason::Input => assert!(held),
            WaitReason::ChildRun => assert!(self.delegated.values().any(super::audit_children::Family::is_open)),
            _ => {}
        }
        self.waits_for = self.sealed.then_some(reason);
    }

    fn pause(&mut self, at: OffsetDateTime) {
        let ran = self.running_since.take().map_or(Duration::ZERO, |since| at - since);
        let lost = std::mem::take(&mut self.lost);
        assert!(lost <= ran.max(Duration::ZERO), "more was lost than there was");
        self.active += ran.max(Duration::ZERO) - lost;
    }

    fn starts(&mut self, started: &mar_proto::session::GenerationStarted, state: &State) {
        assert!(!self.stopped && self.sealed && !self.waiting && !self.paused, "a generation out of turn");
        assert!(self.generation.is_none() && self.owed.is_empty(), "something is open");
        let next = if started.attempt == 1 { self.last_step + 1 } else { self.last_step };
        assert_eq!(started.step, next);
        assert_eq!(started.attempt, if started.attempt == 1 { 1 } else { self.last_attempt + 1 });
        assert!(!self.turns.contains(&started.step), "a step that has its turn is tried again");
        (self.last_step, self.last_attempt) = (started.step, started.attempt);
        self.repairing = started.repair;
        let rejected = self.rejections + self.shared_rejections >= 1 && self.rejections <= 1;
        assert!(!started.repair || rejected);
        let reservation = started.reservation.as_ref().map(Amounts::of_reservation).unwrap();
        assert_eq!(reservation.steps, i64::from(started.attempt == 1));
        let sums_up = started.role == "summarise";
        let output = match () {
            () if started.history => super::fixture::SUMMARY_OUTPUT.min(state.history.summary_tokens),
            () if sums_up => super::fixture::SUMMARY_OUTPUT,
            () => state.max_output_tokens,
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

    fn settles(&mut self, step: i64, attempt: i64, usage: &Usage) {
        let (open_step, open_attempt, reservation) = self.generation.take().expect("nothing to settle");
        assert_eq!((step, attempt), (open_step, open_attempt));
        let difference = spent(usage) - Amounts { steps: 0, ..reservation };
        self.used = self.used + difference;
        self.overshoot = self.overshoot + difference.max(Amounts::default());
        self.reserved = Amounts::default();
    }
}

/// Whether what the input is about is closed already.
fn closed(state: &State, input: &Input) -> bool {
    let generation = |step: i64, attempt: i64| {
        state.generation.as_ref().is_some_and(|open| (open.step, open.attempt) == (step, attempt))
    };
    let awaits_agent = matches!(state.phase, Phase::Pending(_)) && state.agent.is_none() && state.stop.is_none();
    let open_call = |call_id: &str, attempt: i64| {
        let open = crate::run::CallState::Open { attempt };
        state.open_calls().any(|call| call.call_id == call_id && call.state == open)
    };
    state.ended()
        || !match input {
            Input::Recalled(_) => state.is_to_recall() && state.stop.is_none(),
            Input::Begin | Input::Synthesised(_) | Input::SynthesisFailed { .. } => awaits_agent,
            Input::SynthesisDelayed { .. } => awaits_agent && state.phase == Phase::Pending(None),
            Input::Claimed { epoch, .. } => *epoch > state.epoch,
            Input::Turn(turn) => generation(turn.step, turn.attempt),
            Input::GenerationFailed { step, attempt, .. } => generation(*step, *attempt),
            Input::Returned(back) => open_call(&back.call_id, back.attempt),
            Input::Probed(probed) => {
                let doubted = crate::run::CallState::Doubted { attempt: probed.attempt };
                state.doubted_calls().any(|call| call.call_id == probed.call_id && call.state == doubted)
            }
            Input::ApprovalWanted(wanted) => open_call(&wanted.call_id, wanted.attempt),
            Input::HandedOver { call_id, attempt, .. } => open_call(call_id, *attempt),
            // Whether a command fits is not said again here, only that it counts once.
            Input::Commanded { id, .. } => !state.commands.contains(id),
            Input::ChildRefused { run } => {
                state.delegations().any(|(_, delegated)| delegated.open().any(|child| child.run == *run))
            }
            Input::Cancel { .. } => state.stop.is_none(),
            Input::Granted(granted) => {
                let scope = granted.slice.scope();
                state.stop.is_none()
                    && state.budgets.iter().any(|purse| purse.scope == scope && purse.slices == granted.number)
            }
            Input::CommitDelayed(delay) => state.lost_until.is_none_or(|until| until < delay.until),
            Input::Exhausted { .. } | Input::SliceDelayed { .. } => state.stop.is_none(),
            Input::Draining | Input::Timer => false,
        }
}

/// The calls that a turn asks for, in order.
fn calls_of(message: &Message) -> impl Iterator<Item = &str> {
    message.parts.iter().filter_map(|part| match &part.content {
        Some(Content::ToolCall(call)) => Some(call.call_id.as_str()),
        _ => None,
    })
}

/// What any provider accepts: each asked call answered once, in order, right after its turn; no empty messages; the last
/// word not the model's.
pub fn well_formed(transcript: &[std::sync::Arc<Message>]) {
    use mar_proto::types::Role;
    for (at, message) in transcript.iter().enumerate() {
        assert!(!message.parts.is_empty(), "message {at} is empty");
        let asked: Vec<&str> = calls_of(message).collect();
        let given: Vec<&str> = transcript
            .get(at + 1)
            .into_iter()
            .flat_map(|next| &next.parts)
            .filter_map(|part| match &part.content {
                Some(Content::ToolResult(result)) => Some(result.call_id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(asked, given, "calls and results differ after message {at}");
    }
    assert_ne!(transcript.last().unwrap().role(), Role::Assistant, "the model has the last word already");
}
