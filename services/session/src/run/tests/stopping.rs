//! Cancel, expiry and active time.

use mar_proto::session::{RunState, ToolOutcome};
use mar_proto::types::HaltReason;
use mar_proto::types::HaltingPolicy;
use time::Duration;

use super::fixture::*;
use super::scenarios::Story;
use crate::run::{CANCEL_GRACE, Effect, Ending, Input, Phase};

fn cancel() -> Input {
    Input::Cancel { reason: "CANCELLED_BY_CALLER", principal: "user:eve".to_owned() }
}

#[test]
fn a_cancelled_run_waits_a_grace_for_what_is_in_flight() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEND, "p0"), ask(SEARCH, "p1")])]);
    assert_eq!(story.tell(vec![cancel()]), ["Stop"]);
    assert_eq!(story.effects, [Effect::Stop]);
    assert_eq!(story.driver.state.wake_at(), Some(START + story.at + CANCEL_GRACE));
    let words = story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    assert_eq!(words, ["Returned(1/0 OK)"], "a result within the grace is recorded");
    let words = story.tell(vec![Input::Timer]);
    assert_eq!(words, ["Returned(1/1 UNKNOWN)", "Ended(CANCELLED CANCELLED_BY_CALLER)"]);
    assert_eq!(story.effects, [Effect::Seal]);
}

#[test]
fn the_last_result_within_the_grace_ends_the_run() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![cancel()]);
    assert_eq!(story.tell(vec![cancel()]), Vec::<String>::new(), "cancelling again changes nothing");
    let words = story.tell_now(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    assert_eq!(words, ["Turn(1.1)", "Ended(CANCELLED CANCELLED_BY_CALLER)"]);
    assert_eq!(story.driver.state.used.tool_calls, 0, "no new effect starts after a stop");
}

#[test]
fn a_generation_that_outlives_the_grace_settles_in_full() {
    let mut story = Story::running(roomy(), Form::Prose);
    let reserved = story.driver.state.reserved;
    story.tell(vec![cancel()]);
    story.at += CANCEL_GRACE;
    let words = story.tell_now(vec![Input::Timer]);
    assert_eq!(words, ["Failed(1.1 CANCELLED)", "Ended(CANCELLED CANCELLED_BY_CALLER)"]);
    assert_eq!(story.driver.state.used, reserved);
    assert!(story.driver.state.reserved.is_zero());
}

#[test]
fn a_run_is_cancelled_at_once_where_nothing_is_in_flight() {
    let mut pending = Story::admitted(roomy());
    pending.tell(vec![Input::Begin]);
    let words = pending.tell(vec![cancel()]);
    assert_eq!(words, ["Stop", "Ended(CANCELLED CANCELLED_BY_CALLER)"]);
    assert_eq!(pending.effects, [Effect::Stop, Effect::Seal]);
    let late = pending.tell(vec![Input::Synthesised(Box::new(agent(Form::Prose)))]);
    assert_eq!(late, Vec::<String>::new());
}

#[test]
fn an_answer_beside_a_cancel_comes_too_late_where_the_cancel_was_first() {
    let answer = || turn(1, 1, vec![text("42")]);
    for inputs in [vec![cancel(), answer()], vec![answer(), cancel()]] {
        let mut story = Story::running(roomy(), Form::Prose);
        story.tell(inputs);
        assert_eq!(story.phase(), Phase::Ended(RunState::Cancelled), "one commit: the stop is durable with the turn");
    }
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![answer()]);
    assert_eq!(story.tell(vec![cancel()]), Vec::<String>::new());
    assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
}

#[test]
fn a_stop_keeps_back_the_second_try_beside_it() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    let unknown = returned(&call_id(1, 0), 1, ToolOutcome::Unknown, "");
    story.tell(vec![unknown, cancel()]);
    assert_eq!(story.effects, [Effect::Stop]);
}

#[test]
fn a_run_expires_whatever_it_does() {
    let limits = || HaltingPolicy { max_active_time: Some(seconds(1_000)), ..roomy() };
    let mut running = Story::running(limits(), Form::Prose);
    assert_eq!(running.at_second(599), Vec::<String>::new());
    assert_eq!(running.at_second(600), ["Stop"]);
    assert_eq!(running.at_second(602), ["Failed(1.1 CANCELLED)", "Ended(HALTED EXPIRED)"]);
    let mut pending = Story::admitted(limits());
    pending.tell(vec![Input::Begin]);
    assert_eq!(pending.at_second(600), ["Stop", "Ended(HALTED EXPIRED)"]);
    assert_eq!(pending.phase(), Phase::Ended(RunState::Halted));
}

#[test]
fn active_time_halts_and_stands_still_while_waiting() {
    let mut story = Story::running(HaltingPolicy { max_active_time: Some(seconds(10)), ..roomy() }, Form::Prose);
    assert_eq!(story.at, Duration::seconds(2));
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    story.driver.counters_up = false;
    let words = story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    assert_eq!(words, ["Returned(1/0 OK)", "Waiting"]);
    assert_eq!(story.driver.state.active, Duration::seconds(2));
    assert_eq!(story.at_second(300), Vec::<String>::new());
    story.driver.counters_up = true;
    assert_eq!(story.at_second(301), ["Resumed", "Started(2.1)"]);
    assert_eq!(story.driver.state.wake_at(), Some(START + Duration::seconds(309)));
    assert_eq!(story.at_second(308), Vec::<String>::new());
    assert_eq!(story.at_second(309), ["Stop"]);
    story.at_second(311);
    assert_eq!(story.driver.state.ending, Some(Ending::Halted(HaltReason::ActiveTime)));
}

#[test]
fn an_agent_that_goes_round_in_circles_is_halted() {
    let mut story = Story::running(roomy(), Form::Prose);
    let mut words = Vec::new();
    for step in 1..=3 {
        // Twice in a turn is once: it has not seen the result yet.
        story.tell(vec![turn(step, 1, vec![ask(SEARCH, "same"), ask(SEARCH, "same")])]);
        let back = |index| returned(&call_id(step, index), 1, ToolOutcome::Ok, "a#1");
        words = story.tell(vec![back(0), back(1)]);
    }
    assert_eq!(words, ["Returned(3/0 OK)", "Returned(3/1 OK)", "Ended(HALTED LOOP_DETECTED)"]);
    assert_eq!(story.driver.state.ending, Some(Ending::Halted(HaltReason::LoopDetected)));

    // Something else in between, or another result, is no circle.
    let mut story = Story::running(roomy(), Form::Prose);
    for step in 1..=6 {
        let asked = if step % 2 == 0 { "same" } else { "other" };
        story.tell(vec![turn(step, 1, vec![ask(SEARCH, asked)])]);
        story.tell(vec![returned(&call_id(step, 0), 1, ToolOutcome::Ok, "a#1")]);
    }
    assert_eq!(story.phase(), Phase::Running);
}
