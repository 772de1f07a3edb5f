//! What a run may use of the budgets of its tenant and its session: slices, granted before they are used.
//!
//! A run that lacks something asks for a slice and goes on when it is granted. Asking changes nothing that is durable, so
//! it is asked again after a takeover, and a grant that was made already is made again: it is known by its number.

use mar_proto::session::{BudgetScope, BudgetThreshold, EventContent, SliceGranted, WaitReason, event_leaf::Body};
use mar_proto::types::{HaltReason, OnBudget};
use time::OffsetDateTime;

use super::Effect;
use super::absorb::Plan;
use super::event::{renewing, resumed, waiting_for};
use super::next::Next;
use super::state::{Phase, State};

/// How many generations a refill is meant for, where the budget has so much.
const AHEAD: i64 = 4;

/// The shortest wait for a budget.
const AGAIN: time::Duration = time::Duration::seconds(1);

/// What a run has been granted of one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purse {
    /// Whose budget.
    pub scope: BudgetScope,
    /// Slices so far.
    pub slices: i64,
    /// Granted in all, in nano-USD.
    pub cost_nano_usd: i64,
}

/// What a run needs of a budget before it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lack {
    /// Whose budget.
    pub scope: BudgetScope,
    /// Number of the slice within the run and the budget, from 0.
    pub number: i64,
    /// With less the run cannot go on, in nano-USD.
    pub least: i64,
    /// What it would like to have, in nano-USD; not below `least`.
    pub want: i64,
    /// Runs that it counts as: 1 in the first slice.
    pub runs: i64,
}

/// A slice that was granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// Number of the slice that was asked for.
    pub number: i64,
    /// As the log will have it.
    pub slice: SliceGranted,
}

impl State {
    /// What is lacking of a budget before `cost` nano-USD may be reserved.
    pub fn lack(&self, cost: i64) -> Option<Lack> {
        self.budgets.iter().find_map(|purse| {
            let least = self.used.cost_nano_usd.saturating_add(cost).saturating_sub(purse.cost_nano_usd).max(0);
            if purse.slices > 0 && least == 0 {
                return None;
            }
            let most = self.limit_amounts().cost_nano_usd.saturating_sub(purse.cost_nano_usd);
            let want = cost.saturating_mul(AHEAD).min(most).max(least);
            let runs = i64::from(purse.slices == 0);
            Some(Lack { scope: purse.scope, number: purse.slices, least, want, runs })
        })
    }

    pub(super) fn take_slice(&mut self, granted: &SliceGranted) {
        if let Some(purse) = self.budgets.iter_mut().find(|purse| purse.scope == granted.scope()) {
            purse.slices += 1;
            purse.cost_nano_usd = purse.cost_nano_usd.saturating_add(granted.cost_nano_usd);
        }
    }

    /// Whether a slice of this number is what the run still asks for.
    fn asks_for(&self, scope: BudgetScope, number: i64) -> bool {
        self.stop.is_none() && self.budgets.iter().any(|purse| purse.scope == scope && purse.slices == number)
    }

    /// Whether nothing but a budget can keep the run from going on.
    fn only_lacks(&self) -> bool {
        !self.in_flight() && self.parks_for().is_none() && self.renews_at.is_none()
    }
}

impl Plan {
    pub(super) fn granted(&mut self, granted: &Granted, at: OffsetDateTime) {
        if !self.state.asks_for(granted.slice.scope(), granted.number) {
            return;
        }
        self.emit(at, (Body::SliceGranted(granted.slice.clone()), EventContent::default()));
        self.synthesise();
    }

    /// A budget that has too little: the run halts, or waits for the budget to be renewed.
    pub(super) fn exhausted(&mut self, scope: BudgetScope, number: i64, again_at: OffsetDateTime, at: OffsetDateTime) {
        if !self.state.asks_for(scope, number) || !self.state.only_lacks() {
            return;
        }
        if self.state.limits.on_budget() == OnBudget::Wait {
            return self.emit(at, renewing(again_at.max(at + AGAIN)));
        }
        let reason = match scope {
            BudgetScope::Session => HaltReason::SessionBudget,
            BudgetScope::Tenant | BudgetScope::Unspecified => HaltReason::TenantBudget,
        };
        self.halt(reason);
    }

    /// A budget that cannot be asked.
    pub(super) fn slice_delayed(&mut self, dependency: &str, at: OffsetDateTime) {
        let waits = matches!(
            self.state.phase,
            Phase::Pending(Some(_)) | Phase::Waiting(WaitReason::Dependency) | Phase::Ended(_)
        );
        if !waits && self.state.stop.is_none() && self.state.only_lacks() {
            self.emit(at, waiting_for(dependency));
        }
    }

    /// Asks a budget again that somebody has changed.
    pub(super) fn renew_now(&mut self, at: OffsetDateTime) {
        if self.state.renews_at.is_some() && self.state.stop.is_none() {
            let draft = resumed(&self.state, WaitReason::Budget);
            self.emit(at, draft);
            self.synthesise();
        }
    }

    /// Goes on when the budget may have been renewed.
    pub(super) fn renew(&mut self) {
        let due = self.state.renews_at.is_some_and(|at| self.now >= at);
        if due && self.state.stop.is_none() && !self.draining {
            let draft = resumed(&self.state, WaitReason::Budget);
            self.emit(self.now, draft);
            self.synthesise();
        }
    }

    /// What comes next, if the slices cover it; else the slice that is lacking is asked for.
    pub(super) fn covered(&mut self, next: Next) -> Next {
        if next == Next::Nothing {
            return next;
        }
        match self.state.lack(next.reservation().cost_nano_usd) {
            None => next,
            Some(lack) => {
                self.effects.push(Effect::Refill(lack));
                Next::Nothing
            }
        }
    }
}

/// A threshold that was reached.
pub fn threshold(unit: mar_proto::session::BudgetUnit, percent: u8) -> BudgetThreshold {
    BudgetThreshold { unit: unit.into(), percent: percent.into() }
}
