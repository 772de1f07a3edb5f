//! How runs go when all goes well, and how they halt.

use mar_proto::session::{RunState, ToolOutcome};
use mar_proto::types::{HaltReason, HaltingPolicy};
use time::Duration;

use super::driver::{Driver, Mishap};
use super::fixture::*;
use crate::run::{Effect, Ending, Input, Phase, Timed, ripe};

/// A run whose inputs come one second apart unless said otherwise.
pub struct Story {
    pub driver: Driver,
    pub at: Duration,
    pub effects: Vec<Effect>,
}

impl Story {
    /// An admitted run.
    pub fn admitted(limits: HaltingPolicy) -> Self {
        Self::of(Driver::new(limits))
    }

    pub fn of(driver: Driver) -> Self {
        Self { driver, at: Duration::ZERO, effects: Vec::new() }
    }

    /// A run whose first generation is in flight.
    pub fn running(limits: HaltingPolicy, form: Form) -> Self {
        let mut story = Self::admitted(limits);
        story.tell(vec![Input::Begin]);
        assert_eq!(story.effects, [Effect::Synthesise]);
        story.tell(vec![Input::Synthesised(Box::new(agent(form)))]);
        story
    }

    /// Inputs that one commit takes; the words of its events.
    pub fn tell(&mut self, inputs: Vec<Input>) -> Vec<String> {
        self.at += Duration::seconds(1);
        self.tell_now(inputs)
    }

    /// The same without a second passing.
    pub fn tell_now(&mut self, inputs: Vec<Input>) -> Vec<String> {
        let before = self.driver.events.len();
        let timed: Vec<Timed> = inputs.into_iter().map(|input| Timed { at: START + self.at, input }).collect();
        self.effects = self.driver.transition(&timed, Mishap::None).unwrap();
        assert_eq!(self.driver.folded(), self.driver.state);
        self.driver.events[before..].iter().map(word).collect()
    }

    /// Time passes to this many seconds after admission.
    pub fn at_second(&mut self, second: i64) -> Vec<String> {
        self.at = Duration::seconds(second);
        self.tell_now(vec![Input::Timer])
    }

    pub fn words(&self) -> Vec<String> {
        self.driver.events.iter().map(word).collect()
    }

    pub fn phase(&self) -> Phase {
        self.driver.state.phase
    }
}

fn one_call(tool: &str) -> Vec<mar_proto::types::Part> {
    vec![ask(tool, "p0")]
}

#[test]
fn a_run_with_one_tool() {
    let mut story = Story::running(roomy(), Form::Schema);
    story.tell(vec![turn(1, 1, one_call(SEARCH))]);
    assert_eq!(story.effects, [Effect::Invoke { call_id: call_id(1, 0), attempt: 1 }]);
    story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "a#1")]);
    assert_eq!(story.effects, [Effect::Generate { step: 2, attempt: 1 }]);
    story.tell(vec![turn(2, 1, vec![text(&cited_answer(&["a#1"]))])]);
    assert_eq!(story.effects, [Effect::Seal]);
    let expected = [
        "Admitted",
        "Sealed",
        "Started(1.1)",
        "Turn(1.1)",
        "Intent(1/0.1)",
        "Returned(1/0 OK)",
        "Started(2.1)",
        "Turn(2.1)",
        "Ended(SUCCEEDED)",
    ];
    assert_eq!(story.words(), expected);
    let Some(Ending::Answered(answer)) = &story.driver.state.ending else { panic!("no answer") };
    assert_eq!(answer.citations[0].passage.as_ref().unwrap().passage_id, "a#1");
    assert_eq!(answer.citations[0].passage.as_ref().unwrap().document, "a");
    assert!(answer.parts[0].tainted, "an answer made after a tainted result is tainted");
    let counted: Vec<Option<i64>> = story.driver.events.iter().map(|event| event.counted_seq).collect();
    assert_eq!(counted, [None, Some(1), Some(1), Some(3), Some(3), Some(5), Some(5), Some(7), Some(7)]);
    story.driver.replayed();
}

