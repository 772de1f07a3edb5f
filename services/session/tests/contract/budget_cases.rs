//! Window budgets: the same answers from every implementation.

use mar_session::counters::budget::{
    Budget, BudgetRebuild, GiveBack, Grant, Granted, Slice, Spend, Spent, Threshold, Window,
};
use mar_session::counters::{Counters, Error, MAX_AMOUNT};
use uuid::Uuid;

use crate::counter_cases::Subject;
use crate::rows::id;

const DAY: Window = Window::Day(30_000);

pub const fn spend(cost_nano_usd: i64, runs: i64) -> Spend {
    Spend { cost_nano_usd, runs }
}

pub fn slice(budget: &Budget) -> Slice {
    Slice {
        budget: budget.clone(),
        window: DAY,
        generation: 1,
        id: id(),
        limit: spend(1_000, 5),
        want: spend(300, 1),
        least: spend(100, 1),
    }
}

pub fn rebuild(budget: &Budget, generation: i64, open: Vec<(Uuid, Spend)>) -> BudgetRebuild {
    BudgetRebuild { budget: budget.clone(), window: DAY, generation, closed: spend(0, 0), open, recorded: [0, 0] }
}

/// An empty budget of generation 1.
async fn begun(counters: &dyn Counters) -> Budget {
    let budget = Budget::session(id());
    counters.rebuild_budget(&rebuild(&budget, 1, Vec::new())).await.unwrap();
    budget
}

async fn granted(counters: &dyn Counters, slice: &Slice) -> Grant {
    counters.grant(slice).await.unwrap()
}

async fn assert_lost(counters: &dyn Counters, slice: &Slice, generation: i64) {
    let answer = counters.grant(slice).await;
    assert!(matches!(answer, Err(Error::BudgetLost(kept)) if kept == generation), "{answer:?}");
}

const fn reached(of: Spent, percent: u8) -> Threshold {
    Threshold { of, percent }
}

pub async fn a_window_begins_with_a_rebuild(subject: Subject) {
    let budget = Budget::tenant(&format!("a b}}{{{}", id()));
    assert_lost(&*subject.counters, &slice(&budget), -1).await;
    subject.counters.rebuild_budget(&rebuild(&budget, 1, Vec::new())).await.unwrap();
    let answer = granted(&*subject.counters, &slice(&budget)).await;
    assert_eq!((answer.verdict, answer.used), (Granted::Slice(spend(300, 1)), spend(300, 1)));
    assert_eq!(answer.limit, spend(1_000, 5));
}

pub async fn slices_are_granted_until_the_end(subject: Subject) {
    let counters = &*subject.counters;
    let budget = begun(counters).await;
    for used in [300, 600, 900] {
        assert_eq!(granted(counters, &slice(&budget)).await.used.cost_nano_usd, used);
    }
    // 100 are left, which is the least.
    let last = granted(counters, &slice(&budget)).await;
    assert_eq!((last.verdict, last.used), (Granted::Slice(spend(100, 1)), spend(1_000, 4)));
    let none = granted(counters, &slice(&budget)).await;
    assert_eq!((none.verdict, none.used), (Granted::Exhausted(Spent::Cost), spend(1_000, 4)));
    let free = Slice { want: spend(0, 1), least: spend(0, 1), ..slice(&budget) };
    assert_eq!(granted(counters, &free).await.verdict, Granted::Slice(spend(0, 1)));
    let free = Slice { id: id(), ..free };
    assert_eq!(granted(counters, &free).await.verdict, Granted::Exhausted(Spent::Runs));
    // The operator raised the limit.
    let raised = Slice { limit: spend(1_000, 6), ..free };
    assert_eq!(granted(counters, &raised).await.verdict, Granted::Slice(spend(0, 1)));
}

pub async fn a_grant_is_repeated_without_effect(subject: Subject) {
    let counters = &*subject.counters;
    let budget = begun(counters).await;
    let one = Slice { want: spend(600, 1), ..slice(&budget) };
    let answer = granted(counters, &one).await;
    assert_eq!(answer.crossed, [reached(Spent::Cost, 50)]);
    assert_eq!(granted(counters, &one).await, answer);
    granted(counters, &slice(&budget)).await;
    let again = granted(counters, &one).await;
    assert_eq!((again.verdict, again.crossed, again.used), (answer.verdict, answer.crossed, spend(900, 2)));
}

pub async fn what_is_given_back_can_be_granted(subject: Subject) {
    let counters = &*subject.counters;
    let budget = begun(counters).await;
    let whole = Slice { want: spend(1_000, 1), ..slice(&budget) };
    granted(counters, &whole).await;
    let back = GiveBack { budget: budget.clone(), window: DAY, id: whole.id, unused: spend(250, 0) };
    for _ in 0..2 {
        counters.give_back(&back).await.unwrap();
    }
    let next = granted(counters, &slice(&budget)).await;
    assert_eq!((next.verdict, next.used), (Granted::Slice(spend(250, 1)), spend(1_000, 2)));
    // Never more than was granted; and what is not known is nothing.
    let unknown = GiveBack { id: id(), unused: spend(9_999, 9), ..back.clone() };
    counters.give_back(&unknown).await.unwrap();
    let next = Slice { want: spend(10, 0), least: spend(1, 0), ..slice(&budget) };
    assert_eq!(granted(counters, &next).await.verdict, Granted::Exhausted(Spent::Cost));
    let nowhere = GiveBack { budget: Budget::session(id()), ..back };
    counters.give_back(&nowhere).await.unwrap();
}

