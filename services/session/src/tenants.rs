//! What the operator lays down for each tenant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::budgets::BudgetLimit;

/// What holds for one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Nothing of the tenant is erased or pruned, whoever asks.
    pub legal_hold: bool,
    /// What its runs may use in a UTC day.
    pub budget: BudgetLimit,
    /// Ends the tenant's sessions that state nothing else when nothing has happened in them for so long.
    pub idle_timeout: Option<Duration>,
    /// Payloads of sessions that ended so long ago are destroyed; `None`: they are kept.
    pub retention: Option<Duration>,
}

/// The terms of all tenants; one that none are laid down for has the default. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenants {
    terms: Arc<BTreeMap<String, Terms>>,
    default: Terms,
}

impl Tenants {
    /// With these terms by tenant.
    #[must_use]
    pub fn new(terms: BTreeMap<String, Terms>) -> Self {
        Self { terms: Arc::new(terms), default: Terms::default() }
    }

    /// What holds for a tenant.
    #[must_use]
    pub fn of(&self, tenant: &str) -> &Terms {
        self.terms.get(tenant).unwrap_or(&self.default)
    }

    /// The tenants that terms are laid down for, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Terms)> {
        self.terms.iter().map(|(tenant, terms)| (tenant.as_str(), terms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_without_terms_has_the_default() {
        let held = Terms { legal_hold: true, ..Terms::default() };
        let tenants = Tenants::new(BTreeMap::from([("acme".to_owned(), held.clone())]));
        assert_eq!(tenants.of("acme"), &held);
        assert_eq!(tenants.of("globex"), &Terms::default());
        assert!(!tenants.of("").legal_hold);
        assert_eq!(tenants.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["acme"]);
    }
}
