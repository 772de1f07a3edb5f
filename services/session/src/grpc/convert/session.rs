//! What a session may be.

use mar_proto::session::{Session, SessionBudget};
use mar_runtime::violations::Violations;

use crate::config::tenant::IDLE;
use crate::counters::MAX_AMOUNT;
use crate::sessions::span;

const MAX_PURPOSE_CHARS: usize = 256;
const MAX_RUNS: i64 = 1_000_000;

/// Records what breaks the rules of `Session`.
pub fn check(session: &Session, found: &mut Violations) {
    let chars = session.purpose.chars().count();
    found.require(chars <= MAX_PURPOSE_CHARS, "purpose", format!("must have at most {MAX_PURPOSE_CHARS} characters"));
    mar_task::check_labels(&session.labels, found);
    if let Some(idle) = &session.idle_timeout {
        let fits = span(idle).is_some_and(|idle| (IDLE.0..=IDLE.1).contains(&idle));
        found.require(fits, "idle_timeout", "must be 1 s to 30 days");
    }
    if let Some(budget) = &session.budget {
        found.within("budget", |found| check_budget(budget, found));
    }
}

fn check_budget(budget: &SessionBudget, found: &mut Violations) {
    let cost = budget.max_cost_nano_usd.is_none_or(|cost| (0..=MAX_AMOUNT).contains(&cost));
    found.require(cost, "max_cost_nano_usd", format!("must be 0 to {MAX_AMOUNT}"));
    let runs = budget.max_runs.is_none_or(|runs| (1..=MAX_RUNS).contains(&runs));
    found.require(runs, "max_runs", format!("must be 1 to {MAX_RUNS}"));
}
