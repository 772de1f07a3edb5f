//! What a session may be.

use mar_proto::session::{Session, SessionBudget};
use mar_runtime::violations::Violations;

use crate::counters::MAX_AMOUNT;

const MAX_PURPOSE_CHARS: usize = 256;
const MAX_RUNS: i64 = 1_000_000;
const NOT_SERVED: &str = "is not served by this version";

/// Records what breaks the rules of `Session`.
pub fn check(session: &Session, found: &mut Violations) {
    let chars = session.purpose.chars().count();
    found.require(chars <= MAX_PURPOSE_CHARS, "purpose", format!("must have at most {MAX_PURPOSE_CHARS} characters"));
    mar_task::check_labels(&session.labels, found);
    // What does not bind yet is refused: a limit that is taken and not kept is worse than none.
    found.require(session.idle_timeout.is_none(), "idle_timeout", NOT_SERVED);
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
