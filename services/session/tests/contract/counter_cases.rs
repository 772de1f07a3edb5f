//! Halting counters: the same answers from every implementation.

use std::{any::Any, sync::Arc};

use mar_session::counters::{Advance, Amounts, Answer, Counters, Error, Limit, MAX_AMOUNT, Verdict};

use crate::rows::id;

/// Counters under test.
pub struct Subject {
    pub counters: Arc<dyn Counters>,
    /// Lives as long as the counters.
    pub _keep: Box<dyn Any + Send + Sync>,
}

pub const fn amounts(steps: i64, tool_calls: i64, input: i64, output: i64, cost: i64) -> Amounts {
    Amounts { steps, tool_calls, input_tokens: input, output_tokens: output, cost_nano_usd: cost }
}

pub const NOTHING: Amounts = amounts(0, 0, 0, 0, 0);
const LIMITS: Amounts = amounts(10, 20, 1_000, 500, 9_000);

/// The first change of a new run: nothing used, nothing reserved.
pub fn first() -> Advance {
    Advance {
        root: id(),
        run: id(),
        epoch: 1,
        seq: 1,
        last_seq: -1,
        totals: NOTHING,
        settle: NOTHING,
        reserve: NOTHING,
        limits: LIMITS,
        carve: None,
        draw: None,
    }
}

/// The change after one.
pub const fn after(change: &Advance) -> Advance {
    Advance { seq: change.seq + 1, last_seq: change.seq, ..*change }
}

pub const fn granted(used: Amounts) -> Answer {
    Answer { verdict: Verdict::Granted, used, rebuilt: None, drawn: NOTHING, opened: None }
}

pub const fn refused(limit: Limit, used: Amounts) -> Answer {
    Answer { verdict: Verdict::Refused(limit), used, rebuilt: None, drawn: NOTHING, opened: None }
}

pub async fn a_fresh_run_starts_at_its_totals(subject: Subject) {
    let one = amounts(1, 0, 100, 50, 700);
    let fresh = Advance { reserve: one, ..first() };
    assert_eq!(subject.counters.advance(fresh).await.unwrap(), granted(one));
    let forked = Advance { totals: one, reserve: one, ..first() };
    assert_eq!(subject.counters.advance(forked).await.unwrap(), granted(amounts(2, 0, 200, 100, 1_400)));
}

pub async fn settle_then_reserve(subject: Subject) {
    let reserve = Advance { reserve: amounts(1, 0, 100, 500, 9_000), ..first() };
    let totals = subject.counters.advance(reserve).await.unwrap().used;
    // Only what the settlement gives back makes room.
    let settle = amounts(0, 0, 20, -400, -8_000);
    let next = Advance { totals, settle, reserve: amounts(1, 2, 0, 400, 8_000), ..after(&reserve) };
    assert_eq!(subject.counters.advance(next).await.unwrap(), granted(amounts(2, 2, 120, 500, 9_000)));
}

pub async fn limits_are_checked_in_order(subject: Subject) {
    let mut change = first();
    let cases = [
        (amounts(11, 21, 1_001, 501, 9_001), Some(Limit::Steps)),
        (amounts(10, 21, 1_001, 501, 9_001), Some(Limit::ToolCalls)),
        (amounts(10, 20, 1_001, 501, 9_001), Some(Limit::InputTokens)),
        (amounts(10, 20, 1_000, 501, 9_001), Some(Limit::OutputTokens)),
        (amounts(10, 20, 1_000, 500, 9_001), Some(Limit::Cost)),
        (LIMITS, None),
    ];
    for (reserve, limit) in cases {
        let answer = subject.counters.advance(Advance { reserve, ..change }).await.unwrap();
        assert_eq!(answer, limit.map_or(granted(LIMITS), |limit| refused(limit, NOTHING)));
        change = Advance { totals: answer.used, ..after(&change) };
    }
    let more = Advance { reserve: amounts(0, 0, 0, 1, 0), ..change };
    assert_eq!(subject.counters.advance(more).await.unwrap(), refused(Limit::OutputTokens, LIMITS));
}

pub async fn a_refusal_still_settles(subject: Subject) {
    let reserve = Advance { reserve: amounts(10, 0, 0, 0, 0), ..first() };
    let totals = subject.counters.advance(reserve).await.unwrap().used;
    let next = Advance { totals, settle: amounts(0, 0, 7, 8, 9), reserve: amounts(1, 1, 1, 1, 1), ..after(&reserve) };
    let used = amounts(10, 0, 7, 8, 9);
    assert_eq!(subject.counters.advance(next).await.unwrap(), refused(Limit::Steps, used));
    let nothing = Advance { totals: used, settle: NOTHING, reserve: NOTHING, ..after(&next) };
    assert_eq!(subject.counters.advance(nothing).await.unwrap(), granted(used));
}

