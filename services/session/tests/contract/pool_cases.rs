//! Pools of child runs: the same answers from every implementation.

use mar_session::counters::{
    Advance, Amounts, Carve, Counters, Draw, Error, Held, Limit, MAX_AMOUNT, Pool, PoolRebuild,
};
use uuid::Uuid;

use crate::counter_cases::{NOTHING, Subject, after, amounts, first, granted, refused};
use crate::rows::id;

const SIZE: Amounts = amounts(6, 0, 0, 0, 600);
const ALLOTMENT: Amounts = amounts(2, 0, 0, 0, 200);
const STEP: Amounts = amounts(1, 0, 0, 0, 100);

/// A parent that has carved an allotment for each of two children, and a pool.
async fn carved(counters: &dyn Counters) -> (Advance, Pool) {
    let reserve = amounts(10, 0, 0, 0, 1_000);
    let parent = Advance { reserve, carve: Some(Carve::Open(SIZE)), limits: reserve, ..first() };
    let answer = counters.advance(parent).await.unwrap();
    assert_eq!((answer.verdict, answer.used), (granted(reserve).verdict, reserve));
    (parent, Pool { parent: parent.run, seq: parent.seq, nonce: answer.opened.unwrap() })
}

/// A child that has used its allotment.
fn spent(parent: &Advance) -> Advance {
    let child = Advance { carve: None, run: id(), seq: 4, last_seq: -1, limits: ALLOTMENT, ..*parent };
    Advance { totals: ALLOTMENT, settle: NOTHING, reserve: STEP, ..child }
}

const fn drawing(change: Advance, pool: Pool, drawn: Amounts, want: Amounts) -> Advance {
    Advance { draw: Some(Draw { pool, drawn, want }), ..change }
}

async fn token(counters: &dyn Counters, change: Advance) -> i64 {
    match counters.advance(change).await {
        Err(Error::PoolLost(token)) => token,
        answer => panic!("{answer:?}"),
    }
}

fn rebuild(change: &Advance, token: i64, held: Vec<Held>) -> PoolRebuild {
    PoolRebuild { root: change.root, pool: change.draw.unwrap().pool, token, size: SIZE, held }
}

const fn held(run: Uuid, seq: i64, amounts: Amounts) -> Held {
    Held { run, epoch: 1, seq, amounts }
}

pub async fn a_child_draws_in_its_own_trip(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let child = spent(&parent);
    assert_eq!(subject.counters.advance(child).await.unwrap(), refused(Limit::Steps, ALLOTMENT));
    let want = amounts(4, 0, 0, 0, 400);
    let child = drawing(after(&child), pool, NOTHING, want);
    let answer = subject.counters.advance(child).await.unwrap();
    assert_eq!((answer.drawn, answer.used), (want, amounts(3, 0, 0, 0, 300)));
    // Of each amount the next one gets what is left.
    let other = drawing(spent(&parent), pool, NOTHING, want);
    let answer = subject.counters.advance(other).await.unwrap();
    assert_eq!(answer.drawn, amounts(2, 0, 0, 0, 200));
    let third = drawing(spent(&parent), pool, NOTHING, want);
    assert_eq!(subject.counters.advance(third).await.unwrap(), refused(Limit::Steps, ALLOTMENT));
}

pub async fn a_refusal_draws_nothing(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let greedy = Advance { reserve: amounts(7, 0, 0, 0, 0), ..spent(&parent) };
    let answer = subject.counters.advance(drawing(greedy, pool, NOTHING, SIZE)).await.unwrap();
    assert_eq!(answer, refused(Limit::Steps, ALLOTMENT));
    let other = drawing(spent(&parent), pool, NOTHING, SIZE);
    assert_eq!(subject.counters.advance(other).await.unwrap().drawn, SIZE);
}

