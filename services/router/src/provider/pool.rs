//! The configured providers by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Provider;
use super::credential::Problem;

/// All providers.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    providers: BTreeMap<String, Arc<dyn Provider>>,
}

impl Pool {
    /// These providers.
    pub fn new(providers: BTreeMap<String, Arc<dyn Provider>>) -> Self {
        Self { providers }
    }

    /// The provider of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Provider>> {
        self.providers.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<dyn Provider>)> {
        self.providers.iter().map(|(name, provider)| (name.as_str(), provider))
    }

    /// A provider for people: its name, and where it answers if that is on this machine.
    pub fn place(&self, name: &str) -> String {
        let address = self.providers.get(name).and_then(|provider| provider.own_address());
        address.map_or_else(|| name.to_owned(), |address| format!("{name} at {address}"))
    }

    /// What keeps calls from a provider, if anything.
    pub fn credential_problem(&self, name: &str) -> Option<Problem> {
        match self.providers.get(name) {
            Some(provider) => provider.credential_problem(),
            None => Some(Problem::NotConfigured("the provider is not configured".to_owned())),
        }
    }
}