pub async fn nothing_reserved_is_never_refused(subject: Subject) {
    // A call that used more than was reserved takes a counter over its limit.
    let over = Advance { settle: amounts(0, 0, 0, 501, 0), ..first() };
    assert_eq!(subject.counters.advance(over).await.unwrap(), granted(amounts(0, 0, 0, 501, 0)));
    let tools = Advance { totals: over.settle, settle: NOTHING, reserve: amounts(0, 2, 0, 0, 0), ..after(&over) };
    assert_eq!(subject.counters.advance(tools).await.unwrap(), granted(amounts(0, 2, 0, 501, 0)));
}

pub async fn a_change_is_repeated_without_effect(subject: Subject) {
    let one = Advance { settle: amounts(0, 0, 3, 0, 0), reserve: amounts(1, 1, 1, 1, 1), ..first() };
    let answer = subject.counters.advance(one).await.unwrap();
    for _ in 0..3 {
        assert_eq!(subject.counters.advance(one).await.unwrap(), answer);
    }
    let two = Advance { totals: answer.used, settle: NOTHING, reserve: amounts(100, 0, 0, 0, 0), ..after(&one) };
    let refusal = subject.counters.advance(two).await.unwrap();
    assert_eq!(refusal, refused(Limit::Steps, answer.used));
    assert_eq!(subject.counters.advance(two).await.unwrap(), refusal);
    // A rebuild is repeated too, or the event that records it would be lost with its answer.
    let gap = Advance { seq: 9, last_seq: 8, totals: answer.used, ..two };
    let rebuilt = subject.counters.advance(gap).await.unwrap();
    assert_eq!(rebuilt.rebuilt, Some(2));
    assert_eq!(subject.counters.advance(gap).await.unwrap(), rebuilt);
}

pub async fn a_lower_epoch_is_stale(subject: Subject) {
    let one = Advance { epoch: 5, reserve: amounts(1, 0, 0, 0, 0), ..first() };
    let used = subject.counters.advance(one).await.unwrap().used;
    for late in [Advance { epoch: 4, ..one }, Advance { epoch: 4, ..after(&one) }] {
        let answer = subject.counters.advance(late).await;
        assert!(matches!(answer, Err(Error::Stale(4, 5))), "{answer:?}");
    }
    let next = Advance { epoch: 6, reserve: NOTHING, totals: used, ..after(&one) };
    assert_eq!(subject.counters.advance(next).await.unwrap(), granted(used));

    // The successor repeats a position that its predecessor took in the counters but not in the log.
    let taken = Advance { epoch: 6, reserve: amounts(1, 0, 0, 0, 0), ..after(&next) };
    subject.counters.advance(taken).await.unwrap();
    let successor = Advance { epoch: 7, totals: used, ..taken };
    let answer = subject.counters.advance(successor).await.unwrap();
    assert_eq!(answer, Answer { rebuilt: Some(taken.seq), ..granted(amounts(2, 0, 0, 0, 0)) });
}

pub async fn lost_counters_are_rebuilt(subject: Subject) {
    let lost =
        Advance { seq: 8, last_seq: 7, totals: amounts(9, 2, 30, 40, 50), reserve: amounts(1, 0, 0, 0, 0), ..first() };
    let answer = subject.counters.advance(lost).await.unwrap();
    assert_eq!(answer, Answer { rebuilt: Some(-1), ..granted(amounts(10, 2, 30, 40, 50)) });
    let next = Advance { totals: answer.used, ..after(&lost) };
    assert_eq!(subject.counters.advance(next).await.unwrap(), refused(Limit::Steps, answer.used));
}

pub async fn stale_counters_are_rebuilt(subject: Subject) {
    let one = Advance { reserve: amounts(1, 1, 1, 1, 1), ..first() };
    subject.counters.advance(one).await.unwrap();
    // A failover took them back to seq 1, while the log has gone on to 6.
    let totals = amounts(4, 4, 4, 4, 4);
    let next = Advance { seq: 7, last_seq: 6, totals, ..one };
    let answer = subject.counters.advance(next).await.unwrap();
    assert_eq!(answer, Answer { rebuilt: Some(1), ..granted(amounts(5, 5, 5, 5, 5)) });
    // Counters that have seen what no commit holds are stale as well.
    let uncommitted = Advance { seq: 8, last_seq: 6, totals, settle: NOTHING, reserve: NOTHING, ..one };
    let answer = subject.counters.advance(uncommitted).await.unwrap();
    assert_eq!(answer, Answer { rebuilt: Some(7), ..granted(totals) });
}

pub async fn of_two_owners_at_one_position_the_log_says_whose_counts(subject: Subject) {
    let committed = Advance { epoch: 2, reserve: amounts(1, 2, 0, 0, 0), ..first() };
    let used = subject.counters.advance(committed).await.unwrap().used;
    // Its successor asks for less at the same position, and meets the predecessor's event in the log.
    let fenced = Advance { epoch: 3, reserve: amounts(1, 0, 0, 0, 0), ..committed };
    subject.counters.advance(fenced).await.unwrap();
    // Who comes then knows of this position, but not that the counters saw another's last.
    let next = Advance { epoch: 5, totals: used, reserve: amounts(0, 1, 0, 0, 0), ..after(&committed) };
    let answer = subject.counters.advance(next).await.unwrap();
    assert_eq!(answer, Answer { rebuilt: Some(committed.seq), ..granted(amounts(1, 3, 0, 0, 0)) });
}

