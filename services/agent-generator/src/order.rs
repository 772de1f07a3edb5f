//! What is asked for, after every rule of the API has been checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use mar_alignment::Policy;
use mar_descriptor::{HaltingSection, Hash, TrustTier};
use mar_proto::types::{Part, ToolDefinition};

use crate::schema::OutputSchema;
use crate::selector::Selector;

/// What a prompt is rendered from, and decided by.
#[derive(Clone, Debug, Default)]
pub struct Brief {
    /// Kind of task.
    pub task_type: String,
    /// Parts of text or media, at least one; their origin is the caller.
    pub input: Vec<Part>,
    /// The task's own output format.
    pub output_schema: Option<Arc<OutputSchema>>,
    /// The name of the recipe, where the task names one.
    pub recipe: Option<String>,
    /// Values for the recipe's parameters.
    pub parameters: BTreeMap<String, String>,
    /// The session's purpose; may be empty.
    pub purpose: String,
    /// The task's own policy layer.
    pub policy: Option<Arc<Policy>>,
    /// Labels to seal.
    pub labels: BTreeMap<String, String>,
}

/// What an agent is synthesised from.
#[derive(Clone, Debug)]
pub struct Order {
    /// The prompt's part.
    pub brief: Brief,
    /// Which tools the agent may have.
    pub selectors: Vec<Selector>,
    /// The tools that the task brings along, for its caller to execute.
    pub caller_tools: Vec<ToolDefinition>,
    /// What the model has to be.
    pub model: ModelWish,
    /// The run's limits.
    pub limits: HaltingSection,
    /// The agent of the run's parent, which this one does not go beyond.
    pub parent: Option<Hash>,
}

/// What the task asks of its model, beyond what it implies.
#[derive(Clone, Debug)]
pub struct ModelWish {
    /// `routingPolicies/{policy}`; empty for the platform's.
    pub routing_policy: String,
    /// Only these, `models/{model}`, a sorted set; empty for all.
    pub models: Vec<String>,
    /// Only these, a sorted set; empty for all.
    pub providers: Vec<String>,
    /// The least tier.
    pub min_trust_tier: TrustTier,
    /// Only these regions, a sorted set; empty for anywhere.
    pub residency: Vec<String>,
    /// A decimal in its one spelling; none for the recipe's.
    pub temperature: Option<String>,
    /// Output tokens of one generation; none for the recipe's.
    pub max_output_tokens: Option<i64>,
}

/// `[a-z][a-z0-9_-]{0,63}`.
#[must_use]
pub fn is_task_type(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=64).contains(&text.len()) && text.as_bytes()[0].is_ascii_lowercase() && text.bytes().all(fits)
}
