//! Window budgets: what a tenant or a session may spend in a UTC day or in all, granted in slices.
//!
//! A run tree takes a slice at admission and on refill, and gives back what it did not use; the hot path touches only the
//! run's own counters. The committed grants are the truth, and one durable row for each (budget, window) with a
//! *generation*, 0 at first, decides which of them hold:
//!
//! 1. **Grant.** Read the row's generation; [`Budgets::grant`] with it. The grant's id comes from what asks (the admission's
//!    request, or run and `seq`), so that a retry repeats it.
//! 2. **Commit** the grant in a transaction that holds the row shared and finds the same generation in it; else roll
//!    back and begin again. So no grant of counters that were lost meanwhile is ever committed, whatever server answered.
//! 3. **Lost.** [`Error::BudgetLost`] with a generation above the one that was sent: read the row again and
//!    repeat. Otherwise take the row exclusively and add one to its generation, commit, read the committed grants, and
//!    [`Budgets::rebuild_budget`]; then repeat the grant. Who finds that somebody has raised it since it was read rebuilds
//!    nothing and begins again: two rebuilds of one generation could come before and after another loss, and the second would
//!    not know what was granted between them. A window begins this way too: its key is only ever made by a rebuild.
//! 4. **Give back** ([`Budgets::give_back`]) once the event that ends the use of the slice is committed, with what of it was
//!    not used. This closes the grant; repeating it changes nothing, losing it only keeps the rest until the window ends.
//!
//! **Thresholds.** A grant says which of 50, 80 and 100 % it was the first to reach. Repeating the grant says it again, so the
//! caller records the event in the grant's own transaction. After a rebuild the caller brings what it has recorded.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Error, MAX_AMOUNT, ledger::MAX_NUMBER};

/// Thresholds in percent of the limit.
pub const THRESHOLDS: [u8; 3] = [50, 80, 100];

/// Days that the counters of a day outlive it: for slices that are given back late.
pub const GRACE_DAYS: i64 = 3;

/// Last day that is counted; far beyond any calendar in use.
const MAX_DAY: i64 = 10_000_000;

/// What budgets count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Spend {
    /// Cost in nano-USD.
    pub cost_nano_usd: i64,
    /// Runs begun.
    pub runs: i64,
}

/// One of the counted things, in the order in which they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spent {
    /// Cost.
    Cost,
    /// Runs.
    Runs,
}

/// Whose budget it is; its hash tag in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Budget(String);

/// The time that a budget is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// A UTC day, counted from 1970-01-01.
    Day(i64),
    /// As long as its owner lives.
    Lifetime,
}

/// What is asked of a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The budget.
    pub budget: Budget,
    /// Its window.
    pub window: Window,
    /// Generation of the budget's row.
    pub generation: i64,
    /// The grant; repeating it gives the same answer.
    pub id: Uuid,
    /// The budget's limits. [`MAX_AMOUNT`] and above is none, and has no thresholds.
    pub limit: Spend,
    /// Wanted at most.
    pub want: Spend,
    /// With less than this of either, nothing is granted; at most `want`.
    pub least: Spend,
}

/// What a budget says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whether there was a slice.
    pub verdict: Granted,
    /// Granted and not given back, this slice included.
    pub used: Spend,
    /// The limit that was asked with.
    pub limit: Spend,
    /// Thresholds that this grant was the first to reach, cost first, rising.
    pub crossed: Vec<Threshold>,
}

/// Whether there was a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// This much, from `least` to `want`.
    Slice(Spend),
    /// Less than `least` is left of this.
    Exhausted(Spent),
}

/// A share of a limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Of what.
    pub of: Spent,
    /// One of [`THRESHOLDS`].
    pub percent: u8,
}

/// A slice that is not needed any longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveBack {
    /// The budget.
    pub budget: Budget,
    /// The window that it was granted in.
    pub window: Window,
    /// The grant.
    pub id: Uuid,
    /// What of it was not used; what is above the grant counts as the grant.
    pub unused: Spend,
}

