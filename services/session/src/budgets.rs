//! Slices of the budgets of tenants and sessions: granted before they are used, given back when a run has ended.
//!
//! Counters say at once what is left; the store says what was granted, and holds against counters that were lost
//! meanwhile. [`crate::counters::budget`] has the protocol.

use std::sync::Arc;

use mar_proto::session::{BudgetScope, BudgetUnit, SessionBudget, SliceGranted};
use mar_runtime::clock::Clock;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::counters::budget::Granted as Verdict;
use crate::counters::budget::{Budget, BudgetRebuild, GiveBack, Grant, Slice, Spend, Spent, Window};
use crate::counters::{self, Counters, MAX_AMOUNT};
use crate::run::{self, Lack};
use crate::store::{self, BudgetKey, SliceRow, Store};

/// How often the counters of a budget may be found lost while one slice is asked for.
const ROUNDS: usize = 8;

/// When a budget without days is asked again: other runs may have given slices back. Who raises one has it asked at once.
const LOOK_AGAIN: Duration = Duration::minutes(10);

/// Who asks, and of what budgets.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The session.
    pub session: Uuid,
    /// The run.
    pub run: Uuid,
}

/// What a budget may be used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BudgetLimit {
    /// In nano-USD; none: without limit.
    pub cost_nano_usd: Option<i64>,
    /// Root runs; none: without limit.
    pub runs: Option<i64>,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A slice, committed.
    Granted(run::Granted),
    /// There is less than was lacking.
    Exhausted {
        /// When it is worth asking again.
        again_at: OffsetDateTime,
    },
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not answer, or not with what was expected.
    #[error("the budget's rows cannot be read")]
    Store(#[from] store::Error),
    /// The counters did not answer, or lost the budget again and again.
    #[error("the budget's counters cannot be asked")]
    Counters(#[from] counters::Error),
}

impl BudgetLimit {
    /// A session's budget.
    pub fn of_session(budget: &SessionBudget) -> Self {
        Self { cost_nano_usd: budget.max_cost_nano_usd, runs: budget.max_runs }
    }

    /// Whether anything is limited.
    pub fn binds(&self) -> bool {
        self.cost_nano_usd.is_some() || self.runs.is_some()
    }

    fn spend(&self) -> Spend {
        let most = |limit: Option<i64>| limit.unwrap_or(MAX_AMOUNT);
        Spend { cost_nano_usd: most(self.cost_nano_usd), runs: most(self.runs) }
    }
}

/// Store and counters as budgets need them.
#[derive(Clone)]
pub struct Budgets {
    store: Arc<dyn Store>,
    counters: Arc<dyn Counters>,
    clock: Arc<dyn Clock>,
}

impl Budgets {
    /// Over these.
    pub fn new(store: Arc<dyn Store>, counters: Arc<dyn Counters>, clock: Arc<dyn Clock>) -> Self {
        Self { store, counters, clock }
    }

    /// Asks for what a run lacks. Repeating it, after a crash as well, gives the slice that was granted.
    ///
    /// # Errors
    /// Store or counters do not answer; asking again is safe.
    pub async fn ask(&self, claim: &Claim<'_>, lack: Lack, limit: BudgetLimit) -> Result<Answer, Error> {
        let now = self.clock.now();
        let (budget, window) = scoped(claim, lack.scope, now);
        let key = key(&budget, window);
        let mut slice = Slice {
            id: grant_id(claim.run, &lack, &key),
            budget,
            window,
            generation: 0,
            limit: limit.spend(),
            want: Spend { cost_nano_usd: lack.want.min(MAX_AMOUNT), runs: lack.runs },
            least: Spend { cost_nano_usd: lack.least.min(MAX_AMOUNT), runs: lack.runs },
        };
        let mut last = None;
        for _ in 0..ROUNDS {
            slice.generation = self.store.budget_generation(claim.tenant, &key).await?;
            match self.counters.grant(&slice).await {
                Ok(Grant { verdict: Verdict::Exhausted(_), .. }) => {
                    return Ok(Answer::Exhausted { again_at: renewal(window, now) });
                }
                Ok(Grant { verdict: Verdict::Slice(granted), crossed, .. }) => {
                    let mut reached = [0, 0];
                    for threshold in &crossed {
                        let at = usize::from(threshold.of == Spent::Runs);
                        reached[at] = threshold.percent.max(reached[at]);
                    }
                    let row = SliceRow { id: slice.id, key: key.clone(), run: claim.run, granted };
                    if self.store.slice_put(claim.tenant, &row, slice.generation, reached).await? {
                        let crossed =
                            crossed.iter().map(|threshold| run::threshold(unit(threshold.of), threshold.percent));
                        return Ok(Answer::Granted(run::Granted {
                            number: lack.number,
                            slice: SliceGranted {
                                scope: lack.scope.into(),
                                slice: slice.id.to_string(),
                                day: key.day,
                                cost_nano_usd: granted.cost_nano_usd,
                                runs: granted.runs,
                                crossed: crossed.collect(),
                            },
                        }));
                    }
                }
                Err(counters::Error::BudgetLost(there)) => {
                    // A higher generation than ours was read between our two looks at it: look again.
                    if there <= slice.generation {
                        self.rebuild(claim.tenant, &slice, &key).await?;
                    }
                    last = Some(counters::Error::BudgetLost(there));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.unwrap_or(counters::Error::BudgetLost(slice.generation)).into())
    }

    async fn rebuild(&self, tenant: &str, slice: &Slice, key: &BudgetKey) -> Result<(), Error> {
        // Somebody else has raised it, and rebuilds it.
        let Some(ledger) = self.store.budget_raise(tenant, key, slice.generation).await? else { return Ok(()) };
        tracing::info!(budget = %key.budget, budget.day = key.day, budget.generation = ledger.generation, "budget rebuilt");
        let rebuild = BudgetRebuild {
            budget: slice.budget.clone(),
            window: slice.window,
            generation: ledger.generation,
            closed: ledger.closed,
            open: ledger.open,
            recorded: ledger.reached,
        };
        Ok(self.counters.rebuild_budget(&rebuild).await?)
    }

    /// Gives back what a run that has ended did not use of its slices. Repeating it is safe.
    ///
    /// # Errors
    /// The store does not answer. Counters that do not are none: what they keep lapses with the window or their next loss.
    pub async fn settle(&self, claim: &Claim<'_>, used_nano_usd: i64) -> Result<(), store::Error> {
        let open = self.store.slice_list(claim.tenant, claim.run).await?;
        let mut left: std::collections::BTreeMap<String, i64> = std::collections::BTreeMap::new();
        for row in open {
            let left = left.entry(row.key.budget.clone()).or_insert_with(|| used_nano_usd.max(0));
            let used = row.granted.cost_nano_usd.min(*left);
            *left -= used;
            let spent = Spend { cost_nano_usd: used, runs: row.granted.runs };
            self.store.slice_close(claim.tenant, row.id, spent).await?;
            let Some((budget, window)) = named(claim, &row.key) else { continue };
            let unused = Spend { cost_nano_usd: row.granted.cost_nano_usd - used, runs: 0 };
            if let Err(error) = self.counters.give_back(&GiveBack { budget, window, id: row.id, unused }).await {
                tracing::debug!(run.id = %claim.run, error = %error, "slice not given back to the counters");
            }
        }
        Ok(())
    }
}

fn scoped(claim: &Claim<'_>, scope: BudgetScope, now: OffsetDateTime) -> (Budget, Window) {
    match scope {
        BudgetScope::Session => (Budget::session(claim.session), Window::Lifetime),
        BudgetScope::Tenant | BudgetScope::Unspecified => {
            (Budget::tenant(claim.tenant), Window::Day(now.unix_timestamp().div_euclid(86_400)))
        }
    }
}

fn key(budget: &Budget, window: Window) -> BudgetKey {
    let day = match window {
        Window::Day(day) => day,
        Window::Lifetime => -1,
    };
    BudgetKey { budget: budget.as_str().to_owned(), day }
}

/// The budget of a stored slice.
fn named(claim: &Claim<'_>, key: &BudgetKey) -> Option<(Budget, Window)> {
    let window = if key.day < 0 { Window::Lifetime } else { Window::Day(key.day) };
    let budgets = [Budget::tenant(claim.tenant), Budget::session(claim.session)];
    budgets.into_iter().find(|budget| budget.as_str() == key.budget).map(|budget| (budget, window))
}

/// When a window ends; a budget without days is looked at again after a while.
fn renewal(window: Window, now: OffsetDateTime) -> OffsetDateTime {
    match window {
        Window::Day(day) => {
            let midnight = day.saturating_add(1).saturating_mul(86_400);
            OffsetDateTime::from_unix_timestamp(midnight).unwrap_or(now + LOOK_AGAIN)
        }
        Window::Lifetime => now + LOOK_AGAIN,
    }
}

/// The same for the same question, whoever asks it again.
fn grant_id(run: Uuid, lack: &Lack, key: &BudgetKey) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"mcp-agent-runtime/slice/v1\n");
    hash.update(run.as_bytes());
    hash.update(lack.number.to_be_bytes());
    hash.update(key.day.to_be_bytes());
    hash.update(key.budget.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn unit(of: Spent) -> BudgetUnit {
    match of {
        Spent::Cost => BudgetUnit::Cost,
        Spent::Runs => BudgetUnit::Runs,
    }
}
