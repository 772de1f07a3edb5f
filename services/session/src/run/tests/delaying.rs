//! A store that was away: what the log tells of it, and the time that is given back.

use mar_proto::session::{RunState, ToolOutcome, WaitReason};
use mar_proto::types::{HaltReason, HaltingPolicy};
use time::Duration;

use super::fixture::*;
use super::scenarios::Story;
use crate::run::{Delay, Ending, Input, Phase};

const NOTHING: Vec<String> = Vec::new();

/// A run whose first generation is in flight since second 2, with ten seconds to be active.
fn hurried() -> Story {
    Story::running(HaltingPolicy { max_active_time: Some(seconds(10)), ..roomy() }, Form::Prose)
}

fn delayed(since: i64, until: i64) -> Input {
    let at = |second| START + Duration::seconds(second);
    Input::CommitDelayed(Delay { since: at(since), until: at(until), failures: 4 })
}

#[test]
fn a_run_outlives_an_outage_that_is_longer_than_its_active_time() {
    let mut story = hurried();
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    story.at = Duration::seconds(303);
    assert_eq!(story.tell_now(vec![delayed(3, 303)]), ["Delayed"]);
    assert_eq!(story.phase(), Phase::Running);
    assert_eq!(story.driver.state.active_time(START + story.at), Duration::seconds(1));
    assert_eq!(story.driver.state.wake_at(), Some(START + Duration::seconds(312)), "nine seconds are left");
    assert_eq!(story.at_second(311), NOTHING);
    story.tell_now(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    story.tell_now(vec![turn(2, 1, vec![text("42")])]);
    assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
    story.driver.replayed();
}

#[test]
fn what_was_active_before_and_after_an_outage_counts() {
    let mut story = hurried();
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    story.at = Duration::seconds(303);
    story.tell_now(vec![delayed(3, 303)]);
    assert_eq!(story.at_second(312), ["Stop"]);
    story.at_second(314);
    assert_eq!(story.driver.state.ending, Some(Ending::Halted(HaltReason::ActiveTime)));
    assert_eq!(story.driver.state.active, Duration::seconds(12), "the grace is active time");
}

#[test]
fn an_outage_does_not_move_the_expiry() {
    let mut story = hurried();
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    story.at = Duration::seconds(600);
    let words = story.tell_now(vec![delayed(3, 600)]);
    assert_eq!(words, ["Delayed", "Stop"], "the log tells why before it ends");
    story.at_second(602);
    assert_eq!(story.driver.state.ending, Some(Ending::Halted(HaltReason::Expired)));
}

#[test]
fn time_is_given_back_once() {
    let mut story = hurried();
    story.at = Duration::seconds(50);
    assert_eq!(story.tell_now(vec![delayed(2, 50)]), ["Delayed"]);
    assert_eq!(story.tell(vec![delayed(2, 50)]), NOTHING, "told already");
    assert_eq!(story.tell_now(vec![delayed(2, 20)]), NOTHING);
    assert_eq!(story.tell_now(vec![delayed(40, 51)]), ["Delayed"], "one second of it is new");
    assert_eq!(story.driver.state.active_time(START + Duration::seconds(51)), Duration::ZERO);
}

#[test]
fn nobody_gives_back_the_future() {
    let mut story = hurried();
    story.at = Duration::seconds(5);
    story.tell_now(vec![delayed(4, 1_000)]);
    assert_eq!(story.driver.state.active_time(START + Duration::seconds(5)), Duration::seconds(2));
    assert_eq!(story.tell_now(vec![delayed(9, 7)]), NOTHING, "a clock that went back");
}

#[test]
fn a_run_that_waits_has_nothing_to_be_given_back() {
    let mut story = hurried();
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    story.driver.counters_up = false;
    story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    assert_eq!(story.phase(), Phase::Waiting(WaitReason::Dependency));
    story.at = Duration::seconds(100);
    assert_eq!(story.tell_now(vec![delayed(4, 100)]), ["Delayed"], "the log tells of both");
    assert_eq!(story.phase(), Phase::Waiting(WaitReason::Dependency));
    assert_eq!(story.driver.state.active, Duration::seconds(2));
    story.driver.counters_up = true;
    assert_eq!(story.at_second(101), ["Resumed", "Started(2.1)"]);
    assert_eq!(story.driver.state.active_deadline(), Some(START + Duration::seconds(109)));
}

#[test]
fn an_outage_that_spans_the_seal_of_the_agent_gives_back_what_the_run_was_running_for() {
    let mut story = Story::admitted(HaltingPolicy { max_active_time: Some(seconds(10)), ..roomy() });
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::SynthesisDelayed { dependency: "agent-generator".to_owned() }]);
    // The agent came while the commit that says so waited, and is taken when it is durable.
    story.at = Duration::seconds(80);
    let words = story.tell_now(vec![delayed(2, 80), Input::Synthesised(Box::new(agent(Form::Prose)))]);
    assert_eq!(words, ["Delayed", "Sealed", "Started(1.1)"]);
    assert_eq!(story.driver.state.active_deadline(), Some(START + Duration::seconds(90)));
}