pub async fn what_a_child_leaves_goes_to_its_siblings(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let child = drawing(spent(&parent), pool, NOTHING, SIZE);
    subject.counters.advance(child).await.unwrap();
    // Another one ended within its allotment.
    let frugal = held(id(), 9, amounts(-1, 0, 0, 0, -150));
    for _ in 0..2 {
        subject.counters.release(parent.root, pool, frugal).await.unwrap();
    }
    let next = drawing(spent(&parent), pool, NOTHING, SIZE);
    assert_eq!(subject.counters.advance(next).await.unwrap().drawn, amounts(1, 0, 0, 0, 150));
    // The first one used half of its draws.
    let ended = held(child.run, 9, amounts(3, 0, 0, 0, 300));
    for _ in 0..2 {
        subject.counters.release(parent.root, pool, ended).await.unwrap();
    }
    let next = drawing(spent(&parent), pool, NOTHING, SIZE);
    assert_eq!(subject.counters.advance(next).await.unwrap().drawn, amounts(3, 0, 0, 0, 300));
    // A late copy of its draw meets an ended child.
    let late = subject.counters.advance(child).await;
    assert!(matches!(late, Err(Error::Stale(1, 1))), "{late:?}");
}

pub async fn a_draw_is_repeated_without_effect(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let child = drawing(spent(&parent), pool, NOTHING, amounts(1, 0, 0, 0, 100));
    let answer = subject.counters.advance(child).await.unwrap();
    assert_eq!(subject.counters.advance(child).await.unwrap(), answer);
    // Also when the child's own counters are gone.
    subject.counters.forget(child.root, child.run).await.unwrap();
    assert_eq!(subject.counters.advance(child).await.unwrap(), answer);
    let other = drawing(spent(&parent), pool, NOTHING, SIZE);
    assert_eq!(subject.counters.advance(other).await.unwrap().drawn, amounts(5, 0, 0, 0, 500));
    // And the parent's change does not open its pool again.
    assert_eq!(subject.counters.advance(parent).await.unwrap().opened, Some(pool.nonce));
    let third = drawing(spent(&parent), pool, NOTHING, SIZE);
    assert_eq!(subject.counters.advance(third).await.unwrap(), refused(Limit::Steps, ALLOTMENT));
}

pub async fn an_uncommitted_draw_comes_back_when_the_log_has_gone_on(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let child = drawing(spent(&parent), pool, NOTHING, SIZE);
    subject.counters.advance(child).await.unwrap();
    // It was taken over before the commit; the next owner draws less at the same position.
    let successor = drawing(Advance { epoch: 2, ..child }, pool, NOTHING, STEP);
    assert_eq!(subject.counters.advance(successor).await.unwrap().drawn, STEP);
    let stale = subject.counters.advance(child).await;
    assert!(matches!(stale, Err(Error::Stale(1, 2))), "{stale:?}");
    // Which of the two is committed nobody knows yet: the former one may only have been frozen.
    let other = drawing(spent(&parent), pool, NOTHING, SIZE);
    assert_eq!(subject.counters.advance(other).await.unwrap(), refused(Limit::Steps, ALLOTMENT));
    // It was the successor's.
    let next = Advance { limits: amounts(3, 0, 0, 0, 300), ..after(&successor) };
    assert_eq!(subject.counters.advance(drawing(next, pool, STEP, STEP)).await.unwrap().drawn, STEP);
    let other = drawing(spent(&parent), pool, NOTHING, SIZE);
    assert_eq!(subject.counters.advance(other).await.unwrap().drawn, amounts(4, 0, 0, 0, 400));
}

/// The successor is refused what its predecessor was granted, and the predecessor's commit is the one that is taken.
pub async fn a_refused_successor_frees_nothing_of_its_predecessor(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let child = drawing(spent(&parent), pool, NOTHING, SIZE);
    assert_eq!(subject.counters.advance(child).await.unwrap().drawn, SIZE);
    let greedy = Advance { epoch: 2, reserve: amounts(7, 0, 0, 0, 0), ..child };
    assert_eq!(subject.counters.advance(greedy).await.unwrap().verdict, refused(Limit::Steps, NOTHING).verdict);
    for _ in 0..2 {
        let other = drawing(spent(&parent), pool, NOTHING, SIZE);
        assert_eq!(subject.counters.advance(other).await.unwrap(), refused(Limit::Steps, ALLOTMENT));
    }
}

