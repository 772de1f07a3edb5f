//! Hard constraints: which models fit, and every reason why one does not. Pure, whole numbers only.

use std::collections::BTreeMap;
use std::fmt;

use mar_descriptor::{Hash, TrustTier};

use crate::catalogue::{Model, ToolCalling};

/// What a model has to be. The default asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct Requirement {
    /// It has to call tools, natively or constrained.
    pub tools: bool,
    /// It has to answer to a JSON Schema.
    pub structured_output: bool,
    /// It has to stream.
    pub streaming: bool,
    /// It has to read these.
    pub input_modalities: Vec<String>,
    /// The least trust tier.
    pub min_trust_tier: Option<TrustTier>,
    /// Its data stays in one of these regions; empty: anywhere.
    pub residency: Vec<String>,
    /// It is one of these providers'; empty: any.
    pub providers: Vec<String>,
    /// Which models are wanted at all.
    pub models: Wanted,
    /// The least window, in tokens.
    pub min_context_tokens: i64,
    /// Output tokens reserved in the window; the model's own maximum bounds them.
    pub output_tokens: i64,
    /// The call may cost so much, in nano-USD; none: no limit.
    pub max_cost_nano_usd: Option<i64>,
    /// Prompts may be kept so long, in days; none: any time.
    pub max_retention_days: Option<i64>,
    /// Scripted stand-ins may be chosen although nobody names them.
    pub allow_rehearsal: bool,
}

/// Which models are wanted at all.
#[derive(Clone, Debug, Default)]
pub enum Wanted {
    /// Any.
    #[default]
    Any,
    /// These names.
    Named(Vec<String>),
    /// These, as long as they are what they were when a descriptor was sealed.
    Sealed(BTreeMap<String, Hash>),
}

/// Why a model is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Input and reserved output exceed the window.
    Context,
    /// It does not read what the input has.
    Modality,
    /// It calls no tools.
    Tools,
    /// It does not answer to a JSON Schema.
    StructuredOutput,
    /// It does not stream.
    Streaming,
    /// It is not trusted far enough.
    TrustTier,
    /// Its data leaves the wanted regions.
    Residency,
    /// Its provider keeps prompts too long.
    Retention,
    /// It costs too much.
    Price,
    /// Its price is not known and there is a cost limit.
    PriceUnknown,
    /// Its provider is not among the wanted.
    Provider,
    /// It is not among the wanted models.
    Model,
    /// It is a stand-in and none was asked for.
    Rehearsal,
    /// Its provider's credential is missing or dead.
    Credential,
}

/// A hard constraint that a model fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which one.
    pub reason: Reason,
    /// Wanted and found, for people.
    pub detail: String,
}

/// What the moment adds to the requirement.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The least tier that the caller's environment asks for.
    pub environment_tier: TrustTier,
    /// The catalogue holds nothing but stand-ins.
    pub only_rehearsal: bool,
    /// What is wrong with the provider's credential, if anything.
    pub credential: Option<&'a str>,
    /// The input in tokens, counted or an upper bound, as this model would read it.
    pub input_tokens: i64,
}

impl Reason {
    /// The name in documents and metadata.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Context => "CONTEXT",
            Self::Modality => "MODALITY",
            Self::Tools => "TOOLS",
            Self::StructuredOutput => "STRUCTURED_OUTPUT",
            Self::Streaming => "STREAMING",
            Self::TrustTier => "TRUST_TIER",
            Self::Residency => "RESIDENCY",
            Self::Retention => "RETENTION",
            Self::Price => "PRICE",
            Self::PriceUnknown => "PRICE_UNKNOWN",
            Self::Provider => "PROVIDER",
            Self::Model => "MODEL",
            Self::Rehearsal => "REHEARSAL",
            Self::Credential => "CREDENTIAL",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.reason.as_str(), self.detail)
    }
}

/// Every hard constraint that `model` fails, in the order of [`Reason`]; none: it is admitted.
pub fn admit(model: &Model, wish: &Requirement, now: &Circumstances<'_>) -> Vec<Rejection> {
    let mut found = Found(Vec::new());
    context(model, wish, now, &mut found);
    abilities(model, wish, &mut found);
    trust(model, wish, now, &mut found);
    price(model, wish, now, &mut found);
    identity(model, wish, now, &mut found);
    if let Some(detail) = now.credential {
        found.add(Reason::Credential, || detail.to_owned());
    }
    found.0
}

