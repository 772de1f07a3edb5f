//! Failed generations, doubtful calls, lost replicas, counters that are away, synthesis that fails.

use mar_proto::session::event_leaf::Body;
use mar_proto::session::{RunState, ToolOutcome, WaitReason};
use mar_proto::types::HaltingPolicy;
use mar_proto::types::Usage;
use time::Duration;

use super::driver::Mishap;
use super::fixture::*;
use super::scenarios::Story;
use crate::counters::{Amounts, Answer, Verdict};
use crate::run::{
    Counted, Decision, Effect, Input, MAX_ATTEMPTS, MAX_CALL_ATTEMPTS, Phase, Retry, Timed, charge, decide,
};

const NOTHING: Vec<String> = Vec::new();

fn failed(attempt: i64, retry: Retry) -> Input {
    let reason = if retry == Retry::WhenBack { "PEER_UNAVAILABLE" } else { "PROVIDER_FAILED" };
    Input::GenerationFailed {
        step: 1,
        attempt,
        reason: reason.to_owned(),
        retry,
        usage: Some(Usage::default()),
        message: "the key is gone".to_owned(),
        models: vec!["models/one".to_owned()],
        attempts: vec!["models/one: UNAVAILABLE (one cannot be connected to)".to_owned()],
    }
}

fn claimed(epoch: i64) -> Input {
    Input::Claimed { epoch, owner: format!("replica-{epoch}"), unattended_since: None }
}

#[test]
fn a_failed_generation_is_tried_again_after_a_pause() {
    let mut story = Story::running(roomy(), Form::Prose);
    assert_eq!(story.tell(vec![failed(1, Retry::Bounded)]), ["Failed(1.1 PROVIDER_FAILED)"]);
    assert_eq!(story.driver.state.wake_at(), Some(START + story.at + Duration::milliseconds(250)));
    assert_eq!(story.tell_now(vec![Input::Timer]), NOTHING);
    story.at += Duration::milliseconds(250);
    assert_eq!(story.tell_now(vec![Input::Timer]), ["Started(1.2)"]);
    assert_eq!(story.driver.state.used.steps, 1, "another try is no other step");
    story.tell(vec![failed(2, Retry::Bounded)]);
    assert_eq!(story.driver.state.wake_at(), Some(START + story.at + Duration::milliseconds(500)));
    assert_eq!(story.tell(vec![Input::Timer]), ["Started(1.3)"]);
    let words = story.tell(vec![failed(MAX_ATTEMPTS, Retry::Bounded)]);
    assert_eq!(words, ["Failed(1.3 PROVIDER_FAILED)", "Ended(FAILED PROVIDER_FAILED)"]);
}

#[test]
fn a_turn_that_comes_as_the_service_stops_counts_and_nothing_begins() {
    let mut story = Story::running(roomy(), Form::Prose);
    let turn = turn(1, 1, vec![ask(SEARCH, "one"), ask(SEND, "two")]);
    let words = story.tell(vec![turn, Input::Draining]);
    assert_eq!(words, ["Turn(1.1)"], "no intent that nobody follows");
    let words = story.tell(vec![claimed(2)]);
    assert_eq!(words.iter().filter(|word| word.starts_with("Intent(")).count(), 2, "{words:?}");
    assert!(!words.iter().any(|word| word.contains("UNKNOWN")), "nobody doubts: {words:?}");
}

#[test]
fn tries_that_find_other_models_dead_do_not_count() {
    let mut story = Story::running(roomy(), Form::Prose);
    let failed_by = |attempt: i64, names: &[&str]| {
        let Input::GenerationFailed { step, reason, retry, usage, message, attempts, .. } =
            failed(attempt, Retry::Bounded)
        else {
            unreachable!()
        };
        let models = names.iter().map(|name| format!("models/{name}")).collect();
        Input::GenerationFailed { step, attempt, reason, retry, usage, message, models, attempts }
    };
    for (attempt, names) in [(1, &["a"][..]), (2, &["b", "a"]), (3, &["c"]), (4, &["d"]), (5, &["a"])] {
        assert_eq!(story.tell(vec![failed_by(attempt, names)]), [format!("Failed(1.{attempt} PROVIDER_FAILED)")]);
        story.at += Duration::seconds(if attempt == 5 { 10 } else { 0 });
        assert_eq!(story.tell(vec![Input::Timer]), [format!("Started(1.{})", attempt + 1)]);
    }
    assert_eq!(story.driver.state.failed_models, ["models/a", "models/b", "models/c", "models/d"]);
    let words = story.tell(vec![failed_by(6, &["b"])]);
    assert_eq!(words, ["Failed(1.6 PROVIDER_FAILED)", "Ended(FAILED PROVIDER_FAILED)"], "all of them twice");
}

