//! What people hold up: approvals, calls of the caller, pauses.

use mar_proto::session::{RunState, ToolOutcome, WaitReason};
use time::Duration;

use super::fixture::*;
use super::scenarios::Story;
use crate::run::{Command, Effect, Phase};

/// A run whose only call waits for two people.
fn asking() -> Story {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEND, "p0")])]);
    let words = story.tell(vec![wanted(&call_id(1, 0), 1)]);
    assert_eq!(words, ["Asked(1-0)", "Waiting"]);
    assert_eq!(story.phase(), Phase::Waiting(WaitReason::Approval));
    assert!(story.driver.state.is_parked() && story.effects.is_empty());
    story
}

fn told(story: &Story) -> String {
    format!("{:?}", story.driver.state.transcript.last().unwrap())
}

#[test]
fn enough_people_let_a_call_happen_once() {
    let mut story = asking();
    assert_eq!(story.tell(vec![resolve(1, "1-0", "bob", true)]), ["Decided(1-0 PENDING)"]);
    assert!(story.driver.state.is_parked());
    // The same person, the same command, whoever wants the call, another digest: none of them counts.
    let other = Command::Resolve(crate::run::Resolution {
        approval: "1-0".to_owned(),
        digest: "sha256:other".to_owned(),
        approved: true,
        principal: "user:cid".to_owned(),
        comment: String::new(),
    });
    for again in [resolve(2, "1-0", "bob", true), resolve(1, "1-0", "bob", true), resolve(3, "1-0", "ada", true)] {
        assert!(story.tell(vec![again]).is_empty());
    }
    assert!(story.tell(vec![command(4, other)]).is_empty());
    let words = story.tell(vec![resolve(5, "1-0", "cid", true)]);
    assert_eq!(words, ["Decided(1-0 APPROVED)", "Resumed", "Intent(1/0.2)"]);
    assert_eq!(story.effects, [Effect::Invoke { call_id: call_id(1, 0), attempt: 2 }]);
    assert_eq!(story.driver.state.used.tool_calls, 1, "a call is counted once");
    assert!(story.tell(vec![resolve(6, "1-0", "dan", false)]).is_empty(), "it is over");
    let words = story.tell(vec![returned(&call_id(1, 0), 2, ToolOutcome::Ok, "")]);
    assert_eq!(words, ["Returned(1/0 OK)", "Started(2.1)"]);
}

#[test]
fn one_no_is_enough_and_the_model_reads_why() {
    let mut story = asking();
    story.tell(vec![resolve(1, "1-0", "bob", true)]);
    let words = story.tell(vec![resolve(2, "1-0", "cid", false)]);
    assert_eq!(words, ["Decided(1-0 DENIED)", "Returned(1/0 DENIED)", "Resumed", "Started(2.1)"]);
    story.driver.audit.state(&story.driver.state);
    assert!(told(&story).contains("APPROVAL_DENIED") && told(&story).contains("as agreed"));
}

#[test]
fn nobody_in_time_is_a_no() {
    let mut story = asking();
    let lapses = story.driver.state.wake_at().unwrap();
    let words = story.at_second((lapses - START).whole_seconds());
    assert_eq!(words, ["Decided(1-0 EXPIRED)", "Returned(1/0 DENIED)", "Resumed", "Started(2.1)"]);
    assert!(told(&story).contains("APPROVAL_EXPIRED"));
    assert!(story.tell(vec![resolve(1, "1-0", "bob", true)]).is_empty());
}

#[test]
fn an_approval_that_does_not_cover_the_call_is_not_asked_for_again() {
    let mut story = asking();
    story.tell(vec![resolve(1, "1-0", "bob", true), resolve(2, "1-0", "cid", true)]);
    let words = story.tell(vec![wanted(&call_id(1, 0), 2)]);
    assert_eq!(words, ["Returned(1/0 DENIED)", "Started(2.1)"]);
}

#[test]
fn calls_beside_one_that_is_held_come_back_first() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEND, "p0"), ask(SEARCH, "p1"), ask(SEND, "p2")])]);
    assert_eq!(story.tell(vec![wanted(&call_id(1, 0), 1)]), ["Asked(1-0)"]);
    assert_eq!(story.phase(), Phase::Running, "something is in flight");
    let words = story.tell(vec![resolve(1, "1-0", "bob", true), resolve(2, "1-0", "cid", true)]);
    assert_eq!(words, ["Decided(1-0 PENDING)", "Decided(1-0 APPROVED)", "Intent(1/0.2)"]);
    story.tell(vec![handed(&call_id(1, 2), 1, WaitReason::ToolResult)]);
    story.tell(vec![returned(&call_id(1, 1), 1, ToolOutcome::Ok, "")]);
    let words = story.tell(vec![returned(&call_id(1, 0), 2, ToolOutcome::Ok, "")]);
    assert_eq!(words, ["Returned(1/0 OK)", "Waiting"]);
    assert_eq!(story.phase(), Phase::Waiting(WaitReason::ToolResult));
    let words = story.tell(vec![command(3, result_of_caller(&call_id(1, 2)))]);
    assert_eq!(words, ["Returned(1/2 OK)", "Resumed", "Started(2.1)"]);
    assert!(story.driver.state.tainted, "what a caller brings is not trusted");
}

