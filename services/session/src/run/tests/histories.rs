//! Random histories.

use std::collections::BTreeMap;

use mar_proto::session::{FinishReason, event_leaf::Body, event_shared};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::world::World;
use crate::run::Event;

/// Enough to reach every corner below with room, and quick enough for every run of the tests.
const HISTORIES: u32 = 2_000;

/// What histories have to reach.
const CORNERS: &[&str] = &[
    "answer cut by length",
    "answer cut by a filter",
    "calls cut by length",
    "calls cut by a filter",
    "not made: filtered",
    "quote found",
    "quote not found",
    "Claimed",
    "Rebuilt",
    "Waiting",
    "Resumed",
    "Rejected",
    "Delayed",
    "Recalled",
    "shared turn",
    "shared result",
    "shared rejection",
    "decided",
    "decided again",
    "replayed",
    "not allowed",
    "Ended(FAILED PAYLOADS_GONE)",
    "PauseRequested",
    "Asked",
    "Decided(APPROVED)",
    "Decided(DENIED)",
    "Decided(EXPIRED)",
    "Decided(PENDING)",
    "Handed",
    "Slice",
    "Ended(HALTED TENANT_BUDGET)",
    "Ended(HALTED SESSION_BUDGET)",
    "Delegated",
    "Refilled",
    "ChildEnded(SUCCEEDED)",
    "ChildEnded(FAILED)",
    "ChildEnded(HALTED)",
    "Ended(HALTED MAX_DEPTH)",
    "Doubted",
    "Probed(HAPPENED)",
    "Probed(DID_NOT_HAPPEN)",
    "Probed(UNKNOWN)",
    "Stop",
    "Failed",
    "Ended(SUCCEEDED)",
    "Ended(HALTED MAX_STEPS)",
    "Ended(HALTED MAX_TOOL_CALLS)",
    "Ended(HALTED ACTIVE_TIME)",
    "Ended(HALTED EXPIRED)",
    "Ended(HALTED INPUT_TOKENS)",
    "Ended(HALTED OUTPUT_TOKENS)",
    "Ended(HALTED COST)",
    "Ended(HALTED COUNTERS_UNAVAILABLE)",
    "Ended(HALTED LOOP_DETECTED)",
    "Ended(CANCELLED CANCELLED_BY_CALLER)",
    "Ended(FAILED ANSWER_INVALID)",
    "Ended(FAILED LOST)",
    "Ended(FAILED PROVIDER_FAILED)",
    "Ended(DENIED POLICY_DENIED)",
];

/// What long histories have to reach.
const CORNERS_OF_SCHOLARS: &[&str] = &[
    "Summing",
    "Summary",
    "Looking back",
    "Looked back",
    "left out: SUMMARY_FAILED",
    "left out: CONTEXT_WINDOW",
    "shared summary of earlier runs",
    "shared without earlier runs",
    "Elided",
    "Failed(SUMMARY_EMPTY)",
    "Failed(SUMMARY_TOO_LONG)",
    "Failed(CONTEXT_EXCEEDED)",
    "Failed(LOST)",
    "shared summary",
    "shared elision",
    "Ended(SUCCEEDED)",
    "Ended(HALTED CONTEXT_WINDOW)",
    "Ended(HALTED MAX_STEPS)",
    "Ended(FAILED SUMMARY_EMPTY)",
];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(HISTORIES),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_history_keeps_the_invariants(script in proptest::collection::vec(any::<u8>(), 0..160)) {
        let mut world = World::new(script);
        world.run_out();
        prop_assert_eq!(&world.driver.folded(), &world.driver.state);
        world.driver.replayed();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(HISTORIES / 4),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_long_history_keeps_the_invariants(script in proptest::collection::vec(any::<u8>(), 0..240)) {
        let mut world = World::of_scholar(script);
        world.run_out();
        prop_assert_eq!(&world.driver.folded(), &world.driver.state);
        world.driver.replayed();
    }
}