#[test]
fn what_comes_while_a_commit_waits_is_taken_after_it() {
    use crate::run::{Timed, charge, decide};
    let story = hurried();
    let at = |second| START + Duration::seconds(second);
    let failed = Input::GenerationFailed {
        step: 1,
        attempt: 1,
        reason: "INVALID_REQUEST".to_owned(),
        retry: crate::run::Retry::Never,
        usage: Some(mar_proto::types::Usage::default()),
        message: String::new(),
        models: Vec::new(),
        attempts: Vec::new(),
    };
    let inputs = [Timed { at: at(60), input: delayed(3, 60) }, Timed { at: at(30), input: failed }];
    let charged = charge(&story.driver.state, &inputs);
    let decision = decide(&story.driver.state, &inputs, charged, crate::run::Counted::Nothing);
    let words: Vec<_> = decision.events.iter().map(word).collect();
    assert_eq!(words, ["Delayed", "Failed(1.1 INVALID_REQUEST)", "Ended(FAILED INVALID_REQUEST)"]);
    assert!(decision.events.iter().all(|event| event.time == at(60)));
    let mar_proto::session::event_leaf::Body::RunEnded(ended) = &decision.events[2].body else { panic!("no end") };
    assert_eq!(ended.totals.as_ref().unwrap().active_time_ms, 1_000, "running since second 2, still since second 3");
}

fn claimed(epoch: i64, unattended_since: Option<i64>) -> Input {
    let unattended_since = unattended_since.map(|second| START + Duration::seconds(second));
    Input::Claimed { epoch, owner: format!("replica-{epoch}"), unattended_since }
}

#[test]
fn time_in_which_nobody_executed_the_run_is_not_active() {
    let mut story = hurried();
    story.at = Duration::seconds(100);
    // Its owner was heard of last at second 5.
    let words = story.tell_now(vec![claimed(2, Some(5))]);
    assert_eq!(words, ["Claimed(2)", "Failed(1.1 LOST)", "Started(1.2)"]);
    assert_eq!(story.driver.state.active_time(START + story.at), Duration::seconds(3));
    story.at = Duration::seconds(200);
    let words = story.tell_now(vec![claimed(3, None)]);
    assert_eq!(words, ["Claimed(3)", "Failed(1.2 LOST)", "Started(1.3)"], "not halted");
    assert_eq!(story.driver.state.active_time(START + story.at), Duration::seconds(3), "nobody knows of any more");
    assert_eq!(story.driver.state.active_deadline(), Some(START + Duration::seconds(207)));

    // Who knows of a longer time than there was since the last event is not believed.
    let mut story = hurried();
    story.at = Duration::seconds(8);
    story.tell_now(vec![Input::Timer, claimed(2, Some(-1_000_000))]);
    assert_eq!(story.driver.state.active_time(START + story.at), Duration::ZERO, "all since second 2, and no more");
}

#[test]
fn a_run_that_waited_when_its_owner_died_has_nothing_to_be_given_back() {
    let mut story = hurried();
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    story.driver.counters_up = false;
    story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    story.at = Duration::seconds(50);
    assert_eq!(story.tell_now(vec![claimed(2, Some(5))]), ["Claimed(2)"]);
    let mar_proto::session::event_leaf::Body::RunClaimed(claim) = &story.driver.events.last().unwrap().body else {
        panic!("no claim")
    };
    assert_eq!(claim.unattended_since, None);
    assert_eq!(story.driver.state.active, Duration::seconds(2));
}