#[test]
fn a_step_with_one_tool_costs_two_commits_and_two_counter_changes() {
    let mut story = Story::running(roomy(), Form::Prose);
    let before = story.driver.changes.len();
    story.tell(vec![turn(1, 1, one_call(SEND))]);
    story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    assert_eq!(story.effects, [Effect::Generate { step: 2, attempt: 1 }]);
    assert_eq!(story.driver.changes.len() - before, 2);
}

#[test]
fn calls_of_a_turn_go_out_together_and_come_back_in_their_order() {
    let mut story = Story::running(roomy(), Form::Prose);
    let asked = vec![ask(SEARCH, "p0"), ask(SEND, "p1"), ask(SEARCH, "p2")];
    let words = story.tell(vec![turn(1, 1, asked)]);
    assert_eq!(words, ["Turn(1.1)", "Intent(1/0.1)", "Intent(1/1.1)", "Intent(1/2.1)"]);
    assert_eq!(story.effects.len(), 3);
    let back = |index| returned(&call_id(1, index), 1, ToolOutcome::Ok, "");
    assert_eq!(story.tell(vec![back(2)]), ["Returned(1/2 OK)"]);
    assert_eq!(story.tell(vec![back(1)]), ["Returned(1/1 OK)"]);
    assert_eq!(story.tell(vec![back(0)]), ["Returned(1/0 OK)", "Started(2.1)"]);
    assert_eq!(story.driver.state.used.tool_calls, 3);
    super::audit::well_formed(&story.driver.state.transcript);
}

#[test]
fn results_of_idempotent_calls_wait_for_each_other_and_no_other_does() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0"), ask(SEARCH, "p1"), ask(SEND, "p2")])]);
    let back = |index| Timed { at: START + story.at, input: returned(&call_id(1, index), 1, ToolOutcome::Ok, "") };
    let state = &story.driver.state;
    assert!(!ripe(state, &[]));
    assert!(!ripe(state, &[back(0)]));
    assert!(!ripe(state, &[back(0), back(1)]), "the call that may not be repeated is still out");
    assert!(ripe(state, &[back(2)]), "its result is committed at once");
    assert!(ripe(state, &[back(0), back(2)]));
    assert!(ripe(state, &[back(0), Timed { at: START, input: Input::Timer }]));
    story.tell(vec![returned(&call_id(1, 2), 1, ToolOutcome::Ok, "")]);
    let back = |index| Timed { at: START + story.at, input: returned(&call_id(1, index), 1, ToolOutcome::Ok, "") };
    assert!(!ripe(&story.driver.state, &[back(0)]));
    assert!(ripe(&story.driver.state, &[back(0), back(1)]));
}

#[test]
fn a_tool_that_nobody_gave_the_agent_is_answered_without_a_call() {
    let mut story = Story::running(roomy(), Form::Prose);
    let words = story.tell(vec![turn(1, 1, vec![ask("frobnicate", "p0"), ask(SEARCH, "p1")])]);
    assert_eq!(words, ["Turn(1.1)", "Returned(1/0 ERROR)", "Intent(1/1.1)"]);
    assert_eq!(story.driver.state.used.tool_calls, 1, "it costs no tool call");
    let mut alone = Story::running(roomy(), Form::Prose);
    let words = alone.tell(vec![turn(1, 1, one_call("frobnicate"))]);
    assert_eq!(words, ["Turn(1.1)", "Returned(1/0 ERROR)", "Started(2.1)"]);
}

