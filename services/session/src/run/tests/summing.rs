//! Runs whose prompts do not fit the window any more.

use mar_proto::session::{RunState, ToolOutcome, event_leaf::Body};
use mar_proto::types::{HaltReason, HaltingPolicy, Message, Role, part::Content};

use super::fixture::*;
use super::scenarios::Story;
use crate::run::{Aim, Effect, Ending, Input, Phase, Retry};

/// A run whose models read and write so many tokens at once.
fn of_window(limits: HaltingPolicy, window: i64) -> Story {
    let mut story = Story::admitted(limits);
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::Synthesised(Box::new(agent_of_window(Form::Prose, window)))]);
    story
}

/// A step with one search, whose prompt was counted at so many tokens.
fn step(story: &mut Story, step: i64, passage: &str, tokens: i64) -> Vec<String> {
    let asked = finished(step, 1, vec![ask(SEARCH, &format!("p{step}"))], usage(tokens, 10));
    story.tell(vec![Input::Turn(Box::new(asked))]);
    story.tell(vec![returned(&call_id(step, 0), 1, ToolOutcome::Ok, passage)])
}

fn texts(transcript: &[std::sync::Arc<Message>]) -> String {
    format!("{transcript:?}")
}

/// A run that is to sum up its first two steps in its fourth.
fn summing(limits: HaltingPolicy) -> Story {
    let mut story = of_window(limits, 360);
    step(&mut story, 1, "a#1", 60);
    step(&mut story, 2, "", 120);
    let words = step(&mut story, 3, "", 280);
    assert_eq!(words, ["Returned(3/0 OK)", "Summing(4.1)"]);
    assert_eq!(story.effects, [Effect::Generate { step: 4, attempt: 1 }]);
    story
}

#[test]
fn what_no_longer_fits_is_summed_up_and_the_run_goes_on() {
    let mut story = summing(roomy());
    let Some(open) = &story.driver.state.generation else { panic!("nothing is open") };
    assert!(matches!(open.aim, Aim::Summary { .. }), "{:?}", open.aim);
    assert_eq!(open.reservation.output_tokens, SUMMARY_OUTPUT);
    let asked = story.driver.state.summary_prompt(open.aim);
    let said = format!("{asked:?}");
    assert!(said.contains("sum it up") && said.contains("what is it?") && said.contains("found"), "{said}");
    assert!(!said.contains("p3"), "the last exchange is not summed up: {said}");
    let before = story.driver.state.used;
    let words = story.tell(vec![turn(4, 1, vec![text("It was found twice.")])]);
    assert_eq!(words, ["Summary(4.1)", "Started(5.1)"]);
    let state = &story.driver.state;
    assert_eq!(state.used.steps, before.steps + 1, "a summary is a step, and so is what follows");
    let roles: Vec<Role> = state.transcript.iter().map(|message| message.role()).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::User, Role::Assistant, Role::Tool]);
    let told = texts(&state.transcript);
    assert!(told.contains("It was found twice.") && told.contains("p3") && !told.contains("p1"), "{told}");
    assert!(state.transcript[2].parts[1].tainted, "what was summed up was tainted");
    assert!(state.passages.contains_key("a#1"), "what was received can be cited");
    assert!(state.stands("found", "a#1") && !state.stands("It was found twice.", "a#1"), "and quoted as it came");
    story.tell(vec![turn(5, 1, vec![text("42")])]);
    assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
    assert_eq!((story.driver.state.used.steps, story.driver.state.used.tool_calls), (5, 3));
    story.driver.replayed();
}

#[test]
fn a_summary_is_extended_by_the_next() {
    let mut story = summing(roomy());
    story.tell(vec![turn(4, 1, vec![text("first notes")])]);
    let words = step(&mut story, 5, "", 280);
    assert_eq!(words, ["Returned(5/0 OK)", "Summing(6.1)"]);
    let Some(Aim::Summary { replaces }) = story.driver.state.generation.as_ref().map(|open| open.aim) else { panic!() };
    assert_eq!(replaces, 3, "the earlier summary, a turn and its result");
    assert!(format!("{:?}", story.driver.state.summary_prompt(Aim::Summary { replaces })).contains("first notes"));
    story.tell(vec![turn(6, 1, vec![text("all")])]);
    let told = texts(&story.driver.state.transcript);
    assert!(told.contains("all") && !told.contains("first notes"), "{told}");
}

