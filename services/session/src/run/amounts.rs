//! Arithmetic of counted things. Everything saturates: a limit is at most 10^15, so a sum never wraps into room.

use std::ops::{Add, Sub};

use mar_proto::session::Reservation;
use mar_proto::types::Usage;

use crate::counters::Amounts;

impl Add for Amounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, i64::saturating_add)
    }
}

impl Sub for Amounts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(other, i64::saturating_sub)
    }
}

impl Amounts {
    /// The same operation on each amount of both.
    pub(crate) fn zip(self, other: Self, op: impl Fn(i64, i64) -> i64) -> Self {
        Self {
            steps: op(self.steps, other.steps),
            tool_calls: op(self.tool_calls, other.tool_calls),
            input_tokens: op(self.input_tokens, other.input_tokens),
            output_tokens: op(self.output_tokens, other.output_tokens),
            cost_nano_usd: op(self.cost_nano_usd, other.cost_nano_usd),
        }
    }

    /// The greater of each amount.
    pub fn max(self, other: Self) -> Self {
        self.zip(other, i64::max)
    }

    /// Whether nothing is counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Tokens and cost of a settled call.
    pub fn of_usage(usage: &Usage) -> Self {
        Self {
            input_tokens: input_tokens(usage),
            output_tokens: output_tokens(usage),
            cost_nano_usd: usage.cost_nano_usd,
            ..Self::default()
        }
    }

    /// As the log has it.
    pub fn to_reservation(self) -> Reservation {
        Reservation {
            steps: self.steps,
            tool_calls: self.tool_calls,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost_nano_usd: self.cost_nano_usd,
        }
    }

    /// From the log.
    pub fn of_reservation(reservation: &Reservation) -> Self {
        Self {
            steps: reservation.steps,
            tool_calls: reservation.tool_calls,
            input_tokens: reservation.input_tokens,
            output_tokens: reservation.output_tokens,
            cost_nano_usd: reservation.cost_nano_usd,
        }
    }

    /// Tokens and cost as usage of one input and one output class.
    pub fn to_usage(self, estimated: bool) -> Usage {
        Usage {
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost_nano_usd: self.cost_nano_usd,
            estimated,
            ..Usage::default()
        }
    }
}

/// Input tokens of all classes.
pub fn input_tokens(usage: &Usage) -> i64 {
    usage.input_tokens.saturating_add(usage.cached_input_tokens).saturating_add(usage.cache_write_tokens)
}

/// Output tokens, reasoning included.
pub fn output_tokens(usage: &Usage) -> i64 {
    usage.output_tokens.saturating_add(usage.reasoning_tokens)
}

/// Adds class by class.
pub fn add_usage(total: &mut Usage, more: &Usage) {
    total.input_tokens = total.input_tokens.saturating_add(more.input_tokens);
    total.cached_input_tokens = total.cached_input_tokens.saturating_add(more.cached_input_tokens);
    total.cache_write_tokens = total.cache_write_tokens.saturating_add(more.cache_write_tokens);
    total.output_tokens = total.output_tokens.saturating_add(more.output_tokens);
    total.reasoning_tokens = total.reasoning_tokens.saturating_add(more.reasoning_tokens);
    total.cost_nano_usd = total.cost_nano_usd.saturating_add(more.cost_nano_usd);
    total.estimated |= more.estimated;
}