#[test]
fn keys_differ_between_calls_and_stay_over_tries() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "same"), ask(SEARCH, "same")])]);
    let state = &story.driver.state;
    let (first, second) = (state.calls[0].idempotency_key(state.run), state.calls[1].idempotency_key(state.run));
    assert_ne!(first, second);
    story.tell(vec![Input::Claimed { epoch: 2, owner: "b".to_owned(), unattended_since: None }]);
    let state = &story.driver.state;
    assert_eq!(state.calls[0].idempotency_key(state.run), first);
    let mut fork = state.clone();
    fork.run = uuid::Uuid::from_u128(1);
    assert_ne!(fork.calls[0].idempotency_key(fork.run), first);
}

/// A run that asks for one tool call more than fits.
fn two_steps(limits: HaltingPolicy) -> Story {
    let mut story = Story::running(limits, Form::Prose);
    if !story.driver.state.ended() {
        story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0"), ask(SEARCH, "p1")])]);
    }
    if !story.driver.state.ended() {
        let back = |index| returned(&call_id(1, index), 1, ToolOutcome::Ok, "");
        story.tell(vec![back(0), back(1)]);
    }
    story
}

#[test]
fn each_counted_limit_halts_with_its_own_reason() {
    let cases = [
        (HaltingPolicy { max_steps: Some(1), ..roomy() }, HaltReason::MaxSteps, 1, 2),
        (HaltingPolicy { max_tool_calls: Some(1), ..roomy() }, HaltReason::MaxToolCalls, 1, 0),
        (HaltingPolicy { max_tool_calls: Some(0), ..roomy() }, HaltReason::MaxToolCalls, 1, 0),
        (HaltingPolicy { max_input_tokens: Some(100), ..roomy() }, HaltReason::InputTokens, 0, 0),
        (HaltingPolicy { max_output_tokens: Some(MAX_OUTPUT - 1), ..roomy() }, HaltReason::OutputTokens, 0, 0),
        (HaltingPolicy { max_output_tokens: Some(MAX_OUTPUT + 9), ..roomy() }, HaltReason::OutputTokens, 1, 2),
        (HaltingPolicy { max_cost_nano_usd: Some(0), ..roomy() }, HaltReason::Cost, 0, 0),
    ];
    for (limits, reason, steps, calls) in cases {
        let story = two_steps(limits);
        assert_eq!(story.driver.state.ending, Some(Ending::Halted(reason)));
        assert_eq!(story.phase(), Phase::Ended(RunState::Halted));
        assert_eq!((story.driver.state.used.steps, story.driver.state.used.tool_calls), (steps, calls), "{reason:?}");
        assert_eq!(story.effects, [Effect::Seal]);
    }
    assert_eq!(
        two_steps(HaltingPolicy { max_steps: Some(2), max_tool_calls: Some(2), ..roomy() }).phase(),
        Phase::Running
    );
}

#[test]
fn what_a_call_used_beyond_its_reservation_is_reported() {
    let mut story = Story::running(HaltingPolicy { max_output_tokens: Some(MAX_OUTPUT), ..roomy() }, Form::Prose);
    let over = finished(1, 1, one_call(SEARCH), usage(50, MAX_OUTPUT + 7));
    story.tell(vec![Input::Turn(Box::new(over))]);
    assert_eq!(story.driver.state.overshoot.output_tokens, 7);
    assert_eq!(story.phase(), Phase::Running, "a tool call reserves no tokens");
    story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    assert_eq!(story.driver.state.ending, Some(Ending::Halted(HaltReason::OutputTokens)));
}

#[test]
fn the_next_prompt_is_bounded_by_all_that_it_holds() {
    let mut story = Story::running(roomy(), Form::Prose);
    let first = story.driver.state.reserved.input_tokens;
    story.tell(vec![turn(1, 1, one_call(SEARCH))]);
    story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    let second = story.driver.state.reserved.input_tokens;
    assert!(first > 0 && second > first, "turn and result are sent with what was sent before");
    story.tell(vec![turn(2, 1, one_call(SEARCH))]);
    assert_eq!(story.driver.state.used.input_tokens, 100);
}