pub async fn a_late_copy_after_a_loss_is_not_what_the_log_took(subject: Subject) {
    let limits = amounts(1, 0, 0, 0, 0);
    let committed = Advance { seq: 5, last_seq: 4, totals: limits, reserve: limits, limits, ..first() };
    assert_eq!(subject.counters.advance(committed).await.unwrap().verdict, Verdict::Refused(Limit::Steps));
    subject.counters.forget(committed.root, committed.run).await.unwrap();
    // Meanwhile there is room: the copy is granted what the log says was refused.
    let copy = Advance { limits: limits + limits, ..committed };
    assert_eq!(subject.counters.advance(copy).await.unwrap().verdict, Verdict::Granted);
    let next = Advance { seq: 6, last_seq: 5, ..committed };
    let answer = subject.counters.advance(next).await.unwrap();
    assert_eq!(answer, Answer { rebuilt: Some(5), ..refused(Limit::Steps, limits) });
}

pub async fn a_forgotten_run_is_gone(subject: Subject) {
    let one = Advance { reserve: amounts(1, 1, 1, 1, 1), ..first() };
    let used = subject.counters.advance(one).await.unwrap().used;
    subject.counters.forget(one.root, one.run).await.unwrap();
    subject.counters.forget(one.root, one.run).await.unwrap();
    let next = Advance { totals: used, reserve: NOTHING, ..after(&one) };
    assert_eq!(subject.counters.advance(next).await.unwrap(), Answer { rebuilt: Some(-1), ..granted(used) });
}

pub async fn runs_are_apart(subject: Subject) {
    let one = Advance { reserve: amounts(1, 0, 0, 0, 0), ..first() };
    let child = Advance { run: id(), ..one };
    for change in [one, child] {
        assert_eq!(subject.counters.advance(change).await.unwrap(), granted(amounts(1, 0, 0, 0, 0)));
    }
    subject.counters.forget(one.root, one.run).await.unwrap();
    let next = Advance { totals: child.reserve, ..after(&child) };
    assert_eq!(subject.counters.advance(next).await.unwrap(), granted(amounts(2, 0, 0, 0, 0)));
}

pub async fn large_amounts_are_exact(subject: Subject) {
    let odd = MAX_AMOUNT - 1_001;
    let unlimited = amounts(i64::MAX, i64::MAX, i64::MAX, i64::MAX, i64::MAX);
    let one = Advance {
        totals: amounts(odd, odd, odd, odd, odd),
        reserve: amounts(1, 10, 100, 1_000, 1_001),
        limits: unlimited,
        ..first()
    };
    let answer = subject.counters.advance(one).await.unwrap();
    let used = amounts(odd + 1, odd + 10, odd + 100, odd + 1_000, MAX_AMOUNT);
    assert_eq!(answer, granted(used));
    let more = Advance { totals: used, reserve: amounts(0, 0, 0, 1, 1), ..after(&one) };
    assert_eq!(subject.counters.advance(more).await.unwrap(), refused(Limit::Cost, used));
    // Positions and epochs are exact up to 2^53.
    let far = Advance { epoch: 1 << 53, seq: 1 << 53, last_seq: (1 << 53) - 1, reserve: NOTHING, ..more };
    subject.counters.advance(far).await.unwrap();
    let near = subject.counters.advance(Advance { epoch: (1 << 53) - 1, ..far }).await;
    assert!(matches!(near, Err(Error::Stale(..))), "{near:?}");
}

pub async fn what_cannot_be_counted_is_refused(subject: Subject) {
    let good = first();
    let too_much = amounts(0, 0, 0, 0, MAX_AMOUNT + 1);
    let bad = [
        Advance { epoch: -1, ..good },
        Advance { seq: -1, last_seq: -1, ..good },
        Advance { seq: (1 << 53) + 1, ..good },
        Advance { last_seq: 1, ..good },
        Advance { last_seq: -2, ..good },
        Advance { totals: too_much, ..good },
        Advance { settle: too_much, ..good },
        Advance { settle: amounts(0, 0, 0, 0, i64::MIN), ..good },
        Advance { reserve: too_much, ..good },
        Advance { reserve: amounts(-1, 0, 0, 0, 0), ..good },
    ];
    for change in bad {
        let answer = subject.counters.advance(change).await;
        assert!(matches!(answer, Err(Error::OutOfBounds(_))), "{change:?}: {answer:?}");
    }
    assert_eq!(subject.counters.advance(good).await.unwrap(), granted(NOTHING));
}
