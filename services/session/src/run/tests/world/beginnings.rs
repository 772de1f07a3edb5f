//! What a run begins with.

use mar_proto::session::History;
use mar_proto::types::{HaltingPolicy, OnBudget};

use crate::counters::Amounts;
use crate::run::tests::dice::Dice;
use crate::run::tests::driver::Driver;
use crate::run::tests::{fixture, looking_back};

/// What a run sees of earlier ones: those that read much see much of it.
pub fn seen(scholar: bool, dice: &mut Dice) -> Option<History> {
    let all = [looking_back::three_turns(), looking_back::with_a_summary(), looking_back::all_shown()];
    (scholar && dice.once_in(3)).then(|| dice.of(&all))
}

/// A child run that will have to draw.
pub fn small(limits: HaltingPolicy, dice: &mut Dice) -> Driver {
    let few = HaltingPolicy {
        max_steps: Some(dice.of(&[1, 2])),
        max_tool_calls: Some(dice.of(&[0, 1])),
        max_input_tokens: Some(dice.of(&[1, 6_000, 20_000])),
        max_output_tokens: Some(dice.of(&[1, 120])),
        max_cost_nano_usd: Some(dice.of(&[0, 80_000_000])),
        ..limits
    };
    let many = dice.of(&[8, 2, 0]);
    let pool = Amounts {
        steps: many,
        tool_calls: 2 * many,
        input_tokens: 20_000 * many,
        output_tokens: 200 * many,
        cost_nano_usd: 100_000_000 * many,
    };
    Driver::child(few, pool)
}

/// Limits of all sizes; most of them wide, or no history would go far.
pub fn limits(dice: &mut Dice) -> HaltingPolicy {
    let on_budget = dice.of(&[OnBudget::Halt, OnBudget::Wait]);
    let mut one = |wide: i64, narrow: &[i64]| if dice.once_in(6) { dice.of(narrow) } else { wide };
    HaltingPolicy {
        max_depth: Some(if one(1, &[0]) == 0 { 0 } else { 2 }),
        max_steps: Some(one(16, &[5, 3, 2, 1])),
        max_tool_calls: Some(one(64, &[6, 3, 1, 0])),
        max_active_time: Some(fixture::seconds(one(60, &[10, 1]))),
        expire_after: Some(fixture::seconds(one(600, &[30, 2]))),
        max_input_tokens: Some(one(10_000_000, &[30_000, 6_000, 1_000])),
        max_output_tokens: Some(one(1_000_000, &[500, 150, 50])),
        max_cost_nano_usd: Some(one(1_000_000_000_000, &[80_000_000, 20_000_000, 0])),
        on_budget: on_budget.into(),
    }
}
