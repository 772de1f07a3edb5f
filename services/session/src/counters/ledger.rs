//! The arithmetic of a change, without a place to keep it. `advance.lua` says the same in Redis; one property test
//! drives both.

use super::{Advance, Amounts, Answer, Error, Limit, MAX_AMOUNT, Verdict};

/// Largest epoch and position: beyond it Redis would round.
const MAX_NUMBER: i64 = 1 << 53;

/// What counters remember of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    epoch: i64,
    seq: i64,
    answer: Answer,
}

impl Amounts {
    /// In the order in which limits are checked.
    pub(crate) const fn in_order(self) -> [i64; 5] {
        [self.steps, self.tool_calls, self.input_tokens, self.output_tokens, self.cost_nano_usd]
    }

    /// The inverse of [`Self::in_order`].
    pub(super) const fn from_order([steps, tool_calls, input_tokens, output_tokens, cost_nano_usd]: [i64; 5]) -> Self {
        Self { steps, tool_calls, input_tokens, output_tokens, cost_nano_usd }
    }

    /// The sum, saturated at the bound.
    fn plus(self, other: Self) -> Self {
        let (mut sum, other) = (self.in_order(), other.in_order());
        for (a, b) in sum.iter_mut().zip(other) {
            *a = a.saturating_add(b).clamp(-MAX_AMOUNT, MAX_AMOUNT);
        }
        Self::from_order(sum)
    }
}

impl Limit {
    /// All of them, in the order in which they are checked.
    pub(super) const IN_ORDER: [Self; 5] =
        [Self::Steps, Self::ToolCalls, Self::InputTokens, Self::OutputTokens, Self::Cost];
}

/// Refuses a change whose numbers no implementation counts exactly.
pub(super) fn check(change: &Advance) -> Result<(), Error> {
    let within = |amounts: Amounts, low: i64| amounts.in_order().iter().all(|a| (low..=MAX_AMOUNT).contains(a));
    let checks = [
        ("epoch", (0..=MAX_NUMBER).contains(&change.epoch)),
        ("seq", (0..=MAX_NUMBER).contains(&change.seq)),
        ("last seq", (-1..change.seq).contains(&change.last_seq)),
        ("totals", within(change.totals, -MAX_AMOUNT)),
        ("settlement", within(change.settle, -MAX_AMOUNT)),
        ("reservation", within(change.reserve, 0)),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(Error::OutOfBounds(what)),
        None => Ok(()),
    }
}

/// What the counters keep after a change that passed [`check`], and what they say of it.
pub(super) fn advance(kept: Option<Kept>, change: &Advance) -> Result<(Kept, Answer), Error> {
    let (before, rebuilt) = match kept {
        Some(kept) if change.epoch < kept.epoch => return Err(Error::Stale(change.epoch, kept.epoch)),
        Some(kept) if (change.epoch, change.seq) == (kept.epoch, kept.seq) => return Ok((kept, kept.answer)),
        Some(kept) if kept.seq == change.last_seq => (kept.answer.used, None),
        Some(kept) => (change.totals, Some(kept.seq)),
        None if change.last_seq == -1 => (change.totals, None),
        None => (change.totals, Some(-1)),
    };
    let settled = before.plus(change.settle);
    let (verdict, used) = match exceeded(settled, change) {
        Some(limit) => (Verdict::Refused(limit), settled),
        None => (Verdict::Granted, settled.plus(change.reserve)),
    };
    let answer = Answer { verdict, used, rebuilt };
    Ok((Kept { epoch: change.epoch, seq: change.seq, answer }, answer))
}

/// The first limit that the reservation would exceed.
fn exceeded(used: Amounts, change: &Advance) -> Option<Limit> {
    let (used, reserve, limits) = (used.in_order(), change.reserve.in_order(), change.limits.in_order());
    (0..5).find(|&i| reserve[i] > 0 && used[i] + reserve[i] > limits[i].min(MAX_AMOUNT)).map(|i| Limit::IN_ORDER[i])
}
