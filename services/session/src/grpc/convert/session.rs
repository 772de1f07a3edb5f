//! What a session may be.

use mar_proto::session::Session;
use mar_runtime::violations::Violations;

const MAX_PURPOSE_CHARS: usize = 256;
const MAX_BUDGET: i64 = 1_000_000_000_000_000;
const MAX_RUNS: i64 = 1_000_000;
/// Idle time of a session, in seconds.
const IDLE: std::ops::RangeInclusive<i64> = 60..=30 * 86_400;

/// Records what breaks the rules of `Session`.
pub fn check(session: &Session, found: &mut Violations) {
    let chars = session.purpose.chars().count();
    found.require(chars <= MAX_PURPOSE_CHARS, "purpose", format!("must have at most {MAX_PURPOSE_CHARS} characters"));
    mar_task::check_labels(&session.labels, found);
    if let Some(idle) = &session.idle_timeout {
        let fits = IDLE.contains(&idle.seconds) && (0..1_000_000_000).contains(&idle.nanos);
        found.require(fits, "idle_timeout", "must be 1 min to 30 days");
    }
    if let Some(budget) = &session.budget {
        let cost = budget.max_cost_nano_usd.is_none_or(|cost| (0..=MAX_BUDGET).contains(&cost));
        found.require(cost, "budget.max_cost_nano_usd", format!("must be 0 to {MAX_BUDGET}"));
        let runs = budget.max_runs.is_none_or(|runs| (1..=MAX_RUNS).contains(&runs));
        found.require(runs, "budget.max_runs", format!("must be 1 to {MAX_RUNS}"));
    }
}
