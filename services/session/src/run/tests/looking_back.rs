//! Runs that see more of their session's earlier runs than fits.

use mar_proto::session::{History, HistorySummary, RunState, event_leaf::Body};
use mar_proto::types::{HaltingPolicy, Message, Role};

use super::driver::Driver;
use super::fixture::*;
use super::scenarios::Story;
use crate::run::{Aim, Ending, Input, Phase, Retry};

/// Turns of earlier runs, numbered from `first`.
fn turns(first: usize, count: usize, words: usize) -> Vec<Message> {
    let turn = |n: usize| {
        let said = format!("q{n}").repeat(words);
        [message(Role::User, [text(&said)]), message(Role::Assistant, [text(&format!("a{n}"))])]
    };
    (first..first + count).flat_map(turn).collect()
}

/// Two turns that are not shown and one that is.
pub fn three_turns() -> History {
    History {
        older: turns(1, 2, 60),
        messages: turns(3, 1, 60),
        runs: (1..4).map(|n| format!("sessions/s/runs/{n}")).collect(),
        summary_tokens: 30,
        ..History::default()
    }
}

/// The same behind a summary that an earlier run has made.
pub fn with_a_summary() -> History {
    let origin =
        HistorySummary { run: "sessions/s/runs/x".to_owned(), seq: 4, through: "sessions/s/runs/0".to_owned() };
    let summary = message(Role::User, [text("what was before")]);
    History { summary: Some(summary), summary_origin: Some(origin), ..three_turns() }
}

/// All of them shown.
pub fn all_shown() -> History {
    History { older: Vec::new(), messages: turns(1, 3, 60), ..three_turns() }
}

pub fn of(history: History, limits: HaltingPolicy) -> Driver {
    let mut first = admitted(limits);
    first.content.history = Some(history);
    Driver::of(first)
}

fn begun(history: History, limits: HaltingPolicy, window: i64) -> Story {
    let mut story = Story::of(of(history, limits));
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::Synthesised(Box::new(agent_of_window(Form::Prose, window)))]);
    story
}

fn told(story: &Story) -> String {
    let state = &story.driver.state;
    format!("{:?}", &state.transcript[..state.head])
}

fn left_out(story: &Story) -> (i64, String) {
    let started = story.driver.events.iter().rev().find_map(|event| match &event.body {
        Body::GenerationStarted(started) => Some(started.clone()),
        _ => None,
    });
    let started = started.unwrap();
    (started.history_left_out, started.history_left_out_reason)
}

fn refused(step: i64, attempt: i64, reason: &str, retry: Retry) -> Input {
    Input::GenerationFailed {
        step,
        attempt,
        reason: reason.to_owned(),
        retry,
        usage: Some(Default::default()),
        message: String::new(),
        models: Vec::new(),
        attempts: Vec::new(),
    }
}

#[test]
fn what_does_not_fit_is_summed_up_before_the_first_turn() {
    let mut story = begun(with_a_summary(), roomy(), 0);
    assert_eq!(story.words().last().unwrap(), "Looking back(1.1)");
    let open = story.driver.state.generation.clone().unwrap();
    assert_eq!(open.aim, Aim::History { replaces: 5 });
    assert_eq!(open.reservation.output_tokens, 30, "what a summary may take, and no more");
    let asked = format!("{:?}", story.driver.state.summary_prompt(open.aim));
    assert!(
        asked.contains("sum it up")
            && asked.contains("what was before")
            && asked.contains("q1")
            && asked.contains("a2")
    );
    assert!(!asked.contains("q3") && !asked.contains("what is it?"), "it is not for this task alone: {asked}");
    assert!(!told(&story).contains("q1"));
    let words = story.tell(vec![turn(1, 1, vec![text("it was about q and a")])]);
    assert_eq!(words, ["Looked back(1.1)", "Started(2.1)"]);
    let prompt = told(&story);
    assert!(prompt.contains("it was about q and a") && prompt.contains("q3"), "{prompt}");
    assert!(!prompt.contains("what was before") && !prompt.contains("q2"), "{prompt}");
    let state = &story.driver.state;
    let roles: Vec<Role> = state.transcript.iter().map(|message| message.role()).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::User, Role::Assistant, Role::User]);
    let origin = state.history.origin.as_deref().unwrap();
    assert_eq!((origin.through.as_str(), origin.seq), ("sessions/s/runs/2", 3));
    assert!(origin.run.ends_with(&RUN.to_string()));
    assert_eq!((state.used.steps, state.usage.output_tokens), (2, 10), "it is a step, and paid for");
    story.tell(vec![turn(2, 1, vec![text("42")])]);
    assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
    story.driver.replayed();
}