#[test]
fn a_generation_in_flight_has_no_alarm_but_the_limits_of_time() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![failed(1, Retry::Bounded)]);
    story.tell(vec![Input::Timer]);
    let due = story.driver.state.active_deadline();
    assert_eq!(story.driver.state.wake_at(), due, "the pause before the try is over");
}

#[test]
fn a_request_that_will_fail_again_is_not_repeated() {
    let mut story = Story::running(roomy(), Form::Prose);
    let words = story.tell(vec![failed(1, Retry::Never)]);
    assert_eq!(words, ["Failed(1.1 PROVIDER_FAILED)", "Ended(FAILED PROVIDER_FAILED)"]);
    assert_eq!(story.phase(), Phase::Ended(RunState::Failed));
    let Some(crate::run::Ending::Failed(failure)) = &story.driver.state.ending else { panic!("it ended otherwise") };
    assert_eq!(failure.message, "step 1 got no turn from any model: the key is gone");
}

#[test]
fn what_was_tried_is_in_the_log_and_bounded() {
    let mut story = Story::running(roomy(), Form::Prose);
    let Input::GenerationFailed { step, attempt, reason, retry, usage, message, models, .. } =
        failed(1, Retry::Bounded)
    else {
        unreachable!()
    };
    let attempts = (0..40).map(|at| format!("models/{at}: UNAVAILABLE ({})", "ü".repeat(400))).collect();
    story.tell(vec![Input::GenerationFailed { step, attempt, reason, retry, usage, message, models, attempts }]);
    let told = story.driver.events.iter().rev().find_map(|event| match &event.body {
        Body::GenerationFailed(failed) => Some(failed.failed_attempts.clone()),
        _ => None,
    });
    let told = told.unwrap();
    assert_eq!(told.len(), 32);
    assert!(told[3].starts_with("models/3: UNAVAILABLE (ü") && told.iter().all(|one| one.len() <= 512));
}

#[test]
fn tries_that_reach_nobody_do_not_count() {
    let mut story = Story::running(roomy(), Form::Prose);
    for attempt in 1..=6 {
        story.tell(vec![failed(attempt, Retry::WhenBack)]);
        story.at += Duration::seconds(8);
        story.tell_now(vec![Input::Timer]);
    }
    let words = story.tell(vec![failed(7, Retry::Bounded)]);
    assert_eq!(words, ["Failed(1.7 PROVIDER_FAILED)"], "the first that reached a provider");
    assert!(!story.driver.state.ended());
}

#[test]
fn a_lost_generation_settles_in_full_and_starts_again_at_once() {
    let mut story = Story::running(roomy(), Form::Prose);
    let first = story.driver.state.reserved;
    let words = story.tell(vec![claimed(2)]);
    assert_eq!(words, ["Claimed(2)", "Failed(1.1 LOST)", "Started(1.2)"]);
    assert_eq!(story.driver.state.usage.input_tokens, first.input_tokens);
    assert!(story.driver.state.usage.estimated);
    assert_eq!(story.tell(vec![turn(1, 1, vec![text("late")])]), NOTHING, "its turn comes too late");
    story.tell(vec![claimed(3)]);
    let words = story.tell(vec![claimed(4)]);
    assert_eq!(
        words,
        ["Claimed(4)", "Failed(1.3 LOST)", "Ended(FAILED LOST)"],
        "what kills replicas is not fed to more"
    );
}

#[test]
fn an_old_claim_changes_nothing() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![claimed(2)]);
    assert_eq!(story.tell(vec![claimed(2)]), NOTHING);
    assert_eq!(story.tell(vec![claimed(1)]), NOTHING);
}

#[test]
fn after_a_takeover_calls_are_repeated_only_where_declared_harmless() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEND, "p0"), ask(SEARCH, "p1")])]);
    let words = story.tell(vec![claimed(2)]);
    assert_eq!(words, ["Claimed(2)", "Returned(1/0 UNKNOWN)", "Intent(1/1.2)"]);
    assert_eq!(story.effects, [Effect::Invoke { call_id: call_id(1, 1), attempt: 2 }]);
    assert_eq!(story.driver.state.used.tool_calls, 2, "a repetition costs nothing more");
    assert_eq!(story.tell(vec![returned(&call_id(1, 1), 1, ToolOutcome::Ok, "")]), NOTHING, "the first try is over");
    let words = story.tell(vec![returned(&call_id(1, 1), 2, ToolOutcome::Ok, "")]);
    assert_eq!(words, ["Returned(1/1 OK)", "Started(2.1)"]);
}