pub async fn thresholds_are_crossed_once(subject: Subject) {
    let counters = &*subject.counters;
    let budget = begun(counters).await;
    let take = |cost, runs| Slice { want: spend(cost, runs), least: spend(cost, runs), ..slice(&budget) };
    assert_eq!(granted(counters, &take(499, 2)).await.crossed, []);
    let half = take(1, 1);
    assert_eq!(granted(counters, &half).await.crossed, [reached(Spent::Cost, 50), reached(Spent::Runs, 50)]);
    let back = GiveBack { budget: budget.clone(), window: DAY, id: half.id, unused: spend(1, 1) };
    counters.give_back(&back).await.unwrap();
    assert_eq!(granted(counters, &take(1, 1)).await.crossed, []);
    assert_eq!(
        granted(counters, &take(500, 1)).await.crossed,
        [reached(Spent::Cost, 80), reached(Spent::Cost, 100), reached(Spent::Runs, 80)]
    );
    // After a loss, what is recorded is not crossed again.
    let open = vec![(id(), spend(700, 2))];
    let lost = BudgetRebuild { recorded: [50, 80], ..rebuild(&budget, 2, open) };
    counters.rebuild_budget(&lost).await.unwrap();
    let more = Slice { generation: 2, ..take(100, 1) };
    assert_eq!(granted(counters, &more).await.crossed, [reached(Spent::Cost, 80)]);
    let none = Slice { limit: spend(MAX_AMOUNT, i64::MAX), generation: 2, ..take(100, 1) };
    assert_eq!(granted(counters, &none).await.crossed, []);
}

pub async fn another_generation_is_lost(subject: Subject) {
    let counters = &*subject.counters;
    let budget = begun(counters).await;
    let late = Slice { generation: 0, ..slice(&budget) };
    assert_lost(counters, &late, 1).await;
    let ahead = Slice { generation: 2, ..slice(&budget) };
    assert_lost(counters, &ahead, 1).await;
    let closed = BudgetRebuild { closed: spend(650, 2), ..rebuild(&budget, 2, vec![(id(), spend(300, 1))]) };
    counters.rebuild_budget(&closed).await.unwrap();
    assert_lost(counters, &slice(&budget), 2).await;
    let small = Slice { least: spend(50, 1), ..ahead };
    let answer = granted(counters, &small).await;
    assert_eq!((answer.verdict, answer.used), (Granted::Slice(spend(50, 1)), spend(1_000, 4)));
}

pub async fn the_first_rebuild_of_a_generation_wins(subject: Subject) {
    let counters = &*subject.counters;
    let budget = begun(counters).await;
    let known = id();
    let first = rebuild(&budget, 3, vec![(known, spend(400, 1))]);
    counters.rebuild_budget(&first).await.unwrap();
    let one = Slice { generation: 3, ..slice(&budget) };
    assert_eq!(granted(counters, &one).await.used, spend(700, 2));
    for generation in [3, 2] {
        counters.rebuild_budget(&rebuild(&budget, generation, Vec::new())).await.unwrap();
    }
    assert_eq!(granted(counters, &one).await.used, spend(700, 2));
    // A grant that was rebuilt is repeated, and can be given back.
    let repeated = granted(counters, &Slice { id: known, ..one }).await;
    assert_eq!((repeated.verdict, repeated.used), (Granted::Slice(spend(400, 1)), spend(700, 2)));
    let back = GiveBack { budget: budget.clone(), window: DAY, id: known, unused: spend(400, 0) };
    counters.give_back(&back).await.unwrap();
    let next = Slice { generation: 3, ..slice(&budget) };
    assert_eq!(granted(counters, &next).await.used, spend(600, 3));
}

pub async fn budgets_are_apart(subject: Subject) {
    let counters = &*subject.counters;
    let (one, other) = (begun(counters).await, begun(counters).await);
    granted(counters, &slice(&one)).await;
    assert_eq!(granted(counters, &slice(&other)).await.used, spend(300, 1));
    for window in [Window::Day(30_001), Window::Lifetime] {
        let next = Slice { window, ..slice(&one) };
        assert_lost(counters, &next, -1).await;
        counters.rebuild_budget(&BudgetRebuild { window, ..rebuild(&one, 1, Vec::new()) }).await.unwrap();
        assert_eq!(granted(counters, &next).await.used, spend(300, 1));
    }
    assert_eq!(granted(counters, &slice(&one)).await.used, spend(600, 2));
}

pub async fn bad_slices_are_refused(subject: Subject) {
    let counters = &*subject.counters;
    let budget = begun(counters).await;
    let good = slice(&budget);
    let bad = [
        Slice { window: Window::Day(-1), ..good.clone() },
        Slice { window: Window::Day(i64::MAX), ..good.clone() },
        Slice { generation: -1, ..good.clone() },
        Slice { limit: spend(-1, 0), ..good.clone() },
        Slice { want: spend(MAX_AMOUNT + 1, 1), ..good.clone() },
        Slice { want: spend(1, 1), ..good.clone() },
        Slice { least: spend(-1, 1), ..good.clone() },
    ];
    for slice in bad {
        let answer = counters.grant(&slice).await;
        assert!(matches!(answer, Err(Error::OutOfBounds(_))), "{slice:?}: {answer:?}");
    }
    let twice = vec![(good.id, spend(1, 1)); 2];
    let answer = counters.rebuild_budget(&rebuild(&budget, 9, twice)).await;
    assert!(matches!(answer, Err(Error::OutOfBounds(_))), "{answer:?}");
    let back = GiveBack { budget: budget.clone(), window: DAY, id: good.id, unused: spend(-1, 0) };
    assert!(matches!(counters.give_back(&back).await, Err(Error::OutOfBounds(_))));
    assert_eq!(granted(counters, &good).await.used, spend(300, 1));
}
