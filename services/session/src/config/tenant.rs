//! `[session.tenants.NAME]`: what holds for one tenant, named as its credentials name it. Not reloadable.

use std::collections::BTreeMap;

use mar_runtime::config::Validate;
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};

use crate::budgets::BudgetLimit;
use crate::counters::MAX_AMOUNT;
use crate::tenants::{Tenants, Terms};

/// Most root runs of a day that a tenant can be limited to.
const MAX_RUNS: i64 = 1_000_000_000;
/// Characters of a tenant's name.
const MAX_NAME: usize = 128;

/// `[session.tenants]` by the tenant's name.
pub type TenantConfigs = BTreeMap<String, TenantConfig>;

/// `[session.tenants.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantConfig {
    /// Nothing of the tenant is erased or pruned while this is `true`; `false` by default.
    pub legal_hold: bool,
    /// What the tenant's runs may use in a UTC day; without limits by default.
    pub budget: TenantBudgetConfig,
}

/// `[session.tenants.NAME.budget]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantBudgetConfig {
    /// Cost in nano-USD, 0 to 10^15.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_nano_usd_per_day: Option<i64>,
    /// Root runs, 0 to 1,000,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_runs_per_day: Option<i64>,
}

impl Validate for TenantBudgetConfig {
    fn validate(&self, found: &mut Violations) {
        let within = |value: Option<i64>, most: i64| value.is_none_or(|value| (0..=most).contains(&value));
        let cost = within(self.max_cost_nano_usd_per_day, MAX_AMOUNT);
        found.require(cost, "max_cost_nano_usd_per_day", format!("must be 0 to {MAX_AMOUNT}"));
        let runs = within(self.max_runs_per_day, MAX_RUNS);
        found.require(runs, "max_runs_per_day", format!("must be 0 to {MAX_RUNS}"));
    }
}

impl TenantConfig {
    fn terms(&self) -> Terms {
        Terms {
            legal_hold: self.legal_hold,
            budget: BudgetLimit {
                cost_nano_usd: self.budget.max_cost_nano_usd_per_day,
                runs: self.budget.max_runs_per_day,
            },
        }
    }
}

impl Validate for TenantConfig {
    fn validate(&self, found: &mut Violations) {
        found.within("budget", |found| self.budget.validate(found));
    }
}

/// Records everything that is wrong with the tables of all tenants.
pub(super) fn validate(configs: &TenantConfigs, found: &mut Violations) {
    for (name, config) in configs {
        found.within(name, |found| {
            let fits = (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
            found.require(fits, "", format!("must be named with 1 to {MAX_NAME} characters, none of them a control"));
            config.validate(found);
        });
    }
}

/// The tables as the service goes by them.
pub(super) fn tenants(configs: &TenantConfigs) -> Tenants {
    Tenants::new(configs.iter().map(|(name, config)| (name.clone(), config.terms())).collect())
}

#[cfg(test)]
mod tests {
    use mar_runtime::config::{Error, Sources, load};

    use crate::Config;

    /// Everything that is found wrong with a configuration, each by its path.
    fn wrong(set: &[&str]) -> Vec<String> {
        let sources = Sources { set: set.iter().map(|&one| one.to_owned()).collect(), ..Sources::default() };
        match load::<Config>(&sources) {
            Err(Error::Invalid(found)) => found.iter().map(|one| one.field.clone()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let long = format!("session.tenants.{}.legal_hold=true", "x".repeat(129));
        let found = wrong(&["session.tenants.acme.legal_hold=1", "session.tenants.globex.legal_hold_=true", &long]);
        let own: Vec<_> = found.iter().filter(|path| path.starts_with("session.tenants.")).collect();
        assert_eq!(own.len(), 3, "{found:?}");
        assert_eq!(own[..2], ["session.tenants.acme.legal_hold", "session.tenants.globex.legal_hold_"]);
        // What is right is not told, whatever else is wrong.
        let found = wrong(&["session.tenants.acme.legal_hold=true"]);
        assert!(!found.iter().any(|path| path.starts_with("session.tenants")), "{found:?}");
    }

    #[test]
    fn what_is_laid_down_holds_for_its_tenant_alone() {
        let mut config = Config::default();
        config.tenants.insert("acme".to_owned(), super::TenantConfig { legal_hold: true, ..Default::default() });
        let tenants = config.tenants();
        assert!(tenants.of("acme").legal_hold && !tenants.of("globex").legal_hold);
    }
}
