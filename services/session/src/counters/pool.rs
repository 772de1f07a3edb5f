//! Pools: what a parent keeps for the refills of its child runs.
//!
//! 1. **Carve.** The parent's change reserves the sum of the children's allotments and of the pool, and names the pool in
//!    [`Carve::Open`]; the answer brings the pool's nonce. The parent's commit holds allotments, pool and nonce; each
//!    child begins with its allotment as its limits.
//! 2. **Draw.** A child that is near its end sends a [`Draw`] with its next change: the draw is idempotent by the child's
//!    (epoch, seq) and counts at once. The child's commit holds [`drawn`](super::Answer::drawn).
//! 3. **End.** When the child's end is committed, [`release`](super::Counters::release) gives back what it left.
//! 4. **Close.** When all children have ended, the parent's change settles their actual use against what it had carved
//!    and names the pool in [`Carve::Close`]. This is idempotent by the parent's seq, and the parent's counters need
//!    nothing but the parent's log.
//!
//! The pool is in the counters alone, its truth is in the children's logs: what is left is the pool's size minus what each
//! child holds beyond its allotment (for an ended child, use minus allotment, which may be negative). A pool that is gone,
//! of another nonce, on another server than the one that wrote it (a promotion may have lost draws; its replication id
//! tells), behind a child's log or ahead of it is lost: every draw answers [`PoolLost`](super::Error::PoolLost) with a token, and
//! [`rebuild_pool`](super::Counters::rebuild_pool) with that token heals it.
//!
//! **The ceiling rule.** A draw that was answered may not be committed yet when another child reads the logs for a
//! rebuild. So *whether* a child may draw in its next change, and at most how much, must follow from what its log
//! already holds (for instance: less is left than `n` times the last step, and then always the same amount). Whoever
//! rebuilds counts that ceiling as held by every open child for which the rule says so. What was counted too high comes
//! back with that child's next draw but one. The logs are read after the token was received, or the rebuild may miss draws.
//!
//! **Several owners.** A child that was taken over has, until the log says which, two owners that think that it is theirs: the
//! former one, frozen between an answer and its commit, may be the one whose commit is taken. So a child holds the most of
//! all that was answered at one place of its log, until a change comes whose log is beyond that place. A change whose log
//! is *behind* such a place can neither be committed nor be believed: it would count as free what the log has taken.
//!
//! Two masters at a time, an old one that is cut off from its replica and still reached by a child, are outside of this:
//! `min-replicas-to-write 1` on the servers excludes them. Parents' and children's own counters are not affected.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Advance, Amounts, Error, MAX_AMOUNT, ledger::MAX_NUMBER};

/// Most open and ended children that a rebuild takes.
pub const MAX_CHILDREN: usize = 100_000;

/// Names a pool. All of it is in the parent's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pool {
    /// The run that carved it.
    pub parent: Uuid,
    /// The `seq` of the change that opened it.
    pub seq: i64,
    /// What the answer to that change gave as [`opened`](super::Answer::opened).
    pub nonce: i64,
}

/// What a parent's change does to a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carve {
    /// Opens the pool of this `seq`, of this size, when the reservation is granted. The reservation includes the size.
    Open(Amounts),
    /// Drops the pool of this earlier `seq`.
    Close(i64),
}

/// What a child wants from its parent's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The pool.
    pub pool: Pool,
    /// What the child's log says it has drawn, before this change.
    pub drawn: Amounts,
    /// What it wants at most; of each amount it gets what is there.
    pub want: Amounts,
}

/// What a child holds beyond its allotment, as its log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The child.
    pub run: Uuid,
    /// Epoch of its last event.
    pub epoch: i64,
    /// `seq` of its last event.
    pub seq: i64,
    /// Open: its draws, and the ceiling of the next one. Ended: its use minus its allotment.
    pub amounts: Amounts,
}

/// A lost pool as the logs have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRebuild {
    /// Root of the run tree.
    pub root: Uuid,
    /// The pool.
    pub pool: Pool,
    /// What [`PoolLost`](super::Error::PoolLost) said, before the logs were read.
    pub token: i64,
    /// The size that the parent's log has.
    pub size: Amounts,
    /// Every child that holds anything.
    pub held: Vec<Held>,
}

impl PoolRebuild {
    /// What all children hold together.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] when numbers are beyond what every implementation counts exactly.
    pub(super) fn sum(&self) -> Result<Amounts, Error> {
        let children: HashSet<Uuid> = self.held.iter().map(|held| held.run).collect();
        if children.len() != self.held.len() || children.len() > MAX_CHILDREN {
            return Err(Error::OutOfBounds("children of the pool"));
        }
        let mut sum = [0_i64; 5];
        for held in &self.held {
            check_held(held)?;
            for (sum, amount) in sum.iter_mut().zip(held.amounts.in_order()) {
                *sum = sum.saturating_add(amount);
            }
        }
        let sum = Amounts::from_order(sum);
        let sound = sum.within(-MAX_AMOUNT) && self.size.within(0) && check_pool(&self.pool);
        if sound { Ok(sum) } else { Err(Error::OutOfBounds("pool")) }
    }
}

