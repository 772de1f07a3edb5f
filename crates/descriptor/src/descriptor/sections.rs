//! The sections of a descriptor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ON_BUDGET_HALT, POLICY_LAYERS, TrustTier};
use crate::{
    canonical,
    error::Error,
    hash::{Hash, domain},
};

/// Which models may act, in which roles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// By role name, such as `reason`, `summarise` or `see`.
    pub roles: BTreeMap<String, ModelRole>,
    /// The rule set that orders the admitted models at dispatch.
    pub routing_policy: PolicyRef,
}

/// One role that models play for the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRole {
    /// What a model must be able to do to be admitted.
    pub requirement: Requirement,
    /// The models that the static constraints admit, sorted by name. Fallback and hedging never leave this set.
    pub admitted: Vec<AdmittedModel>,
    /// How answers are sampled.
    pub sampling: Sampling,
}

/// Static constraints on a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// Must call tools, natively or constrained.
    pub tools: bool,
    /// Must answer in a given JSON Schema.
    pub structured_output: bool,
    /// Must stream.
    pub streaming: bool,
    /// Modalities that it must read, a sorted set.
    pub input_modalities: Vec<String>,
    /// The lowest admitted [`TrustTier`], by its name.
    pub min_trust_tier: String,
    /// Where data may go, a sorted set; empty for anywhere.
    pub residency: Vec<String>,
    /// Allowed providers, a sorted set; empty for any.
    pub providers: Vec<String>,
    /// The smallest context window, in tokens; 0 for any.
    pub min_context_tokens: i64,
}

impl Requirement {
    /// The lowest admitted tier, or none when the name is unknown.
    #[must_use]
    pub fn trust_tier(&self) -> Option<TrustTier> {
        self.min_trust_tier.parse().ok()
    }
}

impl Default for Requirement {
    fn default() -> Self {
        Self {
            tools: false,
            structured_output: false,
            streaming: false,
            input_modalities: Vec::new(),
            min_trust_tier: TrustTier::Unverified.as_str().to_owned(),
            residency: Vec::new(),
            providers: Vec::new(),
            min_context_tokens: 0,
        }
    }
}

/// A model that may be used, pinned to what it was said to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmittedModel {
    /// The catalogue's name of the model.
    pub model: String,
    /// The hash of its spec without prices.
    pub spec_hash: Hash,
}

/// How answers are sampled. Fractions are decimal strings in the form of [`crate::decimal`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// At least 0; none leaves it to the provider.
    pub temperature: Option<String>,
    /// Within 0 and 1; none leaves it to the provider.
    pub top_p: Option<String>,
    /// None for no fixed seed.
    pub seed: Option<i64>,
    /// The most tokens of one answer, reasoning included.
    pub max_output_tokens: i64,
}

/// A named, versioned routing policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    /// Its name; empty together with version 0 and a zero hash when the descriptor uses no model.
    pub name: String,
    /// Its version, at least 0.
    pub version: i64,
    /// The hash of its text.
    pub hash: Hash,
}

impl Default for PolicyRef {
    fn default() -> Self {
        Self { name: String::new(), version: 0, hash: Hash::ZERO }
    }
}

/// What the models are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSection {
    /// The prompt recipe, if one is used.
    pub recipe: Option<RecipeRef>,
    /// The rendered system text.
    pub system: String,
    /// Hashes of the few-shot examples, in the order in which they are shown.
    pub examples: Vec<Hash>,
    /// The *names* of the parameters that a task fills in, a sorted set; values are the task's own.
    pub parameters: Vec<String>,
    /// The JSON Schema of the final answer, as text in its [`canonical::foreign`] form.
    ///
    /// Text and not a JSON value: schemas are the caller's and may hold fractions (`"multipleOf": 0.1`) and large
    /// integers, which the canonical form refuses because implementations do not agree on them. As a string the schema
    /// reaches every implementation byte for byte.
    pub output_schema: Option<String>,
    /// The names of the prompt optimizer steps that were applied, in their order.
    pub steps: Vec<String>,
    /// What models are told in roles besides the agent's own, by role name, such as `summarise`.
    pub roles: BTreeMap<String, RolePrompt>,
}

impl PromptSection {
    /// Stores an output schema in its one spelling.
    ///
    /// # Errors
    /// When the schema is nested too deeply or too large.
    pub fn set_output_schema(&mut self, schema: &Value) -> Result<(), canonical::Error> {
        self.output_schema = Some(canonical::foreign(schema)?);
        Ok(())
    }

    /// The output schema as JSON, if there is one.
    ///
    /// # Errors
    /// [`Error::Shape`] when the text is not JSON.
    pub fn output_schema_json(&self) -> Result<Option<Value>, Error> {
        self.output_schema.as_deref().map(serde_json::from_str).transpose().map_err(Error::Shape)
    }
}

/// What a model is told in a role besides the agent's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolePrompt {
    /// The hash of `text` under [`domain::ROLE_PROMPT`].
    pub hash: Hash,
    /// The rendered text.
    pub text: String,
}

impl RolePrompt {
    /// A prompt with the hash of its text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { hash: Self::text_hash(&text), text }
    }

    /// The hash that a prompt with this text must state.
    #[must_use]
    pub fn text_hash(text: &str) -> Hash {
        Hash::of(domain::ROLE_PROMPT, text.as_bytes())
    }
}

/// A named, versioned prompt recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeRef {
    /// Its name.
    pub name: String,
    /// Its version, at least 0.
    pub version: i64,
    /// The hash of its text.
    pub hash: Hash,
}

