//! Slices of budgets: nothing is used before it is granted.

use mar_proto::session::{BudgetScope, RunState, WaitReason};
use mar_proto::types::{HaltingPolicy, OnBudget};
use time::Duration;

use super::driver::Driver;
use super::fixture::*;
use super::scenarios::Story;
use crate::run::{Effect, Input, Lack, Phase};

const BOTH: [BudgetScope; 2] = [BudgetScope::Tenant, BudgetScope::Session];

fn begun(on_budget: OnBudget) -> Story {
    let limits = HaltingPolicy { on_budget: on_budget.into(), ..roomy() };
    let mut story = Story::of(Driver::of(admitted_on(limits, &BOTH)));
    story.tell(vec![Input::Begin]);
    story
}

fn asked(story: &Story) -> Lack {
    let asked = story.effects.iter().find_map(|effect| match effect {
        Effect::Refill(lack) => Some(*lack),
        _ => None,
    });
    asked.unwrap_or_else(|| panic!("nothing is asked for: {:?}", story.effects))
}

/// With a first slice of nothing from each budget.
fn counted(on_budget: OnBudget) -> Story {
    let mut story = begun(on_budget);
    for scope in BOTH {
        let lack = asked(&story);
        assert_eq!((lack.scope, lack.number, lack.least, lack.runs), (scope, 0, 0, 1));
        story.tell(vec![granted(&lack, 0)]);
    }
    assert_eq!(story.effects, [Effect::Synthesise]);
    story.tell(vec![Input::Synthesised(Box::new(agent(Form::Prose)))]);
    story
}

#[test]
fn a_run_has_a_slice_of_each_budget_before_it_begins() {
    let mut story = counted(OnBudget::Halt);
    let cost = story.driver.state.generation_reservation(1).cost_nano_usd;
    assert!(cost > 0, "the agent's model has a price");
    let lack = asked(&story);
    assert_eq!((lack.scope, lack.number, lack.least, lack.runs), (BudgetScope::Tenant, 1, cost, 0));
    assert!(lack.want >= cost);
    assert_eq!(story.tell(vec![granted(&lack, cost)]), [format!("Slice(TENANT {cost})")]);
    let lack = asked(&story);
    assert_eq!(lack.scope, BudgetScope::Session);
    assert_eq!(story.tell(vec![granted(&lack, cost)]), [format!("Slice(SESSION {cost})"), "Started(1.1)".to_owned()]);
    // A grant that comes twice counts once.
    assert_eq!(story.tell(vec![granted(&lack, cost)]), [] as [String; 0]);
}

#[test]
fn a_budget_that_is_used_up_halts_the_run() {
    for (early, scope, reason) in
        [(true, BudgetScope::Tenant, "TENANT_BUDGET"), (false, BudgetScope::Tenant, "TENANT_BUDGET")]
    {
        let mut story = if early { begun(OnBudget::Halt) } else { counted(OnBudget::Halt) };
        let number = asked(&story).number;
        let again_at = START + Duration::HOUR;
        let words = story.tell(vec![Input::Exhausted { scope, number, again_at }]);
        assert_eq!(words, [format!("Ended(HALTED {reason})")]);
        assert_eq!(story.driver.state.phase, Phase::Ended(RunState::Halted));
    }
}

#[test]
fn a_run_that_waits_for_a_budget_is_parked_until_it_is_renewed() {
    for early in [true, false] {
        let mut story = if early { begun(OnBudget::Wait) } else { counted(OnBudget::Wait) };
        let (lack, again_at) = (asked(&story), START + story.at + Duration::seconds(40));
        let exhausted = Input::Exhausted { scope: lack.scope, number: lack.number, again_at };
        assert_eq!(story.tell(vec![exhausted.clone()]), ["Waiting"]);
        let state = &story.driver.state;
        assert!(state.is_parked() && state.wake_at() == Some(again_at), "{:?}", state.phase);
        assert!(matches!(state.phase, Phase::Waiting(WaitReason::Budget) | Phase::Pending(Some(WaitReason::Budget))));
        assert_eq!(story.tell(vec![Input::Timer]), [] as [String; 0], "before its time nothing is asked");
        assert_eq!(story.effects, []);
        story.at += Duration::seconds(50);
        assert_eq!(story.tell(vec![Input::Timer]), ["Resumed"]);
        assert_eq!(asked(&story), lack, "the same is asked again");
        assert_eq!(story.tell(vec![exhausted]), ["Waiting"]);
    }
}

#[test]
fn a_takeover_asks_again() {
    let mut story = begun(OnBudget::Halt);
    let lack = asked(&story);
    story.tell(vec![Input::Claimed { epoch: 2, owner: "replica-2".to_owned(), unattended_since: None }]);
    assert_eq!(asked(&story), lack);
    let mut story = counted(OnBudget::Halt);
    let lack = asked(&story);
    story.tell(vec![Input::Claimed { epoch: 2, owner: "replica-2".to_owned(), unattended_since: None }]);
    assert_eq!(asked(&story), lack);
}

#[test]
fn a_budget_that_cannot_be_asked_is_waited_for() {
    let mut story = counted(OnBudget::Halt);
    let lack = asked(&story);
    let delayed = || Input::SliceDelayed { dependency: "budget counters".to_owned() };
    assert_eq!(story.tell(vec![delayed()]), ["Waiting"]);
    assert_eq!(story.tell(vec![delayed()]), [] as [String; 0]);
    let cost = lack.least;
    story.tell(vec![granted(&lack, cost)]);
    let lack = asked(&story);
    let words = story.tell(vec![granted(&lack, cost)]);
    assert_eq!(words.last().map(String::as_str), Some("Started(1.1)"), "{words:?}");
    assert!(words.contains(&"Resumed".to_owned()), "{words:?}");
}

/// Who lets go of it would lose the answer, and nothing would wake it before it expires.
#[test]
fn a_run_that_asks_for_a_slice_when_its_caller_is_back_is_not_let_go_of() {
    let mut story = counted(OnBudget::Halt);
    let cost = story.driver.state.generation_reservation(1).cost_nano_usd;
    for _ in BOTH {
        let lack = asked(&story);
        story.tell(vec![granted(&lack, cost)]);
    }
    story.tell(vec![turn(1, 1, vec![ask(PICK, "p0")])]);
    let words = story.tell(vec![handed(&call_id(1, 0), 1, WaitReason::ToolResult)]);
    assert_eq!(words, ["Handed(1/0)", "Waiting"]);
    assert!(story.driver.state.is_parked(), "its caller has it");
    assert_eq!(story.tell(vec![command(1, result_of_caller(&call_id(1, 0)))]), ["Returned(1/0 OK)"]);
    let lack = asked(&story);
    assert!(!story.driver.state.is_parked(), "a slice is being asked for");
    let words = story.tell(vec![granted(&lack, lack.want)]);
    let lack = asked(&story);
    assert!(words.len() == 1 && !story.driver.state.is_parked(), "{words:?}");
    let words = story.tell(vec![granted(&lack, lack.want)]);
    assert_eq!(words.last().map(String::as_str), Some("Started(2.1)"), "{words:?}");
}