/// A replica has read the log of a child that it takes over, and stands still; the former owner goes on, and draws.
pub async fn a_successor_that_is_behind_the_log_frees_nothing(subject: Subject) {
    let counters = &*subject.counters;
    let (parent, pool) = carved(counters).await;
    let child = drawing(spent(&parent), pool, NOTHING, STEP);
    assert_eq!(counters.advance(child).await.unwrap().drawn, STEP);
    let next = Advance { limits: amounts(3, 0, 0, 0, 300), ..after(&child) };
    let next = drawing(next, pool, STEP, amounts(3, 0, 0, 0, 300));
    assert_eq!(counters.advance(next).await.unwrap().drawn, amounts(3, 0, 0, 0, 300));
    // Both are committed when the successor asks where the first one was.
    let late = Advance { epoch: 2, ..child };
    let mark = token(counters, late).await;
    let truth = vec![held(child.run, next.seq, amounts(4, 0, 0, 0, 400))];
    counters.rebuild_pool(&rebuild(&late, mark, truth)).await.unwrap();
    token(counters, late).await;
    let other = drawing(spent(&parent), pool, NOTHING, SIZE);
    let mark = token(counters, other).await;
    let truth = vec![held(child.run, next.seq, amounts(4, 0, 0, 0, 400))];
    counters.rebuild_pool(&rebuild(&other, mark, truth)).await.unwrap();
    assert_eq!(counters.advance(other).await.unwrap().drawn, amounts(2, 0, 0, 0, 200));
}

/// One that ended is not brought to life by who took it over before its end.
pub async fn an_end_is_final_for_the_pool(subject: Subject) {
    let counters = &*subject.counters;
    let (parent, pool) = carved(counters).await;
    let child = drawing(spent(&parent), pool, NOTHING, SIZE);
    counters.advance(child).await.unwrap();
    let late = Advance { epoch: 2, ..child };
    assert_eq!(counters.advance(late).await.unwrap().drawn, SIZE);
    counters.release(parent.root, pool, held(child.run, 9, STEP)).await.unwrap();
    let next = drawing(spent(&parent), pool, NOTHING, amounts(5, 0, 0, 0, 500));
    assert_eq!(counters.advance(next).await.unwrap().drawn, amounts(5, 0, 0, 0, 500));
    token(counters, Advance { epoch: 3, ..child }).await;
}

pub async fn a_closed_pool_gives_nothing(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let close = Advance {
        totals: parent.reserve,
        settle: amounts(-8, 0, 0, 0, -900),
        reserve: NOTHING,
        carve: Some(Carve::Close(parent.seq)),
        ..after(&parent)
    };
    for _ in 0..2 {
        assert_eq!(subject.counters.advance(close).await.unwrap(), granted(amounts(2, 0, 0, 0, 100)));
    }
    token(&*subject.counters, drawing(spent(&parent), pool, NOTHING, STEP)).await;
}

pub async fn a_reopened_pool_is_another(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let child = drawing(spent(&parent), pool, NOTHING, STEP);
    subject.counters.advance(child).await.unwrap();
    // A late copy of the parent's change, when its counters are gone, opens an empty pool at the same place.
    subject.counters.forget(parent.root, parent.run).await.unwrap();
    let again = subject.counters.advance(parent).await.unwrap();
    assert_ne!(again.opened, Some(pool.nonce));
    token(&*subject.counters, drawing(spent(&parent), pool, NOTHING, STEP)).await;
}

