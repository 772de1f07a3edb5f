//! The model catalogue: a reviewed file of what models can do (concept: `ModelSpec`). It is read whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use mar_descriptor::{Hash, TrustTier, domain};
use mar_runtime::violations::Violations;
use serde_json::json;

use crate::price::Price;
use crate::tokens::Table;

mod entry;

pub(crate) use entry::MODALITIES;

/// The prefix of resource names.
pub const PREFIX: &str = "models/";
/// The modality that every model reads and writes.
pub const TEXT: &str = "text";

const VERSION_DOMAIN: &str = "mcp-agent-runtime/catalogue/v1";

/// What is compiled in: the file that is served when none is configured.
const BUILT_IN: &str = include_str!("../../../deploy/local/catalogue.toml");

/// All models, by name.
#[derive(Clone, Debug)]
pub struct Catalogue {
    models: Vec<Arc<Model>>,
    version: Hash,
}

/// One model.
#[derive(Clone, Debug)]
pub struct Model {
    /// `models/{model}`.
    pub name: String,
    /// The provider of the configuration that serves it.
    pub provider: String,
    /// The provider's own id of it.
    pub provider_model: String,
    /// For people.
    pub display_name: String,
    /// Input and output together.
    pub context_tokens: i64,
    /// The most that one generation may write.
    pub max_output_tokens: i64,
    /// What it reads.
    pub input_modalities: Vec<String>,
    /// What it writes.
    pub output_modalities: Vec<String>,
    /// Whether it streams.
    pub streaming: bool,
    /// How it calls tools.
    pub tool_calling: ToolCalling,
    /// Whether its provider constrains output to a JSON Schema.
    pub structured_output: bool,
    /// None: not known.
    pub price: Option<Price>,
    /// How long a first token takes.
    pub latency_class: LatencyClass,
    /// How far it is trusted.
    pub trust_tier: TrustTier,
    /// Where its provider processes data.
    pub residency: Vec<String>,
    /// How long its provider keeps prompts, in days.
    pub retention_days: i64,
    /// What counts its tokens.
    pub tokenizer: Table,
    /// The table is the model's own and not an estimate.
    pub tokenizer_exact: bool,
    /// It takes no sampling parameters.
    pub fixed_sampling: bool,
    /// A scripted stand-in.
    pub rehearsal: bool,
    /// How good its answers are, by task type, in thousandths; `default` is for the others.
    pub quality: BTreeMap<String, i64>,
    /// Where the facts come from.
    pub source: String,
    /// When they were read there.
    pub as_of: String,
    /// What descriptors pin: the entry without price, quality, source and date.
    pub spec_hash: Hash,
}

/// How a model calls tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolCalling {
    /// In the provider's wire format.
    Native,
    /// As schema-constrained output.
    Constrained,
    /// Not at all.
    None,
}

/// How long a first token takes, typically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyClass {
    /// Not known.
    Unknown,
    /// Under half a second.
    Fast,
    /// Under two seconds.
    Medium,
    /// Longer.
    Slow,
}

impl Catalogue {
    /// Reads a catalogue from TOML: a list of tables `[[model]]`.
    ///
    /// # Errors
    /// Everything that is wrong with it, each by its key path.
    pub fn parse(text: &str) -> Result<Self, Violations> {
        let models = entry::read(text)?;
        Ok(Self::new(models))
    }

    /// The catalogue that is compiled in.
    ///
    /// # Errors
    /// As [`Self::parse`]; a test sees to it that there are none.
    pub fn built_in() -> Result<Self, Violations> {
        Self::parse(BUILT_IN)
    }

    fn new(mut models: Vec<Model>) -> Self {
        models.sort_by(|a, b| a.name.cmp(&b.name));
        let lines: String = models.iter().map(Model::line).collect();
        Self { models: models.into_iter().map(Arc::new).collect(), version: Hash::of(VERSION_DOMAIN, lines.as_bytes()) }
    }

    /// Every model, in the order of names.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// The model `models/{model}`.
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        let at = self.models.binary_search_by(|model| model.name.as_str().cmp(name));
        at.ok().map(|at| &self.models[at])
    }

    /// The hash of all entries, prices and sources included.
    pub fn version(&self) -> Hash {
        self.version
    }

    /// Whether it has nothing but scripted stand-ins.
    pub fn only_rehearsal(&self) -> bool {
        self.models.iter().all(|model| model.rehearsal)
    }
}

impl Model {
    /// The resource name of a model that may be named with or without its prefix.
    pub fn resource_name(name: &str) -> String {
        format!("{PREFIX}{}", name.strip_prefix(PREFIX).unwrap_or(name))
    }

    /// Whether it reads `modality`.
    pub fn reads(&self, modality: &str) -> bool {
        modality == TEXT || self.input_modalities.iter().any(|known| known == modality)
    }

    /// Quality for a task type, in millionths.
    pub fn quality_micros(&self, task_type: &str) -> i64 {
        let found = self.quality.get(task_type).or_else(|| self.quality.get("default"));
        found.copied().unwrap_or(0) * 1_000
    }

    /// The hash of what the model is, without what only orders or explains it.
    fn spec_hash_of(&self) -> Result<Hash, mar_descriptor::canonical::Error> {
        Hash::of_value(
            domain::MODEL_SPEC,
            &json!({
                "name": self.name,
                "provider": self.provider,
                "provider_model": self.provider_model,
                "display_name": self.display_name,
                "context_tokens": self.context_tokens,
                "max_output_tokens": self.max_output_tokens,
                "input_modalities": self.input_modalities,
                "output_modalities": self.output_modalities,
                "streaming": self.streaming,
                "tool_calling": self.tool_calling.as_str(),
                "structured_output": self.structured_output,
                "latency_class": self.latency_class.as_str(),
                "trust_tier": self.trust_tier.as_str(),
                "residency": self.residency,
                "retention_days": self.retention_days,
                "tokenizer": self.tokenizer.as_str(),
                "tokenizer_exact": self.tokenizer_exact,
                "fixed_sampling": self.fixed_sampling,
                "rehearsal": self.rehearsal,
            }),
        )
    }

    /// A line for the catalogue's version; JSON strings keep fields apart.
    fn line(&self) -> String {
        let price = self.price.map(|price| [price.input, price.cached_input, price.output]);
        let quality: Vec<_> = self.quality.iter().collect();
        let line = json!([self.spec_hash, price, quality, self.source, self.as_of]);
        format!("{line}\n")
    }
}

impl ToolCalling {
    /// The name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "NATIVE",
            Self::Constrained => "CONSTRAINED",
            Self::None => "NONE",
        }
    }
}

impl LatencyClass {
    /// The name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Fast => "FAST",
            Self::Medium => "MEDIUM",
            Self::Slow => "SLOW",
        }
    }
}

#[cfg(test)]
mod tests;