#[test]
fn a_summary_that_is_there_costs_nothing() {
    let seen = History { older: Vec::new(), ..with_a_summary() };
    let story = begun(seen, roomy(), 0);
    assert_eq!(story.words().last().unwrap(), "Started(1.1)");
    assert!(told(&story).contains("what was before"));
    let origin = story.driver.state.history.origin.as_deref().unwrap();
    assert_eq!(origin.run, "sessions/s/runs/x", "later runs find it where it is");
}

#[test]
fn a_run_goes_on_without_a_summary_that_nobody_can_make() {
    for (words, reason) in [(" ", "SUMMARY_EMPTY"), (&*"and so on ".repeat(200), "SUMMARY_TOO_LONG")] {
        let mut story = begun(with_a_summary(), roomy(), 0);
        for attempt in 1..=3 {
            let said = story.tell(vec![turn(1, attempt, vec![text(words)])]);
            assert_eq!(said[0], format!("Failed(1.{attempt} {reason})"));
            if attempt < 3 {
                story.at_second(story.at.whole_seconds() + 3);
            }
        }
        assert_eq!(story.words().last().unwrap(), "Started(2.1)");
        assert_eq!(left_out(&story), (4, "SUMMARY_FAILED".to_owned()));
        let prompt = told(&story);
        assert!(prompt.contains("what was before") && prompt.contains("q3") && !prompt.contains("q2"), "{prompt}");
        story.tell(vec![turn(2, 1, vec![text("42")])]);
        assert_eq!(story.phase(), Phase::Ended(RunState::Succeeded));
        assert_eq!(story.driver.state.usage.output_tokens, 40, "each try was paid for");
        story.driver.replayed();
    }
    let mut story = begun(three_turns(), roomy(), 0);
    let words = story.tell(vec![refused(1, 1, "PERMISSION_DENIED", Retry::Never)]);
    assert_eq!(words, ["Failed(1.1 PERMISSION_DENIED)", "Started(2.1)"]);
}

#[test]
fn material_that_is_too_long_is_left_out_in_the_same_step() {
    let mut story = begun(three_turns(), roomy(), 0);
    let words = story.tell(vec![refused(1, 1, "CONTEXT_EXCEEDED", Retry::Never)]);
    assert_eq!(words, ["Failed(1.1 CONTEXT_EXCEEDED)", "Started(1.2)"]);
    assert_eq!(left_out(&story), (4, "SUMMARY_FAILED".to_owned()));
}

#[test]
fn a_summary_leaves_the_task_most_of_what_the_run_may_use() {
    let left = |limits: HaltingPolicy| {
        let story = begun(three_turns(), limits, 0);
        (story.words().last().unwrap().clone(), left_out(&story))
    };
    let without = ("Started(1.1)".to_owned(), (4, "LIMITS".to_owned()));
    assert_eq!(left(HaltingPolicy { max_steps: Some(3), ..roomy() }), without);
    assert_eq!(left(HaltingPolicy { max_output_tokens: Some(MAX_OUTPUT), ..roomy() }).0, "Looking back(1.1)");
    let story = begun(
        History { older: turns(1, 2, 3_000), ..three_turns() },
        HaltingPolicy { max_input_tokens: Some(20_000), ..roomy() },
        0,
    );
    assert_eq!((story.words().last().unwrap().clone(), left_out(&story)), without);
    assert_eq!(left(HaltingPolicy { max_steps: Some(4), ..roomy() }).0, "Looking back(1.1)");
    let mut nobody = agent(Form::Prose);
    let sealed = nobody.descriptor.as_mut().unwrap();
    let mut descriptor = mar_descriptor::Descriptor::parse(&sealed.canonical).unwrap();
    descriptor.prompt.roles.clear();
    descriptor.model.roles.remove("summarise");
    sealed.canonical = descriptor.canonical().unwrap().into();
    let mut story = Story::of(of(three_turns(), roomy()));
    story.tell(vec![Input::Begin]);
    story.tell(vec![Input::Synthesised(Box::new(nobody))]);
    assert_eq!(left_out(&story), (4, "NO_SUMMARISER".to_owned()));
}