/// What the agent is and what it may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    /// Its role, in a few words.
    pub role: String,
    /// The tools that it may call, sorted by name. No others can be reached.
    pub tools: Vec<SealedTool>,
}

impl AgentSection {
    /// The tool that the model knows by this alias.
    #[must_use]
    pub fn tool_by_alias(&self, alias: &str) -> Option<&SealedTool> {
        self.tools.iter().find(|tool| tool.alias == alias)
    }

    /// The tool with this full name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&SealedTool> {
        self.tools.iter().find(|tool| tool.name == name)
    }
}

/// A tool, pinned to its definition at the time of sealing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedTool {
    /// The full name, `upstream.tool`.
    pub name: String,
    /// The name that the model is told: 1 to 64 of `A-Z a-z 0-9 _ -`, as every provider accepts it; unique.
    pub alias: String,
    /// The pin: the hash of the tool's definition.
    pub definition_hash: Hash,
    /// Whether the operator declares that a repeated call with the same key has one effect.
    pub idempotent: bool,
    /// Whether the operator declares that a call changes nothing.
    pub read_only: bool,
    /// How a call is resolved of which nobody knows whether it took effect; without it the model is told.
    pub doubt: Option<Doubt>,
}

/// What the operator declares about calls whose outcome nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doubt {
    /// What can be asked.
    pub probe: Option<Probe>,
    /// [`ON_UNKNOWN_TELL_MODEL`] or [`ON_UNKNOWN_ASK_HUMAN`].
    ///
    /// [`ON_UNKNOWN_TELL_MODEL`]: super::ON_UNKNOWN_TELL_MODEL
    /// [`ON_UNKNOWN_ASK_HUMAN`]: super::ON_UNKNOWN_ASK_HUMAN
    pub on_unknown: String,
    /// Where a human is asked: the group that may decide; empty for whoever may at all.
    pub group: String,
    /// Where a human is asked: how long the question stands, in milliseconds; else 0.
    pub expires_after_ms: i64,
}

/// A read-only tool of the same upstream that says whether a call with a key took effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The full name, `upstream.tool`.
    pub tool: String,
    /// The pin: the hash of its definition.
    pub definition_hash: Hash,
    /// The argument that takes the idempotency key.
    pub key_argument: String,
    /// How long after its issue a call may still take effect, in milliseconds.
    pub settles_after_ms: i64,
}

/// What the agent is allowed to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySection {
    /// The layers from the widest to the narrowest, by name within a layer.
    pub alignment_policy: Vec<PolicyLayer>,
}

/// One layer of alignment policy with its full text, so that a deciding service needs nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyLayer {
    /// One of [`POLICY_LAYERS`].
    pub layer: String,
    /// The policy's name.
    pub name: String,
    /// The policy's version, at least 0.
    pub version: i64,
    /// The hash of `text` under [`domain::ALIGNMENT_POLICY`].
    pub hash: Hash,
    /// The policy in Cedar.
    pub text: String,
}

impl PolicyLayer {
    /// A layer with the hash of its text.
    #[must_use]
    pub fn new(layer: impl Into<String>, name: impl Into<String>, version: i64, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { layer: layer.into(), name: name.into(), version, hash: Self::text_hash(&text), text }
    }

    /// The hash that a layer with this text must state.
    #[must_use]
    pub fn text_hash(text: &str) -> Hash {
        Hash::of(domain::ALIGNMENT_POLICY, text.as_bytes())
    }

    /// Where the layer stands in the list; unknown layers come last.
    pub(super) fn place(&self) -> (usize, &str) {
        let rank = POLICY_LAYERS.iter().position(|layer| *layer == self.layer).unwrap_or(POLICY_LAYERS.len());
        (rank, &self.name)
    }
}

/// When the agent must stop. Every limit is at least 0, and 0 allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaltingSection {
    /// Turns of the agent loop.
    pub max_steps: i64,
    /// Tool calls.
    pub max_tool_calls: i64,
    /// Milliseconds of activity; time spent waiting does not count.
    pub max_active_time_ms: i64,
    /// Levels of child runs.
    pub max_depth: i64,
    /// Tokens sent to models.
    pub max_input_tokens: i64,
    /// Tokens received from models, reasoning included.
    pub max_output_tokens: i64,
    /// Cost in nano-USD.
    pub max_cost_nano_usd: i64,
    /// `HALT` or `WAIT`: what happens when a window budget is used up.
    pub on_budget: String,
}

impl Default for HaltingSection {
    fn default() -> Self {
        Self {
            max_steps: 0,
            max_tool_calls: 0,
            max_active_time_ms: 0,
            max_depth: 0,
            max_input_tokens: 0,
            max_output_tokens: 0,
            max_cost_nano_usd: 0,
            on_budget: ON_BUDGET_HALT.to_owned(),
        }
    }
}

/// What the agent is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataSection {
    /// Why the session exists, as the caller declared it.
    pub purpose: String,
    /// The kind of task.
    pub task_type: String,
    /// The environment that the caller is bound to.
    pub environment: String,
    /// Labels that the caller declared.
    pub labels: BTreeMap<String, String>,
}

impl ModelSection {
    pub(super) fn normalise(&mut self) {
        for role in self.roles.values_mut() {
            sort_set(&mut role.requirement.input_modalities);
            sort_set(&mut role.requirement.residency);
            sort_set(&mut role.requirement.providers);
            role.admitted.sort_by(|a, b| a.model.cmp(&b.model));
        }
    }
}

pub(super) fn sort_set(items: &mut Vec<String>) {
    items.sort();
    items.dedup();
}
