//! Calls of which nobody knows whether they took effect.

use mar_proto::session::{ApprovalState, RunState, ToolOutcome, WaitReason, event_leaf::Body};
use mar_proto::tool::ProbeAnswer::{DidNotHappen, Happened, Unknown};

use super::fixture::*;
use super::scenarios::Story;
use crate::run::{Command, Effect, Input, Phase, Resolution};

fn claimed(epoch: i64) -> Input {
    Input::Claimed { epoch, owner: format!("replica-{epoch}"), unattended_since: None }
}

/// A run whose only call was in flight when its replica died.
fn lost(tool: &str) -> (Story, Vec<String>) {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(tool, "p0")])]);
    let words = story.tell(vec![claimed(2)]);
    (story, words)
}

fn told(story: &Story) -> String {
    format!("{:?}", story.driver.state.transcript.last().unwrap())
}

fn probe(attempt: i64) -> Effect {
    Effect::Probe { call_id: call_id(1, 0), attempt }
}

/// What somebody says to the question that is open.
fn say(story: &Story, id: u128, approved: bool) -> Input {
    let open = story.driver.state.approvals.values().find(|one| one.state == ApprovalState::Pending).unwrap();
    assert!(open.in_doubt && open.needed == 1 && open.group == "office");
    let resolution = Resolution {
        approval: open.id.clone(),
        digest: open.digest.clone(),
        approved,
        principal: "user:bob".to_owned(),
        comment: "looked it up".to_owned(),
    };
    command(id, Command::Resolve(resolution))
}

#[test]
fn a_call_that_took_effect_is_closed_with_the_evidence() {
    let (mut story, words) = lost(BOOK);
    assert_eq!(words, ["Claimed(2)", "Doubted(1/0.1)"]);
    assert_eq!(story.effects, [probe(1)]);
    let words = story.tell(vec![probed(&call_id(1, 0), 1, Happened)]);
    assert_eq!(words, ["Probed(1/0 HAPPENED)", "Returned(1/0 OK)", "Started(2.1)"]);
    assert!(told(&story).contains("done before"));
    let evidence = story.driver.events.iter().find(|event| matches!(event.body, Body::CallProbed(_))).unwrap();
    assert!(evidence.content.tool_result.is_some() && !evidence.content.decision_json.is_empty());
    assert_eq!(story.driver.state.used.tool_calls, 1, "a probe is of its call's reservation");
}

#[test]
fn a_call_whose_result_is_withheld_took_effect_all_the_same() {
    let (mut story, _) = lost(BOOK);
    let mut input = probed(&call_id(1, 0), 1, Happened);
    let Input::Probed(told) = &mut input else { unreachable!() };
    told.result.is_error = true;
    assert_eq!(story.tell(vec![input]), ["Probed(1/0 HAPPENED)", "Returned(1/0 ERROR)", "Started(2.1)"]);
}

#[test]
fn a_call_that_did_not_happen_is_issued_again_with_its_key() {
    let (mut story, _) = lost(BOOK);
    let key = story.driver.state.calls[0].idempotency_key(story.driver.state.run);
    let words = story.tell(vec![probed(&call_id(1, 0), 1, DidNotHappen)]);
    assert_eq!(words, ["Probed(1/0 DID_NOT_HAPPEN)", "Intent(1/0.2)"]);
    assert_eq!(story.effects, [Effect::Invoke { call_id: call_id(1, 0), attempt: 2 }]);
    assert_eq!(story.driver.state.calls[0].idempotency_key(story.driver.state.run), key);
    assert_eq!(story.driver.state.used.tool_calls, 1);
    assert!(story.tell(vec![probed(&call_id(1, 0), 1, Happened)]).is_empty(), "it is asked no more");
    assert!(story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]).is_empty(), "a try that was given up");
    let words = story.tell(vec![returned(&call_id(1, 0), 2, ToolOutcome::Ok, "")]);
    assert_eq!(words, ["Returned(1/0 OK)", "Started(2.1)"]);
}

#[test]
fn what_never_happens_is_given_up_and_the_model_reads_that_it_did_not() {
    let (mut story, _) = lost(BOOK);
    for attempt in 1..3 {
        story.tell(vec![probed(&call_id(1, 0), attempt, DidNotHappen)]);
        let words = story.tell(vec![returned(&call_id(1, 0), attempt + 1, ToolOutcome::Unknown, "")]);
        assert_eq!(words, [format!("Doubted(1/0.{})", attempt + 1)], "a live answer brings doubt as a death does");
    }
    let words = story.tell(vec![probed(&call_id(1, 0), 3, DidNotHappen)]);
    assert_eq!(words, ["Probed(1/0 DID_NOT_HAPPEN)", "Returned(1/0 ERROR)", "Started(2.1)"]);
    assert!(told(&story).contains("did not take effect"));
}

#[test]
fn what_nobody_knows_is_told_where_nobody_is_to_be_asked() {
    let (mut story, _) = lost(BOOK);
    let words = story.tell(vec![probed(&call_id(1, 0), 1, Unknown)]);
    assert_eq!(words, ["Probed(1/0 UNKNOWN)", "Returned(1/0 UNKNOWN)", "Started(2.1)"]);
    assert!(told(&story).contains("OUTCOME_UNKNOWN"));
}