#[test]
fn a_takeover_asks_for_the_same_summary() {
    let mut story = begun(three_turns(), roomy(), 0);
    let sent = story.driver.state.generation.clone().unwrap();
    let words = story.tell(vec![Input::Claimed { epoch: 2, owner: "b".to_owned(), unattended_since: None }]);
    assert_eq!(words, ["Claimed(2)", "Failed(1.1 LOST)", "Looking back(1.2)"]);
    let again = story.driver.state.generation.clone().unwrap();
    assert_eq!((again.aim, again.reservation.input_tokens), (sent.aim, sent.reservation.input_tokens));
    assert_eq!(story.tell(vec![turn(1, 1, vec![text("late")])]), Vec::<String>::new());
    assert_eq!(story.tell(vec![turn(1, 2, vec![text("so")])]), ["Looked back(1.2)", "Started(2.1)"]);
    story.driver.replayed();
}

#[test]
fn what_the_window_has_no_room_for_is_summed_up_then_left_out() {
    let mut story = begun(all_shown(), roomy(), 0);
    assert_eq!(story.words().last().unwrap(), "Started(1.1)");
    let words = story.tell(vec![refused(1, 1, "CONTEXT_EXCEEDED", Retry::Never)]);
    assert_eq!(words, ["Failed(1.1 CONTEXT_EXCEEDED)", "Looking back(1.2)"]);
    assert_eq!(story.driver.state.generation.as_ref().unwrap().aim, Aim::History { replaces: 6 });
    assert_eq!(story.tell(vec![turn(1, 2, vec![text("so")])]), ["Looked back(1.2)", "Started(2.1)"]);
    // Even the summary is too much.
    let words = story.tell(vec![refused(2, 1, "CONTEXT_EXCEEDED", Retry::Never)]);
    assert_eq!(words, ["Failed(2.1 CONTEXT_EXCEEDED)", "Started(2.2)"]);
    assert_eq!(left_out(&story), (1, "CONTEXT_WINDOW".to_owned()));
    assert_eq!(story.driver.state.history.origin, None, "it sees no summary any more");
    let words = story.tell(vec![refused(2, 2, "CONTEXT_EXCEEDED", Retry::Never)]);
    assert_eq!(words[1], "Ended(HALTED CONTEXT_WINDOW)");
    story.driver.replayed();

    // Who sums up fails: turns go one by one, oldest first.
    let mut story = begun(all_shown(), roomy(), 0);
    story.tell(vec![refused(1, 1, "CONTEXT_EXCEEDED", Retry::Never)]);
    story.tell(vec![refused(1, 2, "PERMISSION_DENIED", Retry::Never)]);
    assert_eq!(left_out(&story), (2, "CONTEXT_WINDOW".to_owned()));
    assert!(!told(&story).contains("q1") && told(&story).contains("q2"));
    story.tell(vec![refused(2, 1, "CONTEXT_EXCEEDED", Retry::Never)]);
    assert!(!told(&story).contains("q2") && told(&story).contains("q3"));
    story.tell(vec![turn(2, 2, vec![text("42")])]);
    assert!(matches!(story.driver.state.ending, Some(Ending::Answered(_))));
    story.driver.replayed();
}

#[test]
fn what_tainted_a_turn_taints_its_summary() {
    let mut seen = three_turns();
    seen.older[1].parts[0].tainted = true;
    let mut story = begun(seen, roomy(), 0);
    assert!(story.driver.state.tainted, "from the beginning");
    story.tell(vec![turn(1, 1, vec![text("so")])]);
    assert!(story.driver.state.history.summary.as_ref().unwrap().parts[1].tainted);
    let mut story = begun(three_turns(), roomy(), 0);
    story.tell(vec![turn(1, 1, vec![text("so")])]);
    assert!(!story.driver.state.history.summary.as_ref().unwrap().parts[1].tainted);
}
