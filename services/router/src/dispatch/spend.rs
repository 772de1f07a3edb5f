//! What a logical call has used so far, and what is left of its budget.

use super::{Budget, Choice};
use crate::price::Tokens;
use crate::provider::{Consumed, Failure};

/// The account of one logical call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spend {
    /// Tokens of all attempts.
    pub tokens: Tokens,
    /// What they cost, in nano-USD.
    pub cost_nano_usd: i64,
    /// Some of it was counted here.
    pub estimated: bool,
}

impl Spend {
    /// Whether the budget still covers an attempt.
    pub(super) fn covers(&self, budget: &Budget, choice: &Choice) -> bool {
        let input = self.tokens.all_input().saturating_add(choice.input_tokens);
        let most = choice.price.most(choice.input_tokens, choice.max_output_tokens);
        input <= budget.max_input_tokens && self.cost_nano_usd.saturating_add(most) <= budget.max_cost_nano_usd
    }

    /// Adds what an attempt used.
    pub(super) fn add(&mut self, choice: &Choice, tokens: Tokens, estimated: bool) {
        let sum = &mut self.tokens;
        sum.input = sum.input.saturating_add(tokens.input);
        sum.cached_input = sum.cached_input.saturating_add(tokens.cached_input);
        sum.output = sum.output.saturating_add(tokens.output);
        sum.reasoning = sum.reasoning.saturating_add(tokens.reasoning);
        self.cost_nano_usd = self.cost_nano_usd.saturating_add(choice.price.cost(tokens));
        self.estimated |= estimated;
    }

    /// Adds what a failed attempt may have used: its input, where the provider may have read it, and the output that came.
    pub(super) fn add_failed(&mut self, choice: &Choice, failure: &Failure, output: Tokens) {
        if failure.consumed == Consumed::Input {
            self.add(choice, Tokens { input: choice.input_tokens, ..output }, true);
        }
    }
}