struct Found(Vec<Rejection>);

impl Found {
    fn add(&mut self, reason: Reason, detail: impl FnOnce() -> String) {
        let detail = detail();
        self.0.push(Rejection { reason, detail });
    }

    fn unless(&mut self, holds: bool, reason: Reason, detail: impl FnOnce() -> String) {
        if !holds {
            self.add(reason, detail);
        }
    }
}

fn context(model: &Model, wish: &Requirement, now: &Circumstances<'_>, found: &mut Found) {
    let output = wish.output_tokens.min(model.max_output_tokens);
    let needed = now.input_tokens.saturating_add(output).max(wish.min_context_tokens);
    found.unless(needed <= model.context_tokens, Reason::Context, || {
        format!("needs a window of {needed} tokens, has {}", model.context_tokens)
    });
}

fn abilities(model: &Model, wish: &Requirement, found: &mut Found) {
    let missing: Vec<_> =
        wish.input_modalities.iter().filter(|modality| !model.reads(modality)).map(String::as_str).collect();
    found.unless(missing.is_empty(), Reason::Modality, || format!("does not read {}", missing.join(", ")));
    let tools = !wish.tools || model.tool_calling != ToolCalling::None;
    found.unless(tools, Reason::Tools, || "calls no tools".to_owned());
    found.unless(!wish.structured_output || model.structured_output, Reason::StructuredOutput, || {
        "does not answer to a JSON Schema".to_owned()
    });
    found.unless(!wish.streaming || model.streaming, Reason::Streaming, || "does not stream".to_owned());
}

fn trust(model: &Model, wish: &Requirement, now: &Circumstances<'_>, found: &mut Found) {
    let wanted = wish.min_trust_tier.unwrap_or(TrustTier::Unverified);
    let least = wanted.max(now.environment_tier);
    found.unless(model.trust_tier >= least, Reason::TrustTier, || format!("needs {least}, has {}", model.trust_tier));
    let inside = wish.residency.is_empty() || model.residency.iter().all(|region| wish.residency.contains(region));
    found.unless(inside, Reason::Residency, || {
        format!("processes data in {}, allowed are {}", model.residency.join(", "), wish.residency.join(", "))
    });
    let days = wish.max_retention_days.unwrap_or(i64::MAX);
    found.unless(model.retention_days <= days, Reason::Retention, || {
        format!("keeps prompts {} days, allowed are {days}", model.retention_days)
    });
}

fn price(model: &Model, wish: &Requirement, now: &Circumstances<'_>, found: &mut Found) {
    let Some(limit) = wish.max_cost_nano_usd else {
        return;
    };
    let Some(price) = model.price else {
        found.add(Reason::PriceUnknown, || "has no known price and there is a cost limit".to_owned());
        return;
    };
    let output = wish.output_tokens.min(model.max_output_tokens);
    let most = price.most(now.input_tokens, output);
    found.unless(most <= limit, Reason::Price, || format!("may cost {most} nano-USD, allowed are {limit}"));
}

fn identity(model: &Model, wish: &Requirement, now: &Circumstances<'_>, found: &mut Found) {
    let provider = wish.providers.is_empty() || wish.providers.contains(&model.provider);
    found.unless(provider, Reason::Provider, || {
        format!("is served by {}, allowed are {}", model.provider, wish.providers.join(", "))
    });
    let named = match &wish.models {
        Wanted::Any => false,
        Wanted::Named(names) => {
            let named = names.contains(&model.name);
            found.unless(named, Reason::Model, || "is not among the wanted models".to_owned());
            named
        }
        Wanted::Sealed(pins) => sealed(model, pins, found),
    };
    let stand_in = !model.rehearsal || named || wish.allow_rehearsal || now.only_rehearsal;
    found.unless(stand_in, Reason::Rehearsal, || "is a scripted stand-in and none was asked for".to_owned());
}

fn sealed(model: &Model, pins: &BTreeMap<String, Hash>, found: &mut Found) -> bool {
    match pins.get(&model.name) {
        None => found.add(Reason::Model, || "is not admitted by the descriptor".to_owned()),
        Some(pin) => found.unless(*pin == model.spec_hash, Reason::Model, || {
            format!("was sealed with spec {pin}, the catalogue has {}", model.spec_hash)
        }),
    }
    pins.contains_key(&model.name)
}

#[cfg(test)]
mod tests;