/// A lost budget as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetRebuild {
    /// The budget.
    pub budget: Budget,
    /// Its window.
    pub window: Window,
    /// The generation that the row was raised to before the grants were read.
    pub generation: i64,
    /// What closed grants have used.
    pub closed: Spend,
    /// Open grants, whole.
    pub open: Vec<(Uuid, Spend)>,
    /// The highest thresholds that are recorded, 0 for none: of cost, of runs.
    pub recorded: [u8; 2],
}

/// The contract of window budgets; the module's text has the protocol.
#[async_trait]
pub trait Budgets: Send + Sync + 'static {
    /// Takes a slice.
    async fn grant(&self, slice: &Slice) -> Result<Grant, Error>;
    /// Closes a grant. One that the counters do not know is none of theirs any more.
    async fn give_back(&self, back: &GiveBack) -> Result<(), Error>;
    /// Puts a lost budget together again. Changes nothing when this generation or a later one is there and whole.
    async fn rebuild_budget(&self, rebuild: &BudgetRebuild) -> Result<(), Error>;
}

impl Budget {
    /// A tenant's budget.
    #[must_use]
    pub fn tenant(tenant: &str) -> Self {
        Self(format!("tenant:{}", escaped(tenant)))
    }

    /// A session's budget.
    #[must_use]
    pub fn session(session: Uuid) -> Self {
        Self(format!("session:{session}"))
    }

    /// Its name in keys: no braces, no blanks.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Braces would move the key to another node of a cluster.
fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            text.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02x}");
        }
        text
    })
}

impl Spend {
    pub(super) const fn in_order(self) -> [i64; 2] {
        [self.cost_nano_usd, self.runs]
    }

    pub(super) const fn from_order([cost_nano_usd, runs]: [i64; 2]) -> Self {
        Self { cost_nano_usd, runs }
    }

    fn zip(self, other: Self, op: impl Fn(i64, i64) -> i64) -> Self {
        let (a, b) = (self.in_order(), other.in_order());
        Self::from_order([op(a[0], b[0]), op(a[1], b[1])])
    }

    fn bounded(self) -> bool {
        self.in_order().iter().all(|amount| (0..=MAX_AMOUNT).contains(amount))
    }
}

impl Spent {
    /// All of them, in the order in which they are checked.
    pub(super) const IN_ORDER: [Self; 2] = [Self::Cost, Self::Runs];
}

impl Window {
    fn sound(self) -> bool {
        match self {
            Self::Day(day) => (0..=MAX_DAY).contains(&day),
            Self::Lifetime => true,
        }
    }
}

/// What of a limit each threshold is, rounded up; `None` where there is no limit.
pub(super) fn marks(limit: i64) -> Option<[i64; 3]> {
    let share = |percent: u8| {
        let whole = limit / 100 * i64::from(percent);
        whole + (limit % 100 * i64::from(percent) + 99) / 100
    };
    (1..MAX_AMOUNT).contains(&limit).then(|| THRESHOLDS.map(share))
}

/// The thresholds above one mark, up to another.
pub(super) fn crossed(marks: [(u8, u8); 2]) -> Vec<Threshold> {
    let of = Spent::IN_ORDER.into_iter().zip(marks);
    of.flat_map(|(of, (from, to))| {
        THRESHOLDS
            .into_iter()
            .filter(move |at| (from + 1..=to).contains(at))
            .map(move |percent| Threshold { of, percent })
    })
    .collect()
}

pub(super) fn check_slice(slice: &Slice) -> Result<(), Error> {
    let wanted = slice.want.bounded() && slice.least.bounded() && slice.least == slice.least.zip(slice.want, i64::min);
    let checks = [
        ("window", slice.window.sound()),
        ("generation", (0..=MAX_NUMBER).contains(&slice.generation)),
        ("limit", slice.limit.in_order().iter().all(|limit| *limit >= 0)),
        ("slice", wanted),
    ];
    checks.iter().find(|(_, holds)| !holds).map_or(Ok(()), |(what, _)| Err(Error::OutOfBounds(what)))
}