#[test]
fn a_human_lets_a_doubtful_call_be_issued_again() {
    let (mut story, _) = lost(PAY);
    let words = story.tell(vec![probed(&call_id(1, 0), 1, Unknown)]);
    assert_eq!(words, ["Probed(1/0 UNKNOWN)", "Asked(1-0-1)", "Waiting"]);
    assert!(story.driver.state.is_parked() && story.phase() == Phase::Waiting(WaitReason::Approval));
    let other = resolve(1, "1-0-1", "bob", true);
    assert!(story.tell(vec![other]).is_empty(), "another digest");
    let words = story.tell(vec![say(&story, 2, true)]);
    assert_eq!(words, ["Decided(1-0-1 APPROVED)", "Resumed", "Intent(1/0.2)"]);
    // The policies may still want their own approval of the call.
    let words = story.tell(vec![wanted(&call_id(1, 0), 2)]);
    assert_eq!(words, ["Asked(1-0)", "Waiting"]);
    story.tell(vec![resolve(3, "1-0", "bob", true), resolve(4, "1-0", "cid", true)]);
    // And the next attempt may be as doubtful as the first.
    let words = story.tell(vec![claimed(3)]);
    assert_eq!(words, ["Claimed(3)", "Doubted(1/0.3)"]);
    let words = story.tell(vec![probed(&call_id(1, 0), 3, Unknown)]);
    assert_eq!(words, ["Probed(1/0 UNKNOWN)", "Asked(1-0-3)", "Waiting"]);
    let words = story.tell(vec![say(&story, 5, true)]);
    assert_eq!(words, ["Decided(1-0-3 APPROVED)", "Resumed", "Intent(1/0.4)"]);
    let words = story.tell(vec![returned(&call_id(1, 0), 4, ToolOutcome::Ok, "")]);
    assert_eq!(words, ["Returned(1/0 OK)", "Started(2.1)"]);
    assert_eq!(story.driver.state.used.tool_calls, 1);
}

#[test]
fn a_human_who_refuses_leaves_the_outcome_unknown() {
    let (mut story, words) = lost(WIRE);
    assert_eq!(words, ["Claimed(2)", "Doubted(1/0.1)", "Asked(1-0-1)", "Waiting"], "there is nothing to probe");
    assert!(story.effects.is_empty());
    let words = story.tell(vec![say(&story, 1, false)]);
    assert_eq!(words, ["Decided(1-0-1 DENIED)", "Returned(1/0 UNKNOWN)", "Resumed", "Started(2.1)"]);
    assert!(told(&story).contains("OUTCOME_UNKNOWN") && told(&story).contains("looked it up"));
}

#[test]
fn a_doubt_that_nobody_decides_stays_unknown() {
    let (mut story, _) = lost(WIRE);
    let lapses = story.driver.state.wake_at().unwrap();
    let words = story.at_second((lapses - START).whole_seconds());
    assert_eq!(words, ["Decided(1-0-1 EXPIRED)", "Returned(1/0 UNKNOWN)", "Resumed", "Started(2.1)"]);
}

#[test]
fn who_takes_over_asks_the_probe_again() {
    let (mut story, _) = lost(BOOK);
    assert_eq!(story.tell(vec![claimed(3)]), ["Claimed(3)"]);
    assert_eq!(story.effects, [probe(1)]);
    let words = story.tell(vec![probed(&call_id(1, 0), 1, Happened)]);
    assert_eq!(words, ["Probed(1/0 HAPPENED)", "Returned(1/0 OK)", "Started(2.1)"]);
}

#[test]
fn what_a_probe_says_as_the_service_stops_begins_nothing() {
    for answer in [DidNotHappen, Unknown] {
        let (mut story, _) = lost(PAY);
        assert!(story.tell(vec![probed(&call_id(1, 0), 1, answer), Input::Draining]).is_empty());
        assert_eq!(story.tell(vec![claimed(3)]), ["Claimed(3)"]);
        assert_eq!(story.effects, [probe(1)], "the next owner asks again");
    }
    let (mut story, _) = lost(PAY);
    let words = story.tell(vec![probed(&call_id(1, 0), 1, Happened), Input::Draining]);
    assert_eq!(words, ["Probed(1/0 HAPPENED)", "Returned(1/0 OK)"]);
}

#[test]
fn a_stop_asks_nobody_and_hears_what_was_asked() {
    let cancel = || Input::Cancel { reason: "CANCELLED_BY_CALLER", principal: "user:ada".to_owned() };
    for (answer, outcome) in [(Happened, "OK"), (DidNotHappen, "NOT_SENT"), (Unknown, "UNKNOWN")] {
        let (mut story, _) = lost(PAY);
        assert_eq!(story.tell(vec![cancel()]), ["Stop"]);
        let words = story.tell(vec![probed(&call_id(1, 0), 1, answer)]);
        assert_eq!(words[1..], [format!("Returned(1/0 {outcome})"), "Ended(CANCELLED CANCELLED_BY_CALLER)".to_owned()]);
        assert_eq!(story.phase(), Phase::Ended(RunState::Cancelled));
    }
    let (mut story, _) = lost(PAY);
    story.tell(vec![cancel()]);
    let words = story.at_second(30);
    assert_eq!(words, ["Returned(1/0 UNKNOWN)", "Ended(CANCELLED CANCELLED_BY_CALLER)"], "the grace is over");
    let (mut story, _) = lost(WIRE);
    let words = story.tell(vec![cancel()]);
    assert_eq!(words, ["Stop", "Returned(1/0 UNKNOWN)", "Ended(CANCELLED CANCELLED_BY_CALLER)"]);
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(BOOK, "p0")]), cancel()]);
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(BOOK, "p0")])]);
    story.tell(vec![cancel()]);
    let words = story.tell(vec![claimed(2)]);
    assert_eq!(words[..2], ["Claimed(2)", "Returned(1/0 UNKNOWN)"], "a stopped run has no new effect");
}