/// Whether every implementation counts its numbers exactly.
pub(super) fn check_pool(pool: &Pool) -> bool {
    let number = 0..=MAX_NUMBER;
    number.contains(&pool.seq) && number.contains(&pool.nonce)
}

/// Refuses what no implementation counts exactly.
pub(super) fn check_held(held: &Held) -> Result<(), Error> {
    // Its next event has to be counted exactly, too.
    let sound = (0..=MAX_NUMBER).contains(&held.epoch)
        && (0..MAX_NUMBER).contains(&held.seq)
        && held.amounts.within(-MAX_AMOUNT);
    if sound { Ok(()) } else { Err(Error::OutOfBounds("what a child holds")) }
}

/// What is remembered of a pool.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    Whole(Whole),
    /// Lost; the token that a rebuild has to bring.
    Lost(i64),
}

/// A pool that can be drawn from.
#[derive(Debug, Clone, Default)]
pub(super) struct Whole {
    nonce: i64,
    size: Amounts,
    /// What the children hold together.
    sum: Amounts,
    children: HashMap<Uuid, Child>,
}

/// A child's share.
#[derive(Debug, Clone, Copy, Default)]
struct Child {
    epoch: i64,
    /// Where the last change would be committed. Of one that a log was read of: where its next event will be.
    seq: i64,
    /// The most that its log can come to hold by an event at `seq`.
    held: Amounts,
    /// The last draw.
    got: Amounts,
    /// Nobody has asked at `seq` since its log was read; what it holds is a ceiling there.
    read: bool,
}

impl Child {
    fn of_log(held: &Held) -> Self {
        Self { epoch: held.epoch, seq: held.seq + 1, held: held.amounts, got: Amounts::default(), read: true }
    }
}

/// What a draw finds.
pub(super) enum Found {
    /// It can have this much.
    Room(Amounts),
    Lost,
    /// A later change of the child was here.
    Stale(i64),
}

impl Whole {
    pub(super) fn open(nonce: i64, size: Amounts) -> Self {
        Self { nonce, size, ..Self::default() }
    }

    pub(super) fn rebuilt(rebuild: &PoolRebuild, sum: Amounts) -> Self {
        let children = rebuild.held.iter().map(|held| (held.run, Child::of_log(held))).collect();
        Self { nonce: rebuild.pool.nonce, size: rebuild.size, sum, children }
    }

    fn look(&self, change: &Advance, draw: &Draw) -> Found {
        if self.nonce != draw.pool.nonce {
            return Found::Lost;
        }
        let Some(child) = self.children.get(&change.run).copied() else {
            let known = draw.drawn.fits(Amounts::default());
            return if known { self.room(&Child::default(), draw) } else { Found::Lost };
        };
        match ((change.epoch, change.seq).cmp(&(child.epoch, child.seq)), change.seq < child.seq) {
            (Ordering::Less, _) => Found::Stale(child.epoch),
            (Ordering::Equal, _) if !child.read => Found::Room(child.got),
            // Its log is behind what another owner was answered, or has draws that the pool has not.
            (_, true) => Found::Lost,
            _ if !draw.drawn.fits(child.held) => Found::Lost,
            _ => self.room(&child, draw),
        }
    }

    fn room(&self, child: &Child, draw: &Draw) -> Found {
        let left = self.size - (self.sum - child.held + draw.drawn);
        Found::Room(draw.want.min(left.max(Amounts::default())))
    }

    pub(super) fn take(&mut self, change: &Advance, draw: &Draw, got: Amounts) {
        let mut held = draw.drawn + got;
        // Of the answers that were given at one place any may be committed there, and one is at the most.
        if let Some(kept) = self.children.get(&change.run).filter(|kept| kept.seq == change.seq) {
            held = held.max(kept.held);
        }
        self.set(change.run, Child { epoch: change.epoch, seq: change.seq, held, got, read: false });
    }

    /// An end is the last event of its log: it is true whoever has asked meanwhile.
    pub(super) fn release(&mut self, nonce: i64, ended: &Held) {
        if self.nonce == nonce {
            self.set(ended.run, Child::of_log(ended));
        }
    }

    fn set(&mut self, run: Uuid, child: Child) {
        let before = self.children.insert(run, child).unwrap_or_default();
        self.sum = self.sum - before.held + child.held;
    }
}

/// What a draw finds in the pool that is kept, if any.
pub(super) fn look(kept: Option<&Kept>, change: &Advance, draw: &Draw) -> Found {
    match kept {
        Some(Kept::Whole(pool)) => pool.look(change, draw),
        Some(Kept::Lost(_)) | None => Found::Lost,
    }
}
