//! Final answers: accepted, repaired once, refused.

use mar_proto::session::{FinishReason, RunState, ToolOutcome};
use mar_proto::types::HaltingPolicy;

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

#[test]
fn an_answer_that_was_cut_off_is_none() {
    for form in [Form::Prose, Form::Schema] {
        let mut story = Story::running(roomy(), form);
        let cut = |step| {
            let whole = if form == Form::Prose { "The light is".to_owned() } else { cited_answer(&[]) };
            let turn = finished(step, 1, vec![text(&whole)], usage(50, 10));
            Input::Turn(Box::new(FinishedTurn { finish_reason: FinishReason::Length, ..turn }))
        };
        assert_eq!(story.tell(vec![cut(1)]), ["Turn(1.1)", "Rejected(1)", "Started(2.1)"]);
        let told = story.driver.state.transcript.last().unwrap().clone();
        assert!(format!("{told:?}").contains("cut off"), "{told:?}");
        assert_eq!(story.tell(vec![cut(2)]), ["Turn(2.1)", "Rejected(1)", "Ended(FAILED ANSWER_INVALID)"]);
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
