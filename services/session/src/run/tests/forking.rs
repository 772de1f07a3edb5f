//! Runs that begin with what another one has recorded.

use mar_proto::session::{ForkOrigin, RunState, ToolOutcome, event_leaf::Body};
use mar_proto::types::HaltReason;
use uuid::Uuid;

use super::driver::Driver;
use super::fixture::*;
use super::scenarios::Story;
use crate::run::{CallReturn, Effect, Event, Input, Phase, Recalled, Recollection};

const ORIGIN: Uuid = Uuid::from_u128(70);

/// A run that called two tools in its first step, one in its second, and answered.
fn origin() -> Vec<Event> {
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![turn(1, 1, vec![ask(SEND, "p0"), ask(SEARCH, "p1")])]);
    let back = |index| returned(&call_id(1, index), 1, ToolOutcome::Ok, "");
    story.tell(vec![back(0)]);
    story.tell(vec![back(1)]);
    story.tell(vec![turn(2, 1, vec![ask(SEND, "p0")])]);
    story.tell(vec![returned(&call_id(2, 0), 1, ToolOutcome::Error, "")]);
    story.tell(vec![turn(3, 1, vec![text("sent twice")])]);
    assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
    story.driver.events
}

fn place_of(events: &[Event], word_of: &str) -> i64 {
    events.iter().position(|event| word(event) == word_of).unwrap().try_into().unwrap()
}

fn recalled(events: &[Event], through_seq: i64, own_task: bool) -> Recalled {
    let mut recollection = Recollection::new(through_seq, own_task);
    for (seq, event) in (0..).zip(events) {
        recollection.take(seq, event);
    }
    recollection.finish()
}

/// A fork that shares `events` through one of them, told what it goes on from.
fn forked(events: &[Event], through: &str, allow_effects: bool) -> (Story, Vec<String>) {
    let through_seq = place_of(events, through);
    let mut first = admitted(roomy());
    if let Body::RunAdmitted(body) = &mut first.body {
        body.fork = Some(ForkOrigin { run: ORIGIN.to_string(), through_seq, allow_effects, own_task: false });
    }
    let mut story = Story::of(Driver::of(first));
    story.tell(vec![Input::Begin]);
    assert_eq!(story.effects, [Effect::Recall]);
    let words = story.tell(vec![Input::Recalled(Box::new(recalled(events, through_seq, false)))]);
    story.driver.replayed();
    (story, words)
}

fn replay(call: &str, outcome: ToolOutcome) -> Input {
    let Input::Returned(back) = returned(call, 1, outcome, "") else { unreachable!() };
    Input::Returned(Box::new(CallReturn { recorded: true, ..*back }))
}

fn recorded_seqs(story: &Story) -> Vec<Option<i64>> {
    let intents = story.driver.events.iter().filter_map(|event| match &event.body {
        Body::ToolIntent(intent) => Some(intent.recorded_seq),
        _ => None,
    });
    intents.collect()
}

#[test]
fn a_fork_begins_with_what_both_share_and_pays_for_the_rest() {
    let events = origin();
    let (story, words) = forked(&events, "Returned(1/1 OK)", false);
    let expected =
        ["Recalled(1 3)", "Shared(turn 1)", "Shared(result 1/0)", "Shared(result 1/1)", "Sealed", "Started(2.1)"];
    assert_eq!(words, expected);
    let state = &story.driver.state;
    assert_eq!((state.used.steps, state.used.tool_calls, state.usage.output_tokens), (2, 2, 0));
    let ids = format!("{:?}", state.transcript);
    assert!(ids.contains(&call_id(1, 0)), "calls have the fork's own ids");
    assert_eq!(story.effects, [Effect::Generate { step: 2, attempt: 1 }]);
}

#[test]
fn results_that_are_not_shared_are_replayed_each_once() {
    let events = origin();
    let (mut story, words) = forked(&events, "Turn(1.1)", false);
    assert_eq!(words, ["Recalled(1 3)", "Shared(turn 1)", "Sealed", "Intent(1/0.1)", "Intent(1/1.1)"]);
    let results = ["Returned(1/0 OK)", "Returned(1/1 OK)", "Returned(2/0 ERROR)"].map(|word| place_of(&events, word));
    assert_eq!(recorded_seqs(&story), [Some(results[0]), Some(results[1])]);
    story.tell(vec![replay(&call_id(1, 0), ToolOutcome::Ok), replay(&call_id(1, 1), ToolOutcome::Ok)]);
    story.tell(vec![turn(2, 1, vec![ask(SEND, "p0"), ask(SEND, "p0")])]);
    assert_eq!(recorded_seqs(&story)[2..], [Some(results[2]), Some(results[2])], "the second, and then the last");
    // What the first run never knew is not made again either.
    let words = story.tell(vec![replay(&call_id(2, 0), ToolOutcome::Unknown), replay(&call_id(2, 1), ToolOutcome::Ok)]);
    assert_eq!(words, ["Returned(2/0 UNKNOWN)", "Returned(2/1 OK)", "Started(3.1)"]);
    story.driver.replayed();
}

