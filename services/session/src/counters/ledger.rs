//! The arithmetic of a change, without a place to keep it. `advance.lua` says the same in Redis; one property test
//! drives both.

use super::{Advance, Amounts, Answer, Carve, Error, Limit, MAX_AMOUNT, Verdict, pool::check_pool};

/// Largest epoch and position: beyond it Redis would round.
pub(super) const MAX_NUMBER: i64 = 1 << 53;

/// What counters remember of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    epoch: i64,
    seq: i64,
    answer: Answer,
}

impl Kept {
    /// The position of the last change.
    pub(super) const fn seq(&self) -> i64 {
        self.seq
    }

    pub(super) const fn epoch(&self) -> i64 {
        self.epoch
    }

    pub(super) const fn answer(&self) -> Answer {
        self.answer
    }

    /// What is used after it.
    pub(super) const fn used(&self) -> Amounts {
        self.answer.used
    }
}

impl Amounts {
    /// In the order in which limits are checked.
    pub(crate) const fn in_order(self) -> [i64; 5] {
        [self.steps, self.tool_calls, self.input_tokens, self.output_tokens, self.cost_nano_usd]
    }

    /// The inverse of [`Self::in_order`].
    pub(crate) const fn from_order([steps, tool_calls, input_tokens, output_tokens, cost_nano_usd]: [i64; 5]) -> Self {
        Self { steps, tool_calls, input_tokens, output_tokens, cost_nano_usd }
    }

    /// The sum, saturated at the bound.
    fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| a.saturating_add(b).clamp(-MAX_AMOUNT, MAX_AMOUNT))
    }
}

impl Amounts {
    /// Whether each is at least `low` and within the bound.
    pub(super) fn within(self, low: i64) -> bool {
        self.in_order().iter().all(|amount| (low..=MAX_AMOUNT).contains(amount))
    }

    /// The nearest that counters take; what is beyond the bound is beyond every limit.
    pub(crate) fn bounded(self) -> Self {
        self.plus(Self::default())
    }

    /// Whether each is at most the other's.
    pub(super) fn fits(self, other: Self) -> bool {
        self.in_order().iter().zip(other.in_order()).all(|(&a, b)| a <= b)
    }

    /// The lesser of each amount.
    pub(super) fn min(self, other: Self) -> Self {
        self.zip(other, i64::min)
    }
}

impl Limit {
    /// Its amount.
    pub(crate) const fn of(self, amounts: Amounts) -> i64 {
        match self {
            Self::Steps => amounts.steps,
            Self::ToolCalls => amounts.tool_calls,
            Self::InputTokens => amounts.input_tokens,
            Self::OutputTokens => amounts.output_tokens,
            Self::Cost => amounts.cost_nano_usd,
        }
    }

    /// All of them, in the order in which they are checked.
    pub(super) const IN_ORDER: [Self; 5] =
        [Self::Steps, Self::ToolCalls, Self::InputTokens, Self::OutputTokens, Self::Cost];
}

/// Refuses a change whose numbers no implementation counts exactly.
pub(super) fn check(change: &Advance) -> Result<(), Error> {
    let carved = match change.carve {
        None => true,
        Some(Carve::Open(size)) => size.within(0) && size.fits(change.reserve),
        Some(Carve::Close(seq)) => (0..change.seq).contains(&seq),
    };
    let drawn = change.draw.is_none_or(|draw| {
        draw.pool.parent != change.run && check_pool(&draw.pool) && draw.drawn.within(0) && draw.want.within(0)
    });
    let checks = [
        ("epoch", (0..=MAX_NUMBER).contains(&change.epoch)),
        ("seq", (0..=MAX_NUMBER).contains(&change.seq)),
        ("last seq", (-1..change.seq).contains(&change.last_seq)),
        ("totals", change.totals.within(-MAX_AMOUNT)),
        ("settlement", change.settle.within(-MAX_AMOUNT)),
        ("reservation", change.reserve.within(0)),
        ("pool", carved),
        ("draw", drawn),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(Error::OutOfBounds(what)),
        None => Ok(()),
    }
}