#[test]
fn a_doubtful_call_is_repeated_so_often_and_then_told_to_be_unknown() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    let doubt = |attempt| returned(&call_id(1, 0), attempt, ToolOutcome::Unknown, "");
    for attempt in 1..MAX_CALL_ATTEMPTS {
        assert_eq!(story.tell(vec![doubt(attempt)]), [format!("Intent(1/0.{})", attempt + 1)]);
    }
    assert_eq!(story.tell(vec![doubt(MAX_CALL_ATTEMPTS)]), ["Returned(1/0 UNKNOWN)", "Started(2.1)"]);
}

#[test]
fn a_call_that_is_only_decided_on_is_decided_on_again() {
    let asked = || {
        let mut story = Story::running(roomy(), Form::Prose);
        story.tell(vec![turn(1, 1, vec![ask(PICK, "p0")])]);
        story
    };
    let mut story = asked();
    assert_eq!(story.tell(vec![claimed(2)]), ["Claimed(2)", "Intent(1/0.2)"]);
    assert_eq!(story.effects, [Effect::Invoke { call_id: call_id(1, 0), attempt: 2 }]);
    let doubt = |attempt| returned(&call_id(1, 0), attempt, ToolOutcome::Unknown, "");
    assert_eq!(story.tell(vec![doubt(2)]), ["Intent(1/0.3)"]);
    assert_eq!(story.tell(vec![doubt(3)]), ["Returned(1/0 NOT_SENT)", "Started(2.1)"]);
    // Once handed over it may have been made, and nobody repeats it.
    let mut story = asked();
    story.tell(vec![handed(&call_id(1, 0), 1, WaitReason::ToolResult)]);
    assert_eq!(story.tell(vec![claimed(2)]), ["Claimed(2)"]);
    let cancel = Input::Cancel { reason: "CANCELLED_BY_CALLER", principal: "user:ada".to_owned() };
    let words = story.tell(vec![cancel]);
    assert_eq!(words, ["Stop", "Returned(1/0 UNKNOWN)", "Ended(CANCELLED CANCELLED_BY_CALLER)"]);
}

#[test]
fn errors_and_denials_are_for_the_model_to_read() {
    for outcome in [ToolOutcome::Error, ToolOutcome::Denied] {
        let mut story = Story::running(roomy(), Form::Prose);
        story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
        let words = story.tell(vec![returned(&call_id(1, 0), 1, outcome, "")]);
        assert_eq!(words[1], "Started(2.1)");
    }
}

#[test]
fn synthesis_that_fails_or_is_denied_ends_the_run() {
    for (reason, ended) in [("NO_MODEL", "Ended(FAILED NO_MODEL)"), ("POLICY_DENIED", "Ended(DENIED POLICY_DENIED)")] {
        let mut story = Story::admitted(roomy());
        story.tell(vec![Input::Begin]);
        let refused = Input::SynthesisFailed { reason: reason.to_owned(), message: "no".to_owned() };
        assert_eq!(story.tell(vec![refused]), [ended]);
        assert_eq!(story.effects, [Effect::Seal]);
    }
}

#[test]
fn synthesis_that_waits_keeps_the_run_pending() {
    let mut story = Story::admitted(roomy());
    story.tell(vec![Input::Begin]);
    let delayed = || Input::SynthesisDelayed { dependency: "agent-generator".to_owned() };
    assert_eq!(story.tell(vec![delayed()]), ["Waiting"]);
    assert_eq!(story.phase(), Phase::Pending(Some(WaitReason::Dependency)));
    assert_eq!(story.tell(vec![delayed()]), NOTHING, "said once");
    assert_eq!(story.tell(vec![claimed(2)]), ["Claimed(2)"]);
    assert_eq!(story.effects, [Effect::Synthesise]);
    let words = story.tell(vec![Input::Synthesised(Box::new(agent(Form::Prose)))]);
    assert_eq!(words, ["Sealed", "Started(1.1)"]);
    assert_eq!(story.driver.state.active, Duration::ZERO, "waiting for an agent is no activity");
}

