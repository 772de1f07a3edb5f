//! Halting counters: what a run has used and reserved, changed only by [`Counters::advance`].
//!
//! Counters are never the truth. The log is; a writer brings the totals that it has derived from committed events, and
//! counters that are gone or stale are overwritten from them in the same trip.
//!
//! A run tree shares through pools ([`pool`]): a parent reserves the allotments of its child runs and a pool beside them,
//! and a child that is near its end refills from the pool in the trip of its own change. Tenants and sessions share
//! through window budgets ([`budget`]), of which a run tree takes slices.

use async_trait::async_trait;
use uuid::Uuid;

pub mod budget;
pub mod memory;
pub mod pool;
pub mod redis;

mod ledger;

pub use pool::{Carve, Draw, Held, Pool, PoolRebuild};

use budget::Budgets;

/// Bound of every amount in a change: 10^15 (a million USD in nano-USD). Redis counts in doubles, which are exact to 2^53;
/// within this bound every sum stays below it.
pub const MAX_AMOUNT: i64 = 1_000_000_000_000_000;

/// Counted things, each an absolute amount or a difference. Money is nano-USD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    /// Model turns begun.
    pub steps: i64,
    /// Tool calls begun.
    pub tool_calls: i64,
    /// Input tokens of all classes.
    pub input_tokens: i64,
    /// Output tokens, reasoning included.
    pub output_tokens: i64,
    /// Cost in nano-USD.
    pub cost_nano_usd: i64,
}

/// The limits in the order in which they are checked; the first that does not hold is the one reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `max_steps`
    Steps,
    /// `max_tool_calls`
    ToolCalls,
    /// `max_input_tokens`
    InputTokens,
    /// `max_output_tokens`
    OutputTokens,
    /// `max_cost_nano_usd`
    Cost,
}

/// One change of a run's counters, made before the commit that records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Root of the run tree; its hash tag in Redis, so that a tree lives on one node.
    pub root: Uuid,
    /// The run.
    pub run: Uuid,
    /// Ownership of the writer. A lower one than the counters have seen is refused.
    pub epoch: i64,
    /// The `seq` of the event that this change precedes. Repeating the same (epoch, seq) gives the same answer.
    pub seq: i64,
    /// The `seq` of the last change that the log holds, -1 for none. Counters that saw another, or end it with other than
    /// `totals`, are stale.
    pub last_seq: i64,
    /// What the log says is used: settled plus reservations in flight, before this change.
    pub totals: Amounts,
    /// Actual use minus reservation of the calls that this change settles; may be negative.
    pub settle: Amounts,
    /// What the calls that follow may use; not negative. A counter of which nothing is reserved refuses nothing, even
    /// when a settlement has taken it over its limit.
    pub reserve: Amounts,
    /// The run's limits, committed draws included; one above [`MAX_AMOUNT`] counts as that.
    pub limits: Amounts,
    /// What happens to a pool that this run keeps for its child runs.
    pub carve: Option<Carve>,
    /// What this run, a child, draws from its parent's pool.
    pub draw: Option<Draw>,
}

impl Advance {
    /// Whether it touches a pool, its own or its parent's.
    const fn in_tree(&self) -> bool {
        self.carve.is_some() || self.draw.is_some()
    }
}

/// What the counters say of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whether the reservation was taken. A settlement is taken in either case.
    pub verdict: Verdict,
    /// What is used after the change, saturated at ±[`MAX_AMOUNT`].
    pub used: Amounts,
    /// `Some(seq they had seen)` when counters were overwritten from the totals; -1 when they were gone. Never set on
    /// the first change of a run (`last_seq` -1 and no counters).
    pub rebuilt: Option<i64>,
    /// What was drawn from the parent's pool, already counted in the verdict. The commit records it, and the run's
    /// limits grow by it. Nothing on a refusal.
    pub drawn: Amounts,
    /// The nonce of the pool that was opened ([`Pool::nonce`]); the commit records it.
    pub opened: Option<i64>,
}

/// Whether a reservation was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All of it.
    Granted,
    /// Nothing of it: it would exceed this limit.
    Refused(Limit),
}

/// Why a change got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The counters cannot be reached, or the answer was lost. The change may have happened; repeating it is safe.
    #[error("halting counters are unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A writer with a higher epoch has been here: this one has to stop.
    #[error("epoch {0} is below the epoch {1} that the counters have seen")]
    Stale(i64, i64),
    /// The pool that a draw names is gone or stale. Nothing was changed: rebuild it with this token
    /// ([`Counters::rebuild_pool`]), then repeat the change, or go on without the draw.
    #[error("the parent's pool is lost")]
    PoolLost(i64),
    /// The counters of a budget are gone, stale or of this other generation, -1 for none. Nothing was changed:
    /// [`budget`] says what to do.
    #[error("counters of the budget are lost, generation {0} is there")]
    BudgetLost(i64),
    /// This part of the change is out of bounds (amounts: [`MAX_AMOUNT`]). Nothing was changed.
    #[error("{0} is out of bounds")]
    OutOfBounds(&'static str),
}

/// The counters' contract; one suite runs over every implementation.
#[async_trait]
pub trait Counters: Budgets {
    /// Settles, draws, then reserves all or nothing, and opens or closes a pool; in one trip.
    async fn advance(&self, change: Advance) -> Result<Answer, Error>;
    /// Drops what is kept for an ended run. Losing this call only costs memory until the key expires.
    async fn forget(&self, root: Uuid, run: Uuid) -> Result<(), Error>;
    /// Like [`Self::forget`] for a run whose end is committed, before this `seq`. Counters that outlive a server's writes may
    /// remember for a while where the log ended, so that a store which comes back without that end is found out.
    async fn retire(&self, root: Uuid, run: Uuid, next_seq: i64) -> Result<(), Error> {
        let _ = next_seq;
        self.forget(root, run).await
    }
    /// Like [`Self::forget`] for a child run whose end is committed: what it leaves of its allotment and its draws goes
    /// back to the pool, where its siblings can draw it. Repeating it changes nothing, losing it only keeps the rest
    /// from the siblings until the parent closes the pool.
    async fn release(&self, root: Uuid, pool: Pool, ended: Held) -> Result<(), Error>;
    /// Puts a lost pool together again from the logs; [`pool`] says how. The first that brings the token wins, every
    /// other changes nothing.
    async fn rebuild_pool(&self, rebuild: &PoolRebuild) -> Result<(), Error>;
}