#[test]
fn the_caller_is_asked_and_answers() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEND, "p0")])]);
    assert_eq!(story.tell(vec![handed(&call_id(1, 0), 1, WaitReason::Input)]), ["Handed(1/0)", "Waiting"]);
    assert!(story.tell(vec![command(1, result_of_caller(&call_id(1, 0)))]).is_empty(), "it waits for input");
    let words = story.tell(vec![command(2, reply(&call_id(1, 0), "the red one"))]);
    assert_eq!(words, ["Returned(1/0 OK)", "Resumed", "Started(2.1)"]);
    assert!(told(&story).contains("the red one"));
}

#[test]
fn a_pause_holds_what_is_next_and_lets_come_back_what_is_out() {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEND, "p0")])]);
    let pause = |id| command(id, Command::Pause { principal: "user:eve".to_owned() });
    assert_eq!(story.tell(vec![pause(1)]), ["PauseRequested"]);
    assert!(story.tell(vec![pause(2)]).is_empty(), "paused is paused");
    let words = story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    assert_eq!(words, ["Returned(1/0 OK)", "Waiting"]);
    assert_eq!(story.phase(), Phase::Waiting(WaitReason::Paused));
    let active = story.driver.state.active_time(START + Duration::seconds(500));
    assert_eq!(story.driver.state.active, active, "the time stands still");
    assert_eq!(story.tell(vec![command(3, Command::Resume)]), ["Resumed", "Started(2.1)"]);
    assert!(story.tell(vec![command(4, Command::Resume)]).is_empty());

    // One that is withdrawn before anything came back is no pause.
    story.tell(vec![pause(5)]);
    assert_eq!(story.tell(vec![command(6, Command::Resume)]), ["Resumed"]);
    assert_eq!(story.tell(vec![turn(2, 1, vec![text("done")])]), ["Turn(2.1)", "Ended(SUCCEEDED)"]);
}

#[test]
fn a_run_can_be_paused_before_it_has_an_agent_and_while_it_waits_for_people() {
    let mut story = Story::admitted(roomy());
    story.tell(vec![crate::run::Input::Begin]);
    let pause = |id| command(id, Command::Pause { principal: "user:eve".to_owned() });
    assert_eq!(story.tell(vec![pause(1)]), ["PauseRequested"]);
    let sealed = crate::run::Input::Synthesised(Box::new(agent(Form::Prose)));
    assert_eq!(story.tell(vec![sealed]), ["Sealed", "Waiting"]);

    let mut story = asking();
    assert_eq!(story.tell(vec![pause(1)]), ["PauseRequested"]);
    let words = story.tell(vec![resolve(2, "1-0", "bob", true), resolve(3, "1-0", "cid", true)]);
    assert_eq!(words, ["Decided(1-0 PENDING)", "Decided(1-0 APPROVED)", "Waiting"]);
    assert_eq!(story.phase(), Phase::Waiting(WaitReason::Paused));
    assert_eq!(story.tell(vec![command(4, Command::Resume)]), ["Resumed", "Intent(1/0.2)"]);
}

#[test]
fn what_is_held_is_closed_when_the_run_stops() {
    let mut story = asking();
    let cancel = Command::Cancel { reason: "CANCELLED_BY_CALLER".to_owned(), principal: "user:eve".to_owned() };
    let words = story.tell(vec![command(1, cancel)]);
    assert_eq!(words, ["Stop", "Returned(1/0 NOT_SENT)", "Ended(CANCELLED CANCELLED_BY_CALLER)"]);

    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEND, "p0")])]);
    story.tell(vec![handed(&call_id(1, 0), 1, WaitReason::ToolResult)]);
    let expires = story.driver.state.expires_at;
    let words = story.at_second((expires - START).whole_seconds());
    assert_eq!(words, ["Stop", "Returned(1/0 UNKNOWN)", "Ended(HALTED EXPIRED)"], "the caller may have made it");
    assert_eq!(story.phase(), Phase::Ended(RunState::Halted));
}