/// Corners that only forks reach.
fn of_forks(event: &Event) -> Vec<&'static str> {
    let mut corners = Vec::new();
    match &event.body {
        Body::ToolIntent(intent) if intent.recorded_seq.is_some() => {
            corners.push(if intent.attempt > 1 { "decided again" } else { "decided" });
        }
        Body::ToolReturned(back) if back.recorded_seq.is_some() => corners.push("replayed"),
        Body::ToolReturned(back) if back.reason == "EFFECTS_NOT_ALLOWED" => corners.push("not allowed"),
        Body::EventShared(shared) => corners.push(match &shared.body {
            Some(event_shared::Body::Turn(_)) if shared.history_left_out > 0 => "shared without earlier runs",
            Some(event_shared::Body::Turn(_)) if !shared.elided.is_empty() => "shared elision",
            Some(event_shared::Body::Turn(_)) => "shared turn",
            Some(event_shared::Body::Result(_)) => "shared result",
            Some(event_shared::Body::Summary(summary)) if summary.history => "shared summary of earlier runs",
            Some(event_shared::Body::Summary(_)) => "shared summary",
            _ => "shared rejection",
        }),
        _ => {}
    }
    corners
}

/// Turns that stopped before their end and what becomes of their calls, and what answers quote.
fn of_turns(event: &Event) -> Option<&'static str> {
    match &event.body {
        Body::TurnCommitted(turn) => match (turn.finish_reason(), turn.tool_calls) {
            (FinishReason::Length, 0) => Some("answer cut by length"),
            (FinishReason::Length, _) => Some("calls cut by length"),
            (FinishReason::ContentFilter, 0) => Some("answer cut by a filter"),
            (FinishReason::ContentFilter, _) => Some("calls cut by a filter"),
            _ => None,
        },
        Body::ToolReturned(back) if back.reason == "TURN_FILTERED" => Some("not made: filtered"),
        Body::RunEnded(_) => {
            let cited = event.content.answer.as_ref()?.citations.first()?;
            Some(if cited.quote_found { "quote found" } else { "quote not found" })
        }
        _ => None,
    }
}

fn left_out(event: &Event) -> Option<&str> {
    match &event.body {
        Body::GenerationStarted(started) if started.history_left_out > 0 => Some(&started.history_left_out_reason),
        _ => None,
    }
}

fn elides(event: &Event) -> bool {
    matches!(&event.body, Body::GenerationStarted(started) if !started.elided.is_empty())
}

/// Corners of long runs that cannot read all at once.
fn of_scholars(event: &Event) -> String {
    let word = super::fixture::word(event);
    match word.split_once('(').map_or(word.as_str(), |(kind, _)| kind) {
        "Failed" => format!("Failed({}", word.split_once(' ').unwrap().1),
        "Started" if left_out(event).is_some() => format!("left out: {}", left_out(event).unwrap_or_default()),
        "Started" if elides(event) => "Elided".to_owned(),
        "Ended" => word,
        kind => kind.to_owned(),
    }
}

/// Corners that any history may reach.
fn of_events(event: &Event) -> String {
    let word = super::fixture::word(event);
    let kind = word.split_once('(').map_or(word.as_str(), |(kind, _)| kind);
    match kind {
        "Ended" | "ChildEnded" => word,
        "Decided" | "Probed" => format!("{kind}({}", word.split_once(' ').unwrap().1),
        _ => kind.to_owned(),
    }
}

/// How often the worlds of 4,000 scripts reach each corner.
fn corners(
    scripts: &impl Strategy<Value = Vec<u8>>,
    world: fn(Vec<u8>) -> World,
    of: impl Fn(&Event) -> Vec<String>,
) -> BTreeMap<String, usize> {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::new();
    for _ in 0..4_000 {
        let mut world = world(scripts.new_tree(&mut runner).unwrap().current());
        world.run_out();
        for corner in world.driver.events.iter().flat_map(&of) {
            *seen.entry(corner).or_default() += 1;
        }
    }
    seen
}

/// A suite that never reaches a corner proves nothing of it.
fn reaches(corners: &[&str], seen: &BTreeMap<String, usize>) {
    for corner in corners {
        assert!(seen.contains_key(*corner), "no history reached {corner}: {seen:#?}");
    }
}

#[test]
fn long_histories_reach_every_corner() {
    let scripts = proptest::collection::vec(any::<u8>(), 80..240);
    let seen = corners(&scripts, World::of_scholar, |event| {
        std::iter::once(of_scholars(event)).chain(of_forks(event).into_iter().map(str::to_owned)).collect()
    });
    reaches(CORNERS_OF_SCHOLARS, &seen);
}

#[test]
fn histories_reach_every_corner() {
    let scripts = proptest::collection::vec(any::<u8>(), 60..240);
    let seen = corners(&scripts, World::new, |event| {
        let told = of_forks(event).into_iter().chain(of_turns(event)).map(str::to_owned);
        std::iter::once(of_events(event)).chain(told).collect()
    });
    reaches(CORNERS, &seen);
}
