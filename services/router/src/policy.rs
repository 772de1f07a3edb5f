//! Routing policies: named, versioned weights that order the models which fit.

use std::collections::BTreeMap;
use std::sync::Arc;

use mar_descriptor::{Hash, domain};
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The prefix of resource names.
pub const PREFIX: &str = "routingPolicies/";
/// The policy that exists without configuration.
pub const BALANCED: &str = "balanced";

/// All weights of a policy together, and the highest value of a term.
pub const ONE: i64 = 1_000_000;

/// What each term counts, in millionths; together a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// How good the model's answers are for the task type.
    pub quality: i64,
    /// How little it costs.
    pub price: i64,
    /// How soon its first token comes.
    pub latency: i64,
}

/// `[router.routing_policies.<name>]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Raised with every change, from 1.
    pub version: i64,
    /// For task types without weights of their own.
    pub weights: Weights,
    /// By task type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub task_types: BTreeMap<String, Weights>,
}

/// A routing policy with its hash.
#[derive(Clone, Debug)]
pub struct RoutingPolicy {
    name: String,
    config: PolicyConfig,
    hash: Hash,
}

/// All routing policies.
#[derive(Clone, Debug)]
pub struct RoutingPolicies {
    default: Arc<RoutingPolicy>,
    all: BTreeMap<String, Arc<RoutingPolicy>>,
}

impl Default for PolicyConfig {
    /// `balanced`: quality counts half, price and latency the rest.
    fn default() -> Self {
        Self {
            version: 1,
            weights: Weights { quality: 500_000, price: 300_000, latency: 200_000 },
            task_types: BTreeMap::new(),
        }
    }
}

impl PolicyConfig {
    /// Records everything that is wrong.
    pub fn validate(&self, found: &mut Violations) {
        let counted = (1..=i64::from(i32::MAX)).contains(&self.version);
        found.require(counted, "version", "must be 1 to 2147483647");
        found.within("weights", |found| self.weights.validate(found));
        for (task, weights) in &self.task_types {
            found.within(&format!("task_types.{task}"), |found| weights.validate(found));
        }
    }
}

impl Weights {
    fn validate(self, found: &mut Violations) {
        let all = [self.quality, self.price, self.latency];
        let fits = all.iter().all(|weight| (0..=ONE).contains(weight)) && all.iter().sum::<i64>() == ONE;
        found.require(fits, "", "must be millionths, none negative, that sum up to 1000000");
    }
}

impl RoutingPolicy {
    /// A policy. Weights are whole numbers, so it always has a hash; should it not, the hash is zero.
    pub fn new(name: &str, config: PolicyConfig) -> Self {
        let document = json!({
            "name": name,
            "version": config.version,
            "weights": config.weights,
            "task_types": config.task_types,
        });
        let hash = Hash::of_value(domain::ROUTING_POLICY, &document).unwrap_or(Hash::ZERO);
        Self { name: format!("{PREFIX}{name}"), config, hash }
    }

    /// `routingPolicies/{policy}`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> i64 {
        self.config.version
    }

    /// Its hash.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The weights for a task type.
    pub fn weights(&self, task_type: &str) -> Weights {
        let own = self.config.task_types.get(task_type);
        own.copied().unwrap_or(self.config.weights)
    }
}

impl RoutingPolicies {
    /// The configured policies and `balanced`, which a configured one of that name replaces. None when the default is
    /// not among them.
    pub fn try_new(configured: &BTreeMap<String, PolicyConfig>, default: &str) -> Option<Self> {
        let mut all = BTreeMap::from([(BALANCED.to_owned(), PolicyConfig::default())]);
        all.extend(configured.iter().map(|(name, config)| (name.clone(), config.clone())));
        let all: BTreeMap<_, _> = all
            .into_iter()
            .map(|(name, config)| {
                let policy = Arc::new(RoutingPolicy::new(&name, config));
                (name, policy)
            })
            .collect();
        let default = Arc::clone(all.get(default)?);
        Some(Self { default, all })
    }

    /// The policy `routingPolicies/{policy}`, with or without the prefix; the default for an empty name.
    pub fn get(&self, name: &str) -> Option<&Arc<RoutingPolicy>> {
        if name.is_empty() {
            return Some(&self.default);
        }
        self.all.get(name.strip_prefix(PREFIX).unwrap_or(name))
    }

    /// The policy of an empty name.
    pub fn default_policy(&self) -> &Arc<RoutingPolicy> {
        &self.default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_up_to_one() {
        let mut found = Violations::new();
        PolicyConfig::default().validate(&mut found);
        assert!(found.is_empty());
        let weights = Weights { price: -300_000, ..PolicyConfig::default().weights };
        let bad = PolicyConfig { version: 0, weights, task_types: [("chat".to_owned(), weights)].into() };
        bad.validate(&mut found);
        let fields: Vec<_> = found.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["version", "weights", "task_types.chat"]);
    }

    #[test]
    fn the_hash_follows_the_contents() {
        let policy = RoutingPolicy::new(BALANCED, PolicyConfig::default());
        let same = RoutingPolicy::new(BALANCED, PolicyConfig::default());
        let next = RoutingPolicy::new(BALANCED, PolicyConfig { version: 2, ..PolicyConfig::default() });
        assert_eq!(policy.hash(), same.hash());
        assert_ne!(policy.hash(), next.hash());
        assert_ne!(policy.hash(), Hash::ZERO);
    }

    #[test]
    fn names_resolve_with_and_without_prefix() {
        let all = RoutingPolicies::try_new(&BTreeMap::new(), BALANCED).unwrap();
        for name in ["", "balanced", "routingPolicies/balanced"] {
            assert_eq!(all.get(name).unwrap().name(), "routingPolicies/balanced");
        }
        assert!(all.get("other").is_none());
        assert!(RoutingPolicies::try_new(&BTreeMap::new(), "other").is_none());
    }
}