#[test]
fn only_a_result_that_is_left_as_it_was_is_called_recorded() {
    let (mut story, _) = forked(&origin(), "Turn(1.1)", false);
    let (kept, withheld) =
        (replay(&call_id(1, 0), ToolOutcome::Ok), returned(&call_id(1, 1), 1, ToolOutcome::Denied, ""));
    let words = story.tell(vec![kept, withheld]);
    assert_eq!(words, ["Returned(1/0 OK)", "Returned(1/1 DENIED)", "Started(2.1)"]);
    let results = story.driver.events.iter().filter_map(|event| match &event.body {
        Body::ToolReturned(back) => Some(back.recorded_seq.is_some()),
        _ => None,
    });
    assert_eq!(results.collect::<Vec<_>>(), [true, false]);
    story.driver.replayed();
}

#[test]
fn what_the_first_run_did_not_call_has_no_effect_unless_it_may() {
    let events = origin();
    let (mut story, _) = forked(&events, "Returned(1/1 OK)", false);
    let words = story.tell(vec![turn(2, 1, vec![ask(SEND, "other")])]);
    assert_eq!(words, ["Turn(2.1)", "Returned(2/0 DENIED)", "Started(3.1)"]);
    assert_eq!(story.driver.state.used.tool_calls, 2, "it was never begun");
    let (mut story, _) = forked(&events, "Returned(1/1 OK)", true);
    story.tell(vec![turn(2, 1, vec![ask(SEND, "other")])]);
    assert_eq!(story.effects, [Effect::Invoke { call_id: call_id(2, 0), attempt: 1 }]);
    assert_eq!(recorded_seqs(&story), [None]);
}

#[test]
fn a_recorded_call_that_was_in_flight_is_asked_again_by_the_next_owner() {
    let (mut story, _) = forked(&origin(), "Turn(1.1)", false);
    let words = story.tell(vec![Input::Claimed { epoch: 2, owner: "replica-2".to_owned(), unattended_since: None }]);
    assert_eq!(words, ["Claimed(2)", "Intent(1/0.2)", "Intent(1/1.2)"], "nothing was sent");
}

#[test]
fn who_takes_over_before_the_origin_was_read_reads_it() {
    let mut first = admitted(roomy());
    if let Body::RunAdmitted(body) = &mut first.body {
        body.fork = Some(ForkOrigin { run: ORIGIN.to_string(), through_seq: 0, allow_effects: false, own_task: false });
    }
    let mut story = Story::of(Driver::of(first));
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::Claimed { epoch: 2, owner: "replica-2".to_owned(), unattended_since: None }]);
    assert_eq!(story.effects, [Effect::Recall]);
    let words = story.tell(vec![Input::Recalled(Box::new(recalled(&origin(), 0, false)))]);
    assert_eq!(words, ["Recalled(0 3)"]);
    assert_eq!(story.effects, [Effect::Synthesise], "the agent is not shared");
    assert!(story.tell(vec![Input::Recalled(Box::default())]).is_empty(), "it is read once");
}

#[test]
fn what_is_shared_counts_against_the_limits() {
    let events = origin();
    let mut limits = roomy();
    limits.max_steps = Some(1);
    let mut first = admitted(limits);
    let through_seq = place_of(&events, "Returned(2/0 ERROR)");
    if let Body::RunAdmitted(body) = &mut first.body {
        body.fork = Some(ForkOrigin { run: ORIGIN.to_string(), through_seq, allow_effects: false, own_task: false });
    }
    let mut story = Story::of(Driver::of(first));
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::Recalled(Box::new(recalled(&events, through_seq, false)))]);
    assert_eq!(story.phase(), Phase::Ended(RunState::Halted));
    let Some(Body::RunEnded(ended)) = story.driver.events.last().map(|event| &event.body) else { unreachable!() };
    assert_eq!(ended.halt_reason(), HaltReason::MaxSteps);
}

#[test]
fn a_fork_of_a_fork_knows_what_both_have_recorded() {
    let events = origin();
    let (mut story, _) = forked(&events, "Returned(1/1 OK)", true);
    story.tell(vec![turn(2, 1, vec![ask(SEND, "other")])]);
    story.tell(vec![returned(&call_id(2, 0), 1, ToolOutcome::Ok, "")]);
    story.tell(vec![turn(3, 1, vec![text("done")])]);
    let of_fork = recalled(&story.driver.events, place_of(&story.driver.events, "Turn(3.1)"), false);
    assert_eq!(of_fork.recorded.len(), 3, "two that were shared, and one of its own");
    assert_eq!((of_fork.counted().steps, of_fork.counted().tool_calls), (3, 3));
}