/// A change that has not been seen before, settled.
pub(super) struct Settled {
    used: Amounts,
    rebuilt: Option<i64>,
}

/// Where a change stands.
pub(super) enum Begun {
    /// It was made before.
    Repeated(Answer),
    New(Settled),
}

/// Settles a change that passed [`check`].
pub(super) fn begin(kept: Option<Kept>, change: &Advance) -> Result<Begun, Error> {
    let (before, rebuilt) = match kept {
        Some(kept) if change.epoch < kept.epoch => return Err(Error::Stale(change.epoch, kept.epoch)),
        Some(kept) if (change.epoch, change.seq) == (kept.epoch, kept.seq) => return Ok(Begun::Repeated(kept.answer)),
        // The log is believed: two owners may have asked at one `seq`, or one asked again after a loss, and only one answer
        // has been committed.
        Some(kept) if kept.seq == change.last_seq => {
            (change.totals, (kept.answer.used != change.totals).then_some(kept.seq))
        }
        Some(kept) => (change.totals, Some(kept.seq)),
        None if change.last_seq == -1 => (change.totals, None),
        None => (change.totals, Some(-1)),
    };
    Ok(Begun::New(Settled { used: before.plus(change.settle), rebuilt }))
}

/// What counters keep before and after a change outside of trees when they agree with its log, and nobody else has
/// asked at its place. Before the first change of a run they keep nothing.
pub(super) fn succession(change: &Advance) -> (Option<Kept>, Kept) {
    let answer = Answer {
        verdict: Verdict::Granted,
        used: change.totals,
        rebuilt: None,
        drawn: Amounts::default(),
        opened: None,
    };
    let before = Kept { epoch: change.epoch, seq: change.last_seq, answer };
    let settled = Settled { used: change.totals.plus(change.settle), rebuilt: None };
    let (after, _) = settled.reserve(change, Amounts::default(), None);
    ((change.last_seq != -1).then_some(before), after)
}

impl Settled {
    /// Reserves with what the pool has for this change; what the counters keep, and what they say.
    pub(super) fn reserve(self, change: &Advance, room: Amounts, opened: Option<i64>) -> (Kept, Answer) {
        let (verdict, used, drawn, opened) = match exceeded(self.used, change, room) {
            Some(limit) => (Verdict::Refused(limit), self.used, Amounts::default(), None),
            None => (Verdict::Granted, self.used.plus(change.reserve), room, opened),
        };
        let answer = Answer { verdict, used, rebuilt: self.rebuilt, drawn, opened };
        (Kept { epoch: change.epoch, seq: change.seq, answer }, answer)
    }
}

/// The first limit that the reservation would exceed.
fn exceeded(used: Amounts, change: &Advance, room: Amounts) -> Option<Limit> {
    let limits = change.limits.in_order().map(|limit| limit.min(MAX_AMOUNT));
    let (used, reserve, room) = (used.in_order(), change.reserve.in_order(), room.in_order());
    let over = |&i: &usize| reserve[i] > 0 && used[i] + reserve[i] > limits[i].saturating_add(room[i]);
    (0..5).find(over).map(|i| Limit::IN_ORDER[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a provider reports is its own.
    #[test]
    fn amounts_beyond_the_bound_are_taken_as_the_bound() {
        let absurd = Amounts { input_tokens: i64::MAX, output_tokens: i64::MIN, ..Amounts::default() };
        let bounded = absurd.bounded();
        assert_eq!((bounded.input_tokens, bounded.output_tokens), (MAX_AMOUNT, -MAX_AMOUNT));
        assert!(bounded.within(-MAX_AMOUNT));
        assert_eq!(bounded.bounded(), bounded);
    }
}
