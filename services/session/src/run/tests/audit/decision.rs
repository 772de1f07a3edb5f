//! A decision before its commit: effects against intents, and both against the counters.

use mar_proto::session::event_leaf::Body;
use mar_proto::session::{GenerationFailed, SummaryCommitted, ToolOutcome, TurnCommitted, WaitReason};

use super::{Audit, shared_counts, spent};
use crate::counters::{Amounts, Verdict};
use crate::run::{CallState, Charge, Counted, Decision, Effect, Event, Generation, Input, Phase, State, Timed};

/// What the events of one decision count, and which effects they ask for.
#[derive(Debug, Default)]
struct Told {
    /// Reserved for what begins.
    begun: Amounts,
    settled: Amounts,
    /// Generations and calls that are issued.
    issued: Vec<Effect>,
    /// Calls that child runs are started for.
    delegated: Vec<Effect>,
}

impl Told {
    fn of(events: &[Event], mut open: Option<Generation>) -> Self {
        let mut told = Self::default();
        for event in events {
            told.read(event, &mut open);
        }
        told
    }

    fn read(&mut self, event: &Event, open: &mut Option<Generation>) {
        match &event.body {
            Body::GenerationStarted(started) => {
                self.begun = self.begun + Amounts::of_reservation(started.reservation.as_ref().unwrap());
                self.issued.push(Effect::Generate { step: started.step, attempt: started.attempt });
            }
            Body::ToolIntent(intent) => {
                // Another attempt of a call is counted with its first.
                self.begun.tool_calls += i64::from(intent.attempt == 1);
                self.issued.push(Effect::Invoke { call_id: intent.call_id.clone(), attempt: intent.attempt });
            }
            Body::TurnCommitted(TurnCommitted { usage, .. })
            | Body::SummaryCommitted(SummaryCommitted { usage, .. })
            | Body::GenerationFailed(GenerationFailed { usage, .. }) => {
                let reservation = open.take().expect("only an open generation closes").reservation;
                let reserved = Amounts { steps: 0, ..reservation };
                self.settled = self.settled + (spent(&usage.unwrap()) - reserved);
            }
            Body::DelegationIntent(intent) => {
                self.begun = self.begun + Amounts::of_reservation(intent.reserved.as_ref().unwrap());
                self.delegated.push(Effect::Delegate { call_id: intent.call_id.clone() });
            }
            Body::EventShared(shared) => self.settled = self.settled + shared_counts(shared),
            _ => {}
        }
    }
}

impl Audit {
    /// A decision before its commit.
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
        let told = Told::of(events, before.generation.clone());
        self.counts_as_told(&told, before, charge, counted, events);
        self.probes(before, inputs, decision);
        let issued: Vec<Effect> = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Generate { .. } | Effect::Invoke { .. }))
            .cloned()
            .collect();
        if events.iter().any(stops) {
            assert!(issued.is_empty(), "effects beside a stop: {effects:?}");
        } else {
            assert_eq!(issued, told.issued, "effects are the intents of the same commit");
        }
        self.children_are_seen_to(before, events, effects, &told.delegated);
        self.closed_inputs_change_nothing(before, inputs, charge, decision);
        self.takeover(before, inputs, decision);
    }

    /// The counters were charged what the events say.
    fn counts_as_told(&self, told: &Told, before: &State, charge: Charge, counted: Counted, events: &[Event]) {
        let settled = told.settled + self.children_settle(events);
        assert_eq!(settled, charge.settle, "the counters settle what the events settle");
        let granted = matches!(counted, Counted::Answer(answer) if answer.verdict == Verdict::Granted);
        let expected = if granted { charge.reserve } else { Amounts::default() };
        assert_eq!(told.begun, expected, "what is begun is what was granted: {events:?}");
        let seq = matches!(counted, Counted::Answer(_)).then_some(before.next_seq);
        assert!(events.iter().all(|event| event.counted_seq == seq));
        if !charge.is_zero() {
            assert!(!events.is_empty() || !matches!(counted, Counted::Answer(_)), "counted for nothing");
        }
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
        let due = CallState::Handed { reason: WaitReason::ChildRun };
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
            let stops = decision.events.iter().any(stops);
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
}

/// Whether the event stops or ends its run.
fn stops(event: &Event) -> bool {
    matches!(event.body, Body::StopRequested(_) | Body::RunEnded(_))
}

/// Whether what the input is about is closed already.
fn closed(state: &State, input: &Input) -> bool {
    let generation = |step: i64, attempt: i64| {
        state.generation.as_ref().is_some_and(|open| (open.step, open.attempt) == (step, attempt))
    };
    let awaits_agent = matches!(state.phase, Phase::Pending(_)) && state.agent.is_none() && state.stop.is_none();
    let open_call = |call_id: &str, attempt: i64| {
        let open = CallState::Open { attempt };
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
                let doubted = CallState::Doubted { attempt: probed.attempt };
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
