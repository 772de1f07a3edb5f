//! `[session.tenants.NAME]`: what holds for one tenant, named as its credentials name it. Not reloadable.

use std::collections::BTreeMap;
use std::time::Duration;

use mar_runtime::config::Validate;
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};

use super::hook::HookConfig;
use crate::budgets::BudgetLimit;
use crate::counters::MAX_AMOUNT;
use crate::hooks::Hook;
use crate::store::hook::Hooked;
use crate::tenants::{Tenants, Terms};

/// Most root runs of a day that a tenant can be limited to.
const MAX_RUNS: i64 = 1_000_000_000;
/// How long a session may be idle, at least and at most.
pub(crate) const IDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 86_400));
/// The longest retention.
const MOST_RETENTION: Duration = Duration::from_secs(100 * 366 * 86_400);
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
    /// Ends sessions that state no idle timeout when nothing has happened in them for so long; 1 s to 30 days. Never by default.
    #[serde(with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// Destroys the payloads of sessions that ended so long ago; 1 s to 100 years. By default they are kept.
    #[serde(with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub retention: Option<Duration>,
    /// Where to tell what happens in the tenant's sessions, by name: `[a-z][a-z0-9-]{0,31}`.
    pub hooks: BTreeMap<String, HookConfig>,
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
        let &Self { legal_hold, idle_timeout, retention, budget, .. } = self;
        let budget = BudgetLimit { cost_nano_usd: budget.max_cost_nano_usd_per_day, runs: budget.max_runs_per_day };
        Terms { legal_hold, budget, idle_timeout, retention }
    }
}

impl Validate for TenantConfig {
    fn validate(&self, found: &mut Violations) {
        found.within("budget", |found| self.budget.validate(found));
        let fits = |span: Option<Duration>, most| span.is_none_or(|span| (IDLE.0..=most).contains(&span));
        found.require(fits(self.idle_timeout, IDLE.1), "idle_timeout", "must be 1s to 30days");
        found.require(fits(self.retention, MOST_RETENTION), "retention", "must be 1s to 100years");
        found.within("hooks", |found| {
            for (name, hook) in &self.hooks {
                found.within(name, |found| {
                    found.require(is_hook_name(name), "", "must be named `[a-z][a-z0-9-]{0,31}`");
                    hook.validate(found);
                });
            }
        });
    }
}

/// Whether a hook may have this name.
pub(crate) fn is_hook_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 32 && bytes.next().is_some_and(|first| first.is_ascii_lowercase()) && bytes.all(rest)
}

/// The hooks of all tenants.
pub(super) fn hooks(configs: &TenantConfigs) -> Result<Vec<Hook>, String> {
    let all = configs.iter().flat_map(|(tenant, config)| config.hooks.iter().map(move |hook| (tenant, hook)));
    all.map(|(tenant, (name, hook))| hook.hook(tenant, name)).collect()
}

/// The names of each tenant's hooks.
pub(super) fn hooked(configs: &TenantConfigs) -> Hooked {
    let names = |config: &TenantConfig| config.hooks.keys().cloned().collect::<Vec<_>>();
    let with_some = configs.iter().filter(|(_, config)| !config.hooks.is_empty());
    Hooked::new(with_some.map(|(tenant, config)| (tenant.clone(), names(config))).collect())
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
        let spans = ["session.tenants.acme.idle_timeout='999ms'", "session.tenants.acme.retention='101years'"];
        let found = wrong(&[
            "session.tenants.acme.legal_hold=1",
            "session.tenants.globex.legal_hold_=true",
            &long,
            spans[0],
            spans[1],
            "session.tenants.globex.retention='soon'",
        ]);
        let own: Vec<_> = found.iter().filter(|path| path.starts_with("session.tenants.")).collect();
        for path in ["acme.idle_timeout", "acme.retention", "globex.retention"] {
            assert!(own.contains(&&format!("session.tenants.{path}")), "{path}: {found:?}");
        }
        assert_eq!(own.len(), 6, "{found:?}");
        for path in ["acme.legal_hold", "globex.legal_hold_"] {
            assert!(own.contains(&&format!("session.tenants.{path}")), "{path}: {found:?}");
        }
        // What is right is not told, whatever else is wrong.
        let found = wrong(&["session.tenants.acme.legal_hold=true"]);
        assert!(!found.iter().any(|path| path.starts_with("session.tenants")), "{found:?}");
    }

    #[test]
    fn a_hook_is_checked_as_a_whole() {
        let found =
            wrong(&["session.tenants.acme.hooks.Audit.url='ftp://x'", "session.tenants.acme.hooks.b.retry='1ms'"]);
        for path in ["Audit", "Audit.url", "Audit.secret", "b.url", "b.secret", "b.retry"] {
            let path = format!("session.tenants.acme.hooks.{path}");
            assert!(found.contains(&path), "{path}: {found:?}");
        }
        let kinds = wrong(&["session.tenants.acme.hooks.b.kinds=['run.state', 'run.text']"]);
        assert!(kinds.iter().any(|path| path.starts_with("session.tenants.acme.hooks.b.kinds")), "{kinds:?}");
    }

    #[test]
    fn what_is_laid_down_holds_for_its_tenant_alone() {
        let mut config = Config::default();
        config.tenants.insert("acme".to_owned(), super::TenantConfig { legal_hold: true, ..Default::default() });
        let tenants = config.tenants();
        assert!(tenants.of("acme").legal_hold && !tenants.of("globex").legal_hold);
    }
}