pub async fn a_lost_pool_is_rebuilt_once(subject: Subject) {
    let counters = &*subject.counters;
    let (parent, pool) = carved(counters).await;
    let lost = Pool { nonce: pool.nonce + 1, ..pool };
    let child = drawing(spent(&parent), lost, NOTHING, SIZE);
    let mark = token(counters, child).await;
    assert_eq!(token(counters, drawing(spent(&parent), lost, NOTHING, SIZE)).await, mark);
    // Without its draw the child goes on.
    let within = Advance { draw: None, totals: NOTHING, ..child };
    assert_eq!(counters.advance(within).await.unwrap(), granted(STEP));

    let sibling = id();
    let holds = vec![held(sibling, 9, amounts(4, 0, 0, 0, 400)), held(id(), 9, amounts(-1, 0, 0, 0, -100))];
    let wrong = rebuild(&child, mark + 1, Vec::new());
    counters.rebuild_pool(&wrong).await.unwrap();
    assert_eq!(token(counters, drawing(spent(&parent), lost, NOTHING, SIZE)).await, mark);
    counters.rebuild_pool(&rebuild(&child, mark, holds)).await.unwrap();
    // One that comes later changes nothing.
    counters.rebuild_pool(&rebuild(&child, mark, Vec::new())).await.unwrap();
    let next = drawing(spent(&parent), lost, NOTHING, SIZE);
    assert_eq!(counters.advance(next).await.unwrap().drawn, amounts(3, 0, 0, 0, 300));
    // The sibling had drawn less than its ceiling: the rest comes back with its next draw but one.
    let committed = amounts(2, 0, 0, 0, 200);
    let next = Advance { run: sibling, seq: 10, ..next };
    let answer = counters.advance(drawing(next, lost, committed, STEP)).await.unwrap();
    assert_eq!(answer.drawn, STEP);
    assert_eq!(counters.advance(drawing(spent(&parent), lost, NOTHING, SIZE)).await.unwrap().drawn, NOTHING);
    let (more, committed) = (after(&next), amounts(3, 0, 0, 0, 300));
    assert_eq!(counters.advance(drawing(more, lost, committed, NOTHING)).await.unwrap().drawn, NOTHING);
    let next = drawing(spent(&parent), lost, NOTHING, SIZE);
    assert_eq!(counters.advance(next).await.unwrap().drawn, amounts(1, 0, 0, 0, 100));
}

pub async fn a_pool_behind_a_childs_log_is_lost(subject: Subject) {
    let (parent, pool) = carved(&*subject.counters).await;
    let child = drawing(spent(&parent), pool, NOTHING, STEP);
    subject.counters.advance(child).await.unwrap();
    let next = Advance { limits: amounts(3, 0, 0, 0, 301), ..after(&child) };
    let more = drawing(next, pool, amounts(1, 0, 0, 0, 101), STEP);
    let token = token(&*subject.counters, more).await;
    let truth = vec![held(child.run, child.seq, amounts(1, 0, 0, 0, 101))];
    subject.counters.rebuild_pool(&rebuild(&more, token, truth)).await.unwrap();
    assert_eq!(subject.counters.advance(more).await.unwrap().drawn, STEP);
}

pub async fn a_parent_carves_what_it_has(subject: Subject) {
    let reserve = amounts(10, 0, 0, 0, 1_000);
    let poor = Advance { reserve, carve: Some(Carve::Open(SIZE)), limits: amounts(9, 0, 0, 0, 1_000), ..first() };
    assert_eq!(subject.counters.advance(poor).await.unwrap(), refused(Limit::Steps, NOTHING));
    let pool = Pool { parent: poor.run, seq: poor.seq, nonce: 1 };
    token(&*subject.counters, drawing(spent(&poor), pool, NOTHING, STEP)).await;
}

pub async fn bad_pools_are_refused(subject: Subject) {
    let counters = &*subject.counters;
    let (parent, pool) = carved(counters).await;
    let good = drawing(spent(&parent), pool, NOTHING, STEP);
    let negative = amounts(0, -1, 0, 0, 0);
    let bad = [
        Advance { carve: Some(Carve::Open(amounts(0, 1, 0, 0, 0))), ..good },
        Advance { carve: Some(Carve::Open(negative)), ..good },
        Advance { carve: Some(Carve::Close(good.seq)), ..good },
        drawing(good, Pool { parent: good.run, ..pool }, NOTHING, STEP),
        drawing(good, Pool { nonce: -1, ..pool }, NOTHING, STEP),
        drawing(good, pool, negative, STEP),
        drawing(good, pool, NOTHING, negative),
        drawing(good, pool, NOTHING, amounts(MAX_AMOUNT + 1, 0, 0, 0, 0)),
    ];
    for change in bad {
        let answer = counters.advance(change).await;
        assert!(matches!(answer, Err(Error::OutOfBounds(_))), "{change:?}: {answer:?}");
    }
    let twice = vec![held(good.run, 1, STEP); 2];
    let huge = vec![held(id(), 1, amounts(MAX_AMOUNT, 0, 0, 0, 0)), held(id(), 1, STEP)];
    for list in [twice, huge, vec![held(id(), -1, STEP)]] {
        let answer = counters.rebuild_pool(&rebuild(&good, 1, list)).await;
        assert!(matches!(answer, Err(Error::OutOfBounds(_))), "{answer:?}");
    }
    assert_eq!(counters.advance(good).await.unwrap().drawn, STEP);
}
