//! Final answers: accepted, repaired once, refused.

use mar_proto::session::{FinishReason, RunState, ToolOutcome};
use mar_proto::types::{HaltingPolicy, Part, part::Content};

use super::fixture::*;
use super::scenarios::Story;
use crate::run::{Effect, Ending, FinishedTurn, Input, Phase};

#[test]
fn an_answer_that_does_not_fit_is_repaired_in_one_commit() {
    let mut story = Story::running(roomy(), Form::Schema);
    let words = story.tell(vec![turn(1, 1, vec![text("not JSON")])]);
    assert_eq!(words, ["Turn(1.1)", "Rejected(1)", "Started(2.1)"]);
    assert_eq!(story.effects, [Effect::Generate { step: 2, attempt: 1 }]);
    let told = story.driver.state.transcript.last().unwrap().clone();
    assert!(format!("{told:?}").contains("it is not JSON"));
    let words = story.tell(vec![turn(2, 1, vec![text(&cited_answer(&[]))])]);
    assert_eq!(words, ["Turn(2.1)", "Ended(SUCCEEDED)"]);
    assert_eq!(story.driver.state.used.steps, 2, "a repair round is a step");
}

/// Of its readers some take the first of the two and some the last, and only one of them is what was looked at.
#[test]
fn an_answer_with_a_key_twice_is_none() {
    let stranger = r#""citations": [{"passage_id": "nowhere#1"}], "citations": []"#;
    for answer in
        [format!(r#"{{"answer": "x", {stranger}}}"#), r#"{"answer": 1, "answer": "x", "citations": []}"#.into()]
    {
        let mut story = Story::running(roomy(), Form::Schema);
        assert_eq!(story.tell(vec![turn(1, 1, vec![text(&answer)])]), ["Turn(1.1)", "Rejected(1)", "Started(2.1)"]);
        let told = story.driver.state.transcript.last().unwrap().clone();
        assert!(format!("{told:?}").contains("it has a key twice"), "{told:?}");
    }
}

#[test]
fn an_answer_that_was_cut_off_is_none() {
    for form in [Form::Prose, Form::Schema] {
        let mut story = Story::running(roomy(), form);
        let whole = if form == Form::Prose { "The light is".to_owned() } else { cited_answer(&[]) };
        let cut = |step| stopped(step, FinishReason::Length, vec![text(&whole)]);
        assert_eq!(story.tell(vec![cut(1)]), ["Turn(1.1)", "Rejected(1)", "Started(2.1)"]);
        let told = story.driver.state.transcript.last().unwrap().clone();
        assert!(format!("{told:?}").contains("cut off"), "{told:?}");
        assert_eq!(story.tell(vec![cut(2)]), ["Turn(2.1)", "Rejected(1)", "Ended(FAILED ANSWER_INVALID)"]);
    }
}

#[test]
fn an_answer_that_the_providers_filter_cut_is_none() {
    for (form, whole) in [(Form::Prose, "The light is"), (Form::Prose, ""), (Form::Schema, ""), (Form::Schema, "whole")]
    {
        let mut story = Story::running(roomy(), form);
        let whole = if whole == "whole" { cited_answer(&[]) } else { whole.to_owned() };
        let parts = || if whole.is_empty() { Vec::new() } else { vec![text(&whole)] };
        assert_eq!(story.tell(vec![filtered(1, parts())]), ["Turn(1.1)", "Rejected(1)", "Started(2.1)"]);
        let told = story.driver.state.transcript.last().unwrap().clone();
        assert!(format!("{told:?}").contains("the provider's content filter cut it off"), "{told:?}");
        super::audit::well_formed(&story.driver.state.transcript);
        assert_eq!(
            story.tell(vec![filtered(2, parts())]),
            ["Turn(2.1)", "Rejected(1)", "Ended(FAILED ANSWER_INVALID)"]
        );
    }
    let mut story = Story::running(roomy(), Form::Prose);
    story.tell(vec![filtered(1, vec![text("The light is")])]);
    assert_eq!(
        story.tell(vec![turn(2, 1, vec![text("42")])]),
        ["Turn(2.1)", "Ended(SUCCEEDED)"],
        "a repair that passes"
    );
}

#[test]
fn calls_of_a_turn_that_was_cut_are_not_made_in_part() {
    let mut story = Story::running(roomy(), Form::Prose);
    let words = story.tell(vec![filtered(1, vec![ask(SEARCH, "p0"), ask(SEND, "p1")])]);
    assert_eq!(words, ["Turn(1.1)", "Returned(1/0 ERROR)", "Returned(1/1 ERROR)", "Started(2.1)"]);
    assert_eq!(story.effects, [Effect::Generate { step: 2, attempt: 1 }]);
    assert_eq!(story.driver.state.used.tool_calls, 0, "what was not made costs nothing");
    assert!(format!("{:?}", story.driver.state.transcript.last()).contains("TURN_FILTERED"));
    super::audit::well_formed(&story.driver.state.transcript);

    // At the limit of its output only the last call can lack its arguments; those that break off are no JSON.
    let bare = |tool| {
        let mut part = ask(tool, "p");
        if let Some(Content::ToolCall(call)) = &mut part.content {
            call.arguments_json = " ".to_owned();
        }
        part
    };
    let words = story.tell(vec![stopped(2, FinishReason::Length, vec![bare(SEARCH), bare(SEND)])]);
    assert_eq!(words, ["Turn(2.1)", "Returned(2/1 ERROR)", "Intent(2/0.1)"]);
    story.tell(vec![returned(&call_id(2, 0), 1, ToolOutcome::Ok, "")]);
    let words = story.tell(vec![turn(3, 1, vec![bare(SEND)])]);
    assert_eq!(words, ["Turn(3.1)", "Intent(3/0.1)"], "a whole turn may ask for a tool without parameters");
}

/// A turn that stopped for this reason.
fn stopped(step: i64, finish_reason: FinishReason, parts: Vec<Part>) -> Input {
    let turn = finished(step, 1, parts, usage(50, 10));
    Input::Turn(Box::new(FinishedTurn { finish_reason, ..turn }))
}

fn filtered(step: i64, parts: Vec<Part>) -> Input {
    stopped(step, FinishReason::ContentFilter, parts)
}

#[test]
fn a_quote_is_held_against_what_came_with_its_passage() {
    let cases = [("found", true), ("  found ", true), ("Found", false), ("", false), ("found it", false)];
    for (quote, found) in cases {
        let mut story = Story::running(roomy(), Form::Schema);
        story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0"), ask(SEARCH, "p1")])]);
        let one = returned(&call_id(1, 0), 1, ToolOutcome::Ok, "a#1");
        let Input::Returned(mut other) = returned(&call_id(1, 1), 1, ToolOutcome::Ok, "b#1") else { panic!() };
        other.result.content = vec![text("nothing of the kind")];
        story.tell(vec![one, Input::Returned(other)]);
        let words = story.tell(vec![turn(2, 1, vec![text(&quoting_answer(&["a#1", "b#1"], quote))])]);
        assert_eq!(words, ["Turn(2.1)", "Ended(SUCCEEDED)"], "an answer is not refused for a quote");
        let Some(Ending::Answered(answer)) = &story.driver.state.ending else { panic!("no answer") };
        let told: Vec<bool> = answer.citations.iter().map(|citation| citation.quote_found).collect();
        assert_eq!(told, [found, false], "{quote:?}");
        let replayed = story.driver.replayed();
        assert_eq!(replayed.ending, story.driver.state.ending, "the log tells the same");
    }
}

#[test]
fn a_second_answer_that_does_not_fit_fails_the_run() {
    let mut story = Story::running(roomy(), Form::Schema);
    story.tell(vec![turn(1, 1, vec![text(r#"{"answer": 42, "citations": 1}"#)])]);
    let words = story.tell(vec![turn(2, 1, vec![text(r#"{"answer": 42, "citations": 1}"#)])]);
    assert_eq!(words, ["Turn(2.1)", "Rejected(2)", "Ended(FAILED ANSWER_INVALID)"]);
    assert_eq!(story.effects, [Effect::Seal]);
}

#[test]
fn a_repair_that_asks_for_a_tool_has_used_the_only_repair() {
    let mut story = Story::running(roomy(), Form::Schema);
    story.tell(vec![turn(1, 1, vec![text("no")])]);
    story.tell(vec![turn(2, 1, vec![ask(SEARCH, "p0")])]);
    story.tell(vec![returned(&call_id(2, 0), 1, ToolOutcome::Ok, "")]);
    let words = story.tell(vec![turn(3, 1, vec![text("no")])]);
    assert_eq!(words, ["Turn(3.1)", "Rejected(1)", "Ended(FAILED ANSWER_INVALID)"]);
}

#[test]
fn a_repair_needs_a_step_like_any_other() {
    let mut story = Story::running(HaltingPolicy { max_steps: Some(1), ..roomy() }, Form::Schema);
    let words = story.tell(vec![turn(1, 1, vec![text("no")])]);
    assert_eq!(words, ["Turn(1.1)", "Rejected(1)", "Ended(HALTED MAX_STEPS)"]);
}

#[test]
fn an_empty_answer_is_none_and_stays_out_of_the_conversation() {
    for (form, empty) in [(Form::Prose, vec![]), (Form::Schema, vec![]), (Form::Prose, vec![text(" \n")])] {
        let mut story = Story::running(roomy(), form);
        let words = story.tell(vec![turn(1, 1, empty)]);
        assert_eq!(words, ["Turn(1.1)", "Rejected(1)", "Started(2.1)"]);
        assert_eq!(story.driver.state.transcript.len(), 3, "system, task, request to repair");
        super::audit::well_formed(&story.driver.state.transcript);
    }
}

#[test]
fn prose_is_an_answer_where_no_schema_is_asked_for() {
    let mut story = Story::running(roomy(), Form::Prose);
    assert_eq!(story.tell(vec![turn(1, 1, vec![text("42")])]), ["Turn(1.1)", "Ended(SUCCEEDED)"]);
    let Some(Ending::Answered(answer)) = &story.driver.state.ending else { panic!("no answer") };
    assert!(answer.json.is_empty());
    assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
}

#[test]
fn only_received_passages_may_be_cited() {
    let mut story = Story::running(roomy(), Form::Schema);
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, "p0")])]);
    story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "a#1")]);
    let words = story.tell(vec![turn(2, 1, vec![text(&cited_answer(&["a#1", "a#2"]))])]);
    assert_eq!(words, ["Turn(2.1)", "Rejected(1)", "Started(3.1)"]);
    let words = story.tell(vec![turn(3, 1, vec![text(&cited_answer(&["a#1"]))])]);
    assert_eq!(words, ["Turn(3.1)", "Ended(SUCCEEDED)"]);
}
