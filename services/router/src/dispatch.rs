//! From a request under a descriptor to a turn: admit, order, try, within one budget and one deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mar_descriptor::{Descriptor, ModelRole, Sampling, TrustTier};
use mar_proto::types::Part;
use mar_runtime::clock::{Clock, Ids};
use mar_runtime::violations::Violations;

use crate::admission::{Reason, Rejection, Requirement, Wanted};
use crate::catalogue::{Catalogue, Model};
use crate::counting::Counting;
use crate::error::Error;
use crate::policy::{RoutingPolicies, RoutingPolicy};
use crate::price::{Price, Tokens};
use crate::prompt::Prompt;
use crate::provider::pool::Pool;
use crate::provider::{Delivery, Delta, Finish};
use crate::select::{Candidate, Moment, select};

mod attempts;
mod round;
mod seen;
mod spend;

/// The role that is played when a request names none.
pub const DEFAULT_ROLE: &str = "reason";

/// A turn that is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Whose it is.
    pub tenant: String,
    /// The least tier that the caller's environment asks for.
    pub environment_tier: TrustTier,
    /// The role of the descriptor's model section.
    pub role: String,
    /// What to generate from.
    pub prompt: Arc<Prompt>,
    /// What it may use.
    pub budget: Budget,
    /// Models that failed in earlier attempts of the same turn: tried after all others.
    pub try_last: Vec<String>,
    /// When it has to be there, in the clock's monotonic time.
    pub deadline: Option<Duration>,
    /// How it comes.
    pub delivery: Delivery,
    /// The span of the call, the parent of its attempts.
    pub span: tracing::Span,
}

/// What one logical call may use; every attempt draws on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// In nano-USD.
    pub max_cost_nano_usd: i64,
    /// Over all attempts.
    pub max_input_tokens: i64,
    /// Of the turn, reasoning included.
    pub max_output_tokens: i64,
    /// In all.
    pub max_attempts: u32,
}

/// What happens on the way to a turn.
#[derive(Clone, Debug)]
pub enum Frame {
    /// An attempt begins; it voids the deltas before it.
    Attempt {
        /// From 1.
        number: u32,
        /// `models/{model}`.
        model: String,
    },
    /// A piece of the turn.
    Delta(Delta),
    /// The finished turn, always last.
    Turn(Box<Turn>),
}

/// A model's finished answer.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Text, reasoning and tool calls in the model's order.
    pub parts: Vec<Part>,
    /// `models/{model}`.
    pub model: String,
    /// Why it was chosen, in one sentence.
    pub selection: String,
    /// What all attempts used.
    pub tokens: Tokens,
    /// What that costs, in nano-USD.
    pub cost_nano_usd: i64,
    /// Some of it was counted here because the provider did not say.
    pub estimated: bool,
    /// Why the model stopped.
    pub finish: Finish,
    /// What translation dropped or changed.
    pub warnings: Vec<String>,
    /// Attempts before the one that answered: model and reason.
    pub failed: Vec<String>,
}

/// What dispatch needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    /// All models.
    pub catalogue: Arc<Catalogue>,
    /// How they are ordered.
    pub policies: Arc<RoutingPolicies>,
    /// Who serves them.
    pub pool: Pool,
    /// What counts their tokens.
    pub counting: Counting,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for pauses.
    pub ids: Arc<dyn Ids>,
    /// How failed attempts are followed up.
    pub retry: attempts::RetryConfig,
}

pub use attempts::{Failed, RetryConfig};
pub use spend::Spend;

/// An admitted model and what an attempt of it takes.
#[derive(Clone, Debug)]
struct Choice {
    model: Arc<Model>,
    price: Price,
    score_micros: i64,
    input_tokens: i64,
    max_output_tokens: i64,
}

/// A turn whose models are chosen: from here on providers are called.
#[derive(Debug)]
pub struct Prepared {
    dispatcher: Dispatcher,
    wish: Wish,
    sampling: Sampling,
    policy: Arc<RoutingPolicy>,
    options: Vec<Choice>,
    /// Providers of sealed models that are not called for want of a credential, and what is wrong with it.
    passed_over: BTreeMap<String, String>,
}