#[test]
fn large_results_are_elided_before_anything_is_summed_up() {
    let mut story = of_window(roomy(), 3_600);
    step(&mut story, 1, LONG, 60);
    assert!(story.words().last().unwrap().starts_with("Started(2.1)"));
    step(&mut story, 2, LONG, 1_900);
    let Body::GenerationStarted(started) = &story.driver.events.last().unwrap().body else { panic!() };
    assert_eq!((started.step, started.role.as_str()), (3, ""));
    assert_eq!(started.elided, [call_id(1, 0)], "the oldest, and not the last");
    let state = &story.driver.state;
    assert!(state.stands("found found", LONG) && !state.stands("left out", LONG), "it can be quoted as it came");
    assert!(story.driver.replayed().stands("found found", LONG), "also by who takes over");
    let bound = story.driver.state.prompt_bound();
    assert_eq!(started.reservation.unwrap().input_tokens, bound, "what is left out is not paid for");
    let told = texts(&story.driver.state.transcript);
    assert!(
        told.contains("left out to save room") && told.contains(LONG) && told.contains(" bytes, sha256 "),
        "{told}"
    );
    story.tell(vec![turn(3, 1, vec![text("42")])]);
    assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
    story.driver.replayed();
}

fn too_long(step: i64, attempt: i64) -> Input {
    Input::GenerationFailed {
        step,
        attempt,
        reason: "CONTEXT_EXCEEDED".to_owned(),
        retry: Retry::Never,
        usage: Some(Default::default()),
        message: String::new(),
        models: Vec::new(),
        attempts: Vec::new(),
    }
}

#[test]
fn what_the_router_finds_too_long_is_summed_up_too() {
    let mut story = of_window(roomy(), 0);
    story.tell(vec![turn(1, 1, vec![ask(SEARCH, &"p1".repeat(200))])]);
    story.tell(vec![returned(&call_id(1, 0), 1, ToolOutcome::Ok, "")]);
    step(&mut story, 2, "", 120);
    step(&mut story, 3, "", 180);
    let words = story.tell(vec![too_long(4, 1)]);
    assert_eq!(words, ["Failed(4.1 CONTEXT_EXCEEDED)", "Summing(4.2)"]);
    assert_eq!(story.driver.state.used.steps, 4, "the same step");
    assert_eq!(story.tell(vec![turn(4, 2, vec![text("so")])]), ["Summary(4.2)", "Started(5.1)"]);
    assert_eq!(story.tell(vec![too_long(5, 1)]), ["Failed(5.1 CONTEXT_EXCEEDED)", "Summing(5.2)"]);
    assert_eq!(story.tell(vec![turn(5, 2, vec![text("so")])]), ["Summary(5.2)", "Started(6.1)"]);
    // Nothing is left that could be left out.
    let words = story.tell(vec![too_long(6, 1)]);
    assert_eq!(words, ["Failed(6.1 CONTEXT_EXCEEDED)", "Ended(HALTED CONTEXT_WINDOW)"]);
    assert_eq!(story.driver.state.ending, Some(Ending::Halted(HaltReason::ContextWindow)));
}

#[test]
fn a_task_that_never_fits_halts_at_once() {
    let mut story = of_window(roomy(), 50);
    assert_eq!(story.effects, [Effect::Generate { step: 1, attempt: 1 }], "who counts has the last word");
    assert_eq!(story.tell(vec![too_long(1, 1)])[1], "Ended(HALTED CONTEXT_WINDOW)");
}

#[test]
fn a_summary_that_is_none_is_tried_again_and_then_given_up() {
    for (words, reason) in [(" ", "SUMMARY_EMPTY"), (&*"and so on ".repeat(100), "SUMMARY_TOO_LONG")] {
        let mut story = summing(roomy());
        for attempt in 1..=3 {
            let used = finished(4, attempt, vec![text(words)], usage(90, 30));
            let told = story.tell(vec![Input::Turn(Box::new(used))]);
            assert_eq!(told[0], format!("Failed(4.{attempt} {reason})"));
            if attempt < 3 {
                story.at_second(story.at.whole_seconds() + 3);
                assert_eq!(story.words().last().unwrap(), &format!("Summing(4.{})", attempt + 1));
            }
        }
        let Some(Ending::Failed(failure)) = &story.driver.state.ending else { panic!() };
        assert_eq!(failure.reason, reason);
        assert_eq!(story.driver.state.usage.output_tokens, 3 * 10 + 3 * 30, "each was paid for");
    }
}

