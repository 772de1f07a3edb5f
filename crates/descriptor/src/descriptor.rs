//! The agent descriptor: what determines how an agent behaves, and nothing else.
//!
//! It holds no ids, times, prices, health, task input, tenant or person, so the same recipe, models, tools, policy and
//! limits give the same hash on any machine. Every field is written out, absent ones as `null`.

mod sections;
mod trust_tier;
mod validate;
mod violation;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    document,
    error::Error,
    hash::{Hash, domain},
};

pub use sections::{
    AdmittedModel, AgentSection, Doubt, HaltingSection, MetadataSection, ModelRole, ModelSection, PolicyLayer,
    PolicyRef, PolicySection, Probe, PromptSection, RecipeRef, Requirement, RolePrompt, Sampling, SealedTool,
};
pub use trust_tier::{TrustTier, UnknownTier};
pub use violation::{Violation, Violations};

/// The value of [`Descriptor::schema`].
pub const SCHEMA: &str = "mcp-agent-runtime/descriptor/v1";

/// The `on_unknown` value that tells the model.
pub const ON_UNKNOWN_TELL_MODEL: &str = "TELL_MODEL";
/// The `on_unknown` value that asks a human.
pub const ON_UNKNOWN_ASK_HUMAN: &str = "ASK_HUMAN";
/// The `on_budget` value that halts the run when a limit is reached.
pub const ON_BUDGET_HALT: &str = "HALT";
/// The `on_budget` value that parks the run until the budget's window renews.
pub const ON_BUDGET_WAIT: &str = "WAIT";

/// The layers of alignment policy, from the widest to the narrowest.
pub const POLICY_LAYERS: [&str; 5] = ["platform", "organisation", "environment", "agent", "task"];

/// The definition of a synthesised agent, section by section.
///
/// Lists that are sets are sorted by code point and hold nothing twice; [`Descriptor::normalised`] brings them there and
/// [`Descriptor::validate`] checks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Which models may act, in which roles.
    pub model: ModelSection,
    /// What they are told.
    pub prompt: PromptSection,
    /// What the agent is and what it may call.
    pub agent: AgentSection,
    /// What it is allowed to do.
    pub policy: PolicySection,
    /// When it must stop.
    pub halting: HaltingSection,
    /// What it is for.
    pub metadata: MetadataSection,
}

impl Descriptor {
    /// Reads a descriptor from bytes that must be its exact canonical form: keys in order, nothing left out, nothing more.
    /// The contents are not validated; see [`Descriptor::validate`].
    ///
    /// # Errors
    /// [`Error::Canonical`] or [`Error::Shape`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        document::parse(bytes)
    }

    /// The canonical form that is hashed, signed and carried.
    ///
    /// # Errors
    /// [`Error::Canonical`] when a limit or the whole is too large.
    pub fn canonical(&self) -> Result<Vec<u8>, Error> {
        document::canonical(self)
    }

    /// The descriptor hash.
    ///
    /// # Errors
    /// Like [`Descriptor::canonical`].
    pub fn hash(&self) -> Result<Hash, Error> {
        Ok(Hash::of(domain::DESCRIPTOR, &self.canonical()?))
    }

    /// The hash of each section under its own domain line, by section name.
    ///
    /// # Errors
    /// Like [`Descriptor::canonical`].
    pub fn section_hashes(&self) -> Result<BTreeMap<&'static str, Hash>, Error> {
        Ok(BTreeMap::from([
            ("model", section_hash(domain::SECTION_MODEL, &self.model)?),
            ("prompt", section_hash(domain::SECTION_PROMPT, &self.prompt)?),
            ("agent", section_hash(domain::SECTION_AGENT, &self.agent)?),
            ("policy", section_hash(domain::SECTION_POLICY, &self.policy)?),
            ("halting", section_hash(domain::SECTION_HALTING, &self.halting)?),
            ("metadata", section_hash(domain::SECTION_METADATA, &self.metadata)?),
        ]))
    }

    /// The names of the sections in which two descriptors differ, in alphabetical order.
    ///
    /// # Errors
    /// Like [`Descriptor::canonical`].
    pub fn diff(a: &Self, b: &Self) -> Result<Vec<&'static str>, Error> {
        let theirs = b.section_hashes()?;
        let ours = a.section_hashes()?;
        Ok(ours.into_iter().filter(|(name, hash)| theirs.get(name) != Some(hash)).map(|(name, _)| name).collect())
    }

    /// Checks the contents and names every violation with its field path, not just the first.
    ///
    /// # Errors
    /// The violations, when there are any.
    pub fn validate(&self) -> Result<(), Violations> {
        validate::validate(self)
    }

    /// The same descriptor with every list that is a set sorted and without repeats. Lists whose order means something
    /// (examples, steps) stay as they are.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        self.model.normalise();
        sections::sort_set(&mut self.prompt.parameters);
        self.agent.tools.sort_by(|a, b| a.name.cmp(&b.name));
        self.policy.alignment_policy.sort_by(|a, b| a.place().cmp(&b.place()));
        self
    }
}

impl Default for Descriptor {
    /// An agent with no models, tools, recipe or policy and with every limit at zero: nothing may happen.
    fn default() -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            model: ModelSection::default(),
            prompt: PromptSection::default(),
            agent: AgentSection::default(),
            policy: PolicySection::default(),
            halting: HaltingSection::default(),
            metadata: MetadataSection::default(),
        }
    }
}

fn section_hash(domain: &str, section: &impl Serialize) -> Result<Hash, Error> {
    Ok(Hash::of(domain, &document::canonical(section)?))
}