impl Dispatcher {
    /// Admits and orders the models of the descriptor's role. Calls nobody.
    ///
    /// # Errors
    /// The role is not sealed, no model is admitted, or the budget covers none.
    pub async fn prepare(&self, wish: Wish, descriptor: &Descriptor) -> Result<Prepared, Error> {
        let role = role(descriptor, &wish.role)?;
        let policy = self.policy_of(descriptor);
        let requirement = requirement(role, &wish);
        let sealed = self.sealed_models(role);
        let mut input = BTreeMap::new();
        for model in &sealed {
            let counted = self.counting.input(&wish.tenant, model, &wish.prompt).await;
            input.insert(model.name.clone(), counted.tokens);
        }
        let moment = Moment {
            environment_tier: wish.environment_tier,
            credential: &|provider| self.pool.credential_problem(provider).map(|problem| problem.to_string()),
            input_tokens: &|model| input.get(&model.name).copied().unwrap_or(0),
        };
        let task_type = &descriptor.metadata.task_type;
        let candidates = select(&self.catalogue, &policy, task_type, &requirement, &moment);
        let options: Vec<_> = candidates
            .iter()
            .filter(|candidate| candidate.admitted())
            .filter_map(|candidate| option(candidate, &requirement, &input))
            .collect();
        if options.is_empty() {
            return Err(refusal(role, &candidates));
        }
        let mut options: Vec<_> =
            options.into_iter().filter(|option| option.input_tokens <= wish.budget.max_input_tokens).collect();
        if options.is_empty() {
            let least = input.values().min().copied().unwrap_or(0);
            let have = wish.budget.max_input_tokens;
            return Err(Error::Budget {
                field: "budget.max_input_tokens",
                detail: format!("the input has {least} tokens, the budget covers {have}"),
            });
        }
        options.sort_by_key(|option| wish.try_last.contains(&option.model.name));
        let passed_over = locked(&pinned(role, &candidates));
        Ok(Prepared { dispatcher: self.clone(), sampling: role.sampling.clone(), wish, policy, options, passed_over })
    }

    /// The policy that the descriptor names as it is today; the default where it is gone. Ordering is never a matter
    /// of what is allowed.
    fn policy_of(&self, descriptor: &Descriptor) -> Arc<RoutingPolicy> {
        let named = self.policies.get(&descriptor.model.routing_policy.name);
        Arc::clone(named.unwrap_or_else(|| self.policies.default_policy()))
    }

    /// The models of a role that the catalogue still has as they were sealed.
    fn sealed_models(&self, role: &ModelRole) -> Vec<Arc<Model>> {
        let found = role.admitted.iter().filter_map(|pin| {
            let model = self.catalogue.model(&Model::resource_name(&pin.model))?;
            (model.spec_hash == pin.spec_hash).then(|| Arc::clone(model))
        });
        found.collect()
    }
}

fn role<'a>(descriptor: &'a Descriptor, name: &str) -> Result<&'a ModelRole, Error> {
    let name = if name.is_empty() { DEFAULT_ROLE } else { name };
    descriptor.model.roles.get(name).ok_or_else(|| {
        let mut found = Violations::new();
        found.field("model_role", "is no role of the descriptor");
        found.into()
    })
}

/// The sealed requirement, and what this turn adds to it.
fn requirement(role: &ModelRole, wish: &Wish) -> Requirement {
    let sealed = &role.requirement;
    let mut modalities = sealed.input_modalities.clone();
    modalities.extend(wish.prompt.modalities());
    modalities.sort();
    modalities.dedup();
    let pins = role.admitted.iter().map(|pin| (Model::resource_name(&pin.model), pin.spec_hash));
    Requirement {
        tools: sealed.tools || !wish.prompt.tools.is_empty(),
        structured_output: sealed.structured_output || wish.prompt.output_schema.is_some(),
        streaming: sealed.streaming,
        input_modalities: modalities,
        min_trust_tier: sealed.trust_tier(),
        residency: sealed.residency.clone(),
        providers: sealed.providers.clone(),
        models: Wanted::Sealed(pins.collect()),
        min_context_tokens: sealed.min_context_tokens,
        output_tokens: most_output(role, wish),
        max_cost_nano_usd: Some(wish.budget.max_cost_nano_usd),
        max_retention_days: None,
        allow_rehearsal: false,
    }
}