#[test]
fn limits_bind_on_summaries() {
    let bind = |limits: HaltingPolicy| {
        let mut story = of_window(limits, 360);
        step(&mut story, 1, "", 60);
        step(&mut story, 2, "", 120);
        let dear = mar_proto::types::Usage { cost_nano_usd: 18_000_000, ..usage(280, 10) };
        story.tell(vec![Input::Turn(Box::new(finished(3, 1, vec![ask(SEARCH, "p3")], dear)))]);
        story.tell(vec![returned(&call_id(3, 0), 1, ToolOutcome::Ok, "")]);
        story.driver.state.ending
    };
    assert_eq!(bind(roomy()), None);
    let halted = |reason| Some(Ending::Halted(reason));
    assert_eq!(bind(HaltingPolicy { max_steps: Some(3), ..roomy() }), halted(HaltReason::MaxSteps));
    let spent = 3 * 10 + SUMMARY_OUTPUT;
    assert_eq!(bind(HaltingPolicy { max_output_tokens: Some(spent.max(20 + MAX_OUTPUT)), ..roomy() }), None);
    let cost = bind(HaltingPolicy { max_cost_nano_usd: Some(20_000_000), ..roomy() });
    assert_eq!(cost, halted(HaltReason::Cost));
}

#[test]
fn a_takeover_in_the_middle_of_a_summary_issues_it_again() {
    let mut story = summing(roomy());
    let sent = story.driver.state.generation.clone().unwrap();
    let words = story.tell(vec![Input::Claimed { epoch: 2, owner: "b".to_owned(), unattended_since: None }]);
    assert_eq!(words, ["Claimed(2)", "Failed(4.1 LOST)", "Summing(4.2)"]);
    let again = story.driver.state.generation.clone().unwrap();
    assert_eq!((again.aim, again.reservation.input_tokens), (sent.aim, sent.reservation.input_tokens));
    // What the first owner's model says comes too late.
    assert_eq!(story.tell(vec![turn(4, 1, vec![text("late")])]), Vec::<String>::new());
    assert_eq!(story.tell(vec![turn(4, 2, vec![text("so")])]), ["Summary(4.2)", "Started(5.1)"]);
    story.driver.replayed();
}

#[test]
fn an_answer_is_repaired_after_a_summary() {
    let mut story = Story::admitted(roomy());
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::Synthesised(Box::new(agent_of_window(Form::Schema, 420)))]);
    step(&mut story, 1, "", 60);
    step(&mut story, 2, "", 120);
    let answer = finished(3, 1, vec![text(&"no JSON, and many words about it ".repeat(4))], usage(300, 10));
    let words = story.tell(vec![Input::Turn(Box::new(answer))]);
    assert_eq!(words, ["Turn(3.1)", "Rejected(1)", "Summing(4.1)"]);
    story.tell(vec![turn(4, 1, vec![text("so")])]);
    let Body::GenerationStarted(started) = &story.driver.events.last().unwrap().body else { panic!() };
    assert!(started.repair && started.step == 5);
    let last = story.driver.state.transcript.last().unwrap();
    assert!(matches!(&last.parts[0].content, Some(Content::Text(text)) if text.contains("cannot be accepted")));
    story.tell(vec![turn(5, 1, vec![text(&cited_answer(&[]))])]);
    assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
}

#[test]
fn an_agent_without_a_summariser_asks_the_router() {
    let mut agent = agent_of_window(Form::Prose, 360);
    let sealed = agent.descriptor.as_mut().unwrap();
    let mut descriptor = mar_descriptor::Descriptor::parse(&sealed.canonical).unwrap();
    descriptor.prompt.roles.clear();
    descriptor.model.roles.remove("summarise");
    sealed.canonical = descriptor.canonical().unwrap().into();
    let mut story = Story::admitted(roomy());
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::Synthesised(Box::new(agent))]);
    step(&mut story, 1, "", 60);
    step(&mut story, 2, "", 120);
    assert_eq!(step(&mut story, 3, "", 280)[1], "Started(4.1)");
    assert_eq!(story.tell(vec![too_long(4, 1)])[1], "Ended(HALTED CONTEXT_WINDOW)");
}