#[test]
fn without_counters_a_run_settles_and_waits() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.driver.counters_up = false;
    assert_eq!(story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]), ["Turn(1.1)", "Waiting"]);
    assert_eq!(story.effects, []);
    assert_eq!(story.phase(), Phase::Waiting(WaitReason::Dependency));
    assert_eq!(story.tell(vec![Input::Timer]), NOTHING);
    story.driver.counters_up = true;
    let words = story.tell(vec![Input::Timer]);
    assert_eq!(words, ["Rebuilt(1)", "Resumed", "Intent(1/0.1)"], "they have not seen the turn's settlement");
}

#[test]
fn an_answer_needs_no_counters() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.driver.counters_up = false;
    assert_eq!(story.tell(vec![turn(1, 1, vec![text("42")])]), ["Turn(1.1)", "Ended(SUCCEEDED)"]);
}

#[test]
fn counters_that_stay_away_halt_the_run_when_it_expires() {
    let mut story = Story::admitted(HaltingPolicy { max_active_time: Some(seconds(5)), ..roomy() });
    story.driver.counters_up = false;
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::Synthesised(Box::new(agent(Form::Prose)))]);
    assert_eq!(story.at_second(599), NOTHING);
    assert_eq!(story.at_second(600), ["Stop", "Ended(HALTED COUNTERS_UNAVAILABLE)"]);
}

#[test]
fn lost_and_stale_counters_are_rebuilt_before_the_next_intent() {
    for (lost, found) in [(None, -1), (Some(1), 1)] {
        let mut story = Story::running(roomy(), Form::Prose);
        story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
        story.driver.lose_counters(lost);
        let words = story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
        assert_eq!(words, ["Returned(1/0 OK)".to_owned(), format!("Rebuilt({found})"), "Started(2.1)".to_owned()]);
    }
}

#[test]
fn a_takeover_does_not_get_the_answer_to_its_predecessors_question() {
    let mut story = Story::running(roomy(), Form::Prose);
    let turn = Timed { at: START + Duration::seconds(3), input: turn(1, 1, vec![ask(SEARCH, "p0")]) };
    assert!(story.driver.transition(&[turn], Mishap::Crash).is_none(), "the counters have settled a turn that is lost");
    let words = story.tell(vec![claimed(2)]);
    assert_eq!(words, ["Claimed(2)", "Failed(1.1 LOST)", "Rebuilt(3)", "Started(1.2)"]);
}

/// Somebody was answered further on than the log goes: its store has lost the end of it.
#[test]
fn a_log_that_has_lost_its_end_is_not_gone_on_with() {
    let state = Story::running(roomy(), Form::Prose).driver.state;
    let inputs = [Timed { at: START + Duration::seconds(3), input: claimed(2) }];
    let decided = |found| {
        let answer = Answer {
            verdict: Verdict::Granted,
            used: state.used,
            rebuilt: Some(found),
            drawn: Amounts::default(),
            opened: None,
        };
        decide(&state, &inputs, charge(&state, &inputs), Counted::Answer(answer))
    };
    let words = |decision: &Decision| decision.events.iter().map(word).collect::<Vec<_>>();
    assert_eq!(words(&decided(3)), ["Claimed(2)", "Failed(1.1 LOST)", "Rebuilt(3)", "Started(1.2)"]);
    let lost = decided(4);
    assert_eq!(
        words(&lost),
        ["Claimed(2)", "Failed(1.1 LOST)", "Rebuilt(4)", "Stop", "Ended(CANCELLED LOG_TAIL_LOST)"]
    );
    assert_eq!(lost.effects, [Effect::Stop, Effect::Seal]);
    // What the counters took for what does not begin is not the log's.
    assert!(lost.events.iter().all(|event| event.counted_seq.is_none()));
}

#[test]
fn counters_that_fall_back_to_a_predecessors_lost_change_are_overwritten() {
    let mut story = Story::running(roomy(), Form::Prose);
    let lost = Timed { at: START + Duration::seconds(3), input: turn(1, 1, vec![ask(SEARCH, "p0")]) };
    assert!(story.driver.transition(&[lost], Mishap::Crash).is_none());
    story.tell(vec![claimed(2)]);
    story.driver.lose_counters(Some(1));
    let words = story.tell(vec![turn(1, 2, vec![ask(SEARCH, "p0")])]);
    assert_eq!(words, ["Turn(1.2)", "Intent(1/0.1)"], "the driver compares counters and log");
}