/// The budget's output, within what the descriptor allows for one answer.
fn most_output(role: &ModelRole, wish: &Wish) -> i64 {
    let budget = wish.budget.max_output_tokens;
    match role.sampling.max_output_tokens {
        0 => budget,
        sealed => budget.min(sealed),
    }
}

fn option(candidate: &Candidate, requirement: &Requirement, input: &BTreeMap<String, i64>) -> Option<Choice> {
    let model = &candidate.model;
    Some(Choice {
        // A model without a price does not pass a cost limit, and there always is one.
        price: model.price?,
        score_micros: candidate.score_micros,
        input_tokens: *input.get(&model.name)?,
        max_output_tokens: requirement.output_tokens.min(model.max_output_tokens),
        model: Arc::clone(model),
    })
}

/// Why no sealed model is left: the budget where only that is in the way of one, its window likewise, a credential likewise,
/// else all rejections.
fn refusal(role: &ModelRole, candidates: &[Candidate]) -> Error {
    let sealed = pinned(role, candidates);
    let only = |reason: Reason| {
        let only = |candidate: &&&Candidate| candidate.rejections.iter().all(|rejection| rejection.reason == reason);
        sealed.iter().find(only)
    };
    let detail = |candidate: &Candidate| {
        let details: Vec<_> = candidate.rejections.iter().map(|rejection| rejection.detail.as_str()).collect();
        format!("{} {}", candidate.model.name, details.join(", "))
    };
    if let Some(dear) = only(Reason::Price) {
        return Error::Budget { field: "budget.max_cost_nano_usd", detail: detail(dear) };
    }
    let gone = role.admitted.iter().filter_map(|pin| {
        let name = Model::resource_name(&pin.model);
        let known = sealed.iter().any(|candidate| candidate.model.name == name);
        let rejection = Rejection { reason: Reason::Model, detail: "is no longer in the catalogue".to_owned() };
        (!known).then_some((name, vec![rejection]))
    });
    let rejected = sealed.iter().map(|candidate| (candidate.model.name.clone(), candidate.rejections.clone()));
    let rejected = rejected.chain(gone).collect();
    // A shorter prompt helps, whatever credential another model lacks.
    if only(Reason::Context).is_some() {
        return Error::Context(rejected);
    }
    let lacks = |candidate: &&Candidate| credential(candidate).is_some();
    if only(Reason::Credential).is_some() || (!sealed.is_empty() && sealed.iter().all(lacks)) {
        return Error::Locked(locked(&sealed));
    }
    Error::NoModel(rejected)
}

/// Those that the descriptor names.
fn pinned<'a>(role: &ModelRole, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
    let pinned = |candidate: &&Candidate| {
        role.admitted.iter().any(|pin| Model::resource_name(&pin.model) == candidate.model.name)
    };
    candidates.iter().filter(pinned).collect()
}

/// The providers that are not called for want of a credential, and what is wrong with it.
fn locked(sealed: &[&Candidate]) -> BTreeMap<String, String> {
    let problem = |one: &&Candidate| Some((one.model.provider.clone(), credential(one)?.to_owned()));
    sealed.iter().filter_map(problem).collect()
}

/// What is wrong with the credential of a candidate's provider, if that is among what it fails.
fn credential(candidate: &Candidate) -> Option<&str> {
    let found = candidate.rejections.iter().find(|rejection| rejection.reason == Reason::Credential);
    found.map(|rejection| rejection.detail.as_str())
}