pub(super) fn check_back(back: &GiveBack) -> Result<(), Error> {
    if back.window.sound() && back.unused.bounded() { Ok(()) } else { Err(Error::OutOfBounds("what is given back")) }
}

/// What is used by a rebuilt budget.
pub(super) fn check_rebuild(rebuild: &BudgetRebuild) -> Result<Spend, Error> {
    let ids: HashSet<Uuid> = rebuild.open.iter().map(|(id, _)| *id).collect();
    let sums = rebuild.open.iter().fold(rebuild.closed, |sum, (_, amount)| sum.zip(*amount, i64::saturating_add));
    let sound = ids.len() == rebuild.open.len()
        && rebuild.open.iter().all(|(_, amount)| amount.bounded())
        && rebuild.closed.bounded()
        && sums.bounded()
        && rebuild.window.sound()
        && (0..=MAX_NUMBER).contains(&rebuild.generation);
    if sound { Ok(sums) } else { Err(Error::OutOfBounds("budget")) }
}

/// What is remembered of a budget's window.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    generation: i64,
    used: Spend,
    reached: [u8; 2],
    grants: HashMap<Uuid, KeptGrant>,
}

#[derive(Debug, Clone, Copy)]
struct KeptGrant {
    amount: Spend,
    crossed: [(u8, u8); 2],
}

impl Kept {
    pub(super) fn rebuilt(rebuild: &BudgetRebuild, used: Spend) -> Self {
        let grant = |&(id, amount): &(Uuid, Spend)| (id, KeptGrant { amount, crossed: [(0, 0); 2] });
        let grants = rebuild.open.iter().map(grant).collect();
        Self { generation: rebuild.generation, used, reached: rebuild.recorded, grants }
    }

    pub(super) const fn generation(&self) -> i64 {
        self.generation
    }

    pub(super) fn grant(&mut self, slice: &Slice) -> Result<Grant, Error> {
        if self.generation != slice.generation {
            return Err(Error::BudgetLost(self.generation));
        }
        let answer = |kept: &Self, verdict, crossed| Grant { verdict, used: kept.used, limit: slice.limit, crossed };
        if let Some(grant) = self.grants.get(&slice.id) {
            return Ok(answer(self, Granted::Slice(grant.amount), crossed(grant.crossed)));
        }
        let limit = slice.limit.zip(Spend { cost_nano_usd: MAX_AMOUNT, runs: MAX_AMOUNT }, i64::min);
        let left = limit.zip(self.used, |limit, used| (limit - used).max(0));
        let amount = slice.want.zip(left, i64::min);
        let short = (0..2).find(|&i| amount.in_order()[i] < slice.least.in_order()[i]);
        if let Some(short) = short {
            return Ok(answer(self, Granted::Exhausted(Spent::IN_ORDER[short]), Vec::new()));
        }
        self.used = self.used.zip(amount, i64::saturating_add);
        let mut reached = [(0, 0); 2];
        for (i, (from, to)) in reached.iter_mut().enumerate() {
            *from = self.reached[i];
            let marks = marks(slice.limit.in_order()[i]).unwrap_or([i64::MAX; 3]);
            let at = THRESHOLDS.into_iter().zip(marks).filter(|(_, mark)| self.used.in_order()[i] >= *mark);
            *to = at.map(|(percent, _)| percent).max().unwrap_or(0).max(*from);
            self.reached[i] = *to;
        }
        self.grants.insert(slice.id, KeptGrant { amount, crossed: reached });
        Ok(answer(self, Granted::Slice(amount), crossed(reached)))
    }

    pub(super) fn give_back(&mut self, back: &GiveBack) {
        if let Some(grant) = self.grants.remove(&back.id) {
            let unused = back.unused.zip(grant.amount, i64::min);
            self.used = self.used.zip(unused, |used, unused| used - unused);
        }
    }
}
