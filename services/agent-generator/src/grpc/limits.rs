//! The run's limits. Session has filled them in and checked them; they are sealed, so they are checked again.

use std::ops::RangeInclusive;

use mar_descriptor::HaltingSection;
use mar_descriptor::descriptor::{ON_BUDGET_HALT, ON_BUDGET_WAIT};
use mar_proto::types::{HaltingPolicy, OnBudget};
use mar_runtime::violations::Violations;
use prost_types::Duration;

const SECOND_MS: i64 = 1_000;
const DAY_MS: i64 = 24 * 3_600 * SECOND_MS;

/// A value that is missing or out of range is recorded, and the rest is looked at all the same.
pub(super) fn read(limits: Option<HaltingPolicy>, found: &mut Violations) -> HaltingSection {
    let Some(limits) = limits else {
        found.field("limits", "must be given");
        return HaltingSection::default();
    };
    found.within("limits", |found| {
        // The end of a run is no part of what its agent is, but it has to be there.
        millis(limits.expire_after, "expire_after", SECOND_MS..=30 * DAY_MS, found);
        HaltingSection {
            max_steps: count(limits.max_steps, "max_steps", 1..=1_000, found),
            max_tool_calls: count(limits.max_tool_calls, "max_tool_calls", 0..=10_000, found),
            max_active_time_ms: millis(limits.max_active_time, "max_active_time", SECOND_MS..=DAY_MS, found),
            max_depth: count(limits.max_depth, "max_depth", 0..=8, found),
            max_input_tokens: count(limits.max_input_tokens, "max_input_tokens", 1..=1_000_000_000, found),
            max_output_tokens: count(limits.max_output_tokens, "max_output_tokens", 1..=1_000_000_000, found),
            max_cost_nano_usd: count(limits.max_cost_nano_usd, "max_cost_nano_usd", 0..=1_000_000_000_000_000, found),
            on_budget: on_budget(limits.on_budget, found).to_owned(),
        }
    })
}

fn count(value: Option<i64>, field: &str, range: RangeInclusive<i64>, found: &mut Violations) -> i64 {
    let fits = value.is_some_and(|value| range.contains(&value));
    found.require(fits, field, format!("must be given, {} to {}", range.start(), range.end()));
    value.unwrap_or_default()
}

fn millis(value: Option<Duration>, field: &str, range: RangeInclusive<i64>, found: &mut Violations) -> i64 {
    let whole = value.and_then(|span| {
        let millis = span.seconds.checked_mul(SECOND_MS)?;
        (0..1_000_000_000).contains(&span.nanos).then_some(millis)?.checked_add(i64::from(span.nanos / 1_000_000))
    });
    let fits = whole.is_some_and(|millis| range.contains(&millis));
    let (least, most) = (range.start() / SECOND_MS, range.end() / SECOND_MS);
    found.require(fits, field, format!("must be given, {least} s to {most} s"));
    whole.unwrap_or_default()
}

fn on_budget(value: i32, found: &mut Violations) -> &'static str {
    match OnBudget::try_from(value) {
        Ok(OnBudget::Unspecified | OnBudget::Halt) => ON_BUDGET_HALT,
        Ok(OnBudget::Wait) => ON_BUDGET_WAIT,
        Err(_) => {
            found.field("on_budget", "must be HALT or WAIT");
            ON_BUDGET_HALT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_one_sign_and_bounds() {
        let read = |seconds, nanos| {
            let mut found = Violations::new();
            let span = Duration { seconds, nanos };
            let value = millis(Some(span), "x", SECOND_MS..=DAY_MS, &mut found);
            found.is_empty().then_some(value)
        };
        assert_eq!(read(1, 0), Some(1_000));
        assert_eq!(read(1, 999_999_999), Some(1_999));
        assert_eq!(read(86_400, 0), Some(DAY_MS));
        for (seconds, nanos) in
            [(0, 999_999_999), (86_400, 1_000_000), (-1, 0), (2, -1), (2, 1_000_000_000), (i64::MAX, 0)]
        {
            assert_eq!(read(seconds, nanos), None, "{seconds} {nanos}");
        }
    }
}
