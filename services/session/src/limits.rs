//! The halting policy of a run: what the task asks for over the operator's defaults, within the operator's maxima.

use mar_proto::types::{HaltingPolicy, OnBudget};
use mar_runtime::violations::Violations;
use prost_types::Duration;

use crate::blobs::BlobLimits;
use crate::runs::Limits;

const DAY: i64 = 86_400;

impl Default for Limits {
    fn default() -> Self {
        Self {
            default: policy([16, 64, 0, 1_000_000, 200_000, 1_000_000_000], 15 * 60, DAY),
            history_tokens: 8_192,
            blobs: BlobLimits::default(),
            max: policy([1_000, 10_000, 8, 1_000_000_000, 1_000_000_000, 1_000_000_000_000_000], DAY, 30 * DAY),
        }
    }
}

/// Steps, tool calls, depth, input tokens, output tokens, cost; seconds active and to expiry.
fn policy(counts: [i64; 6], active: i64, expire: i64) -> HaltingPolicy {
    let [steps, tool_calls, depth, input_tokens, output_tokens, cost] = counts;
    HaltingPolicy {
        max_steps: Some(steps),
        max_tool_calls: Some(tool_calls),
        max_active_time: Some(Duration { seconds: active, nanos: 0 }),
        expire_after: Some(Duration { seconds: expire, nanos: 0 }),
        max_depth: Some(depth),
        max_input_tokens: Some(input_tokens),
        max_output_tokens: Some(output_tokens),
        max_cost_nano_usd: Some(cost),
        on_budget: OnBudget::Halt.into(),
    }
}

impl Limits {
    /// The complete limits of a task. Absurd values are recorded, and the rest is looked at all the same.
    pub fn complete(&self, wish: Option<&HaltingPolicy>, found: &mut Violations) -> HaltingPolicy {
        let none = HaltingPolicy::default();
        let (wish, default, max) = (wish.unwrap_or(&none), &self.default, &self.max);
        let mut count = |field, wish: Option<i64>, default: Option<i64>, least, max: Option<i64>| {
            let value = wish.or(default).unwrap_or(least);
            let most = max.unwrap_or(i64::MAX);
            found.require((least..=most).contains(&value), field, format!("must be {least} to {most}"));
            Some(value)
        };
        HaltingPolicy {
            max_steps: count("max_steps", wish.max_steps, default.max_steps, 1, max.max_steps),
            max_tool_calls: count("max_tool_calls", wish.max_tool_calls, default.max_tool_calls, 0, max.max_tool_calls),
            max_depth: count("max_depth", wish.max_depth, default.max_depth, 0, max.max_depth),
            max_input_tokens: count(
                "max_input_tokens",
                wish.max_input_tokens,
                default.max_input_tokens,
                1,
                max.max_input_tokens,
            ),
            max_output_tokens: count(
                "max_output_tokens",
                wish.max_output_tokens,
                default.max_output_tokens,
                1,
                max.max_output_tokens,
            ),
            max_cost_nano_usd: count(
                "max_cost_nano_usd",
                wish.max_cost_nano_usd,
                default.max_cost_nano_usd,
                0,
                max.max_cost_nano_usd,
            ),
            max_active_time: span(
                "max_active_time",
                wish.max_active_time,
                default.max_active_time,
                max.max_active_time,
                found,
            ),
            expire_after: span("expire_after", wish.expire_after, default.expire_after, max.expire_after, found),
            on_budget: on_budget(wish.on_budget, default.on_budget, found),
        }
    }
}

fn span(
    field: &str,
    wish: Option<Duration>,
    default: Option<Duration>,
    max: Option<Duration>,
    found: &mut Violations,
) -> Option<Duration> {
    let value = wish.or(default)?;
    let most = max.map_or(i64::MAX, |max| max.seconds);
    let fits = (0..1_000_000_000).contains(&value.nanos)
        && value.seconds >= 1
        && (value.seconds < most || (value.seconds == most && value.nanos == 0));
    found.require(fits, field, format!("must be 1 s to {most} s"));
    Some(value)
}

fn on_budget(wish: i32, default: i32, found: &mut Violations) -> i32 {
    match OnBudget::try_from(wish) {
        Ok(OnBudget::Unspecified) => default,
        Ok(OnBudget::Halt | OnBudget::Wait) => wish,
        Err(_) => {
            found.field("on_budget", "must be HALT or WAIT");
            default
        }
    }
}
