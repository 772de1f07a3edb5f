//! `[session.tenants.NAME]`: what holds for one tenant, named as its credentials name it. Not reloadable.

use std::collections::BTreeMap;

use mar_runtime::config::Validate;
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};

use crate::tenants::{Tenants, Terms};

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
}

impl TenantConfig {
    fn terms(&self) -> Terms {
        Terms { legal_hold: self.legal_hold }
    }
}

impl Validate for TenantConfig {
    fn validate(&self, _: &mut Violations) {}
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
        config.tenants.insert("acme".to_owned(), super::TenantConfig { legal_hold: true });
        let tenants = config.tenants();
        assert!(tenants.of("acme").legal_hold && !tenants.of("globex").legal_hold);
    }
}
