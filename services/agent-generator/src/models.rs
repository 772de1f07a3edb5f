//! Which models may act: the static requirement, and what the router admits under it.

use std::collections::BTreeSet;

use mar_descriptor::{AdmittedModel, ModelRole, ModelSection, PolicyRef, Requirement, Sampling, TrustTier};
use mar_proto::router::{self, Candidate, Obstacle, RejectionReason, SelectModelRequest, SelectModelResponse};
use mar_proto::session::ReservationPrice;
use mar_proto::types;
use mar_runtime::ServiceName;
use mar_runtime::status::Resource;

use crate::error::Error;
use crate::media;
use crate::missing::Missing;
use crate::order::{ModelWish, Order};
use crate::peers::{Call, Router, is_unknown_policy};
use crate::recipe;

/// The agent's own role.
pub const REASON: &str = "reason";
/// The role of who sums up what the agent did before.
pub const SUMMARISE: &str = "summarise";
/// What is told in the role [`SUMMARISE`].
pub const SUMMARISE_PROMPT: &str = include_str!("../prompts/summarise.md");
/// Output tokens of a summary, where the run may write so many.
const SUMMARY_TOKENS: i64 = 1_024;

/// What the agent's models have to be, from the order alone: nothing of the input but its modalities.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    order: &'a Order,
    requirement: Requirement,
    sampling: Sampling,
}

impl<'a> Wish<'a> {
    /// The requirement of an agent with or without tools and output schema.
    #[must_use]
    pub fn new(order: &'a Order, defaults: &recipe::Sampling, tools: bool, structured_output: bool) -> Self {
        let wish = &order.model;
        let requirement = Requirement {
            tools,
            structured_output,
            streaming: true,
            input_modalities: media::modalities(&order.brief.input).into_iter().map(str::to_owned).collect(),
            min_trust_tier: wish.min_trust_tier.as_str().to_owned(),
            residency: wish.residency.clone(),
            providers: wish.providers.clone(),
            min_context_tokens: 0,
        };
        let max_output_tokens = wish.max_output_tokens.unwrap_or(defaults.max_output_tokens);
        let sampling = Sampling {
            temperature: wish.temperature.clone().or_else(|| defaults.temperature.clone()),
            top_p: None,
            seed: None,
            // A generation that may write more than the whole run could never be reserved.
            max_output_tokens: max_output_tokens.min(order.limits.max_output_tokens),
        };
        Self { order, requirement, sampling }
    }

    /// The question to the router.
    #[must_use]
    pub fn request(&self) -> SelectModelRequest {
        let requirement = router::Requirement {
            tools: self.requirement.tools,
            structured_output: self.requirement.structured_output,
            streaming: self.requirement.streaming,
            input_modalities: self.requirement.input_modalities.clone(),
            min_trust_tier: tier_to_proto(self.order.model.min_trust_tier).into(),
            residency: self.requirement.residency.clone(),
            providers: self.requirement.providers.clone(),
            models: self.order.model.models.clone(),
            input_tokens: 0,
            output_tokens: self.sampling.max_output_tokens,
            max_cost_nano_usd: Some(self.order.limits.max_cost_nano_usd),
            max_retention_days: None,
            allow_rehearsal: false,
        };
        SelectModelRequest {
            requirement: Some(requirement),
            routing_policy: self.order.model.routing_policy.clone(),
            task_type: self.order.brief.task_type.clone(),
            look: false,
        }
    }

    /// What the descriptor says of models: those that may reason, and those that may sum up.
    ///
    /// # Errors
    /// [`Error::NoModelAdmitted`], and [`Error::PeerBroken`] for hashes that are none.
    pub fn section(self, answer: &SelectModelResponse, summarisers: &[Candidate]) -> Result<ModelSection, Error> {
        let admitted = pinned(&answer.candidates)?;
        if admitted.is_empty() {
            return Err(Error::NoModelAdmitted { rejections: rejections(&answer.candidates) });
        }
        let summarising = self.summarising(pinned(summarisers)?, &admitted);
        let routing_policy = PolicyRef {
            name: answer.routing_policy.clone(),
            version: answer.routing_policy_version,
            hash: answer.routing_policy_hash.parse().map_err(|_| broken("a routing policy hash that is none"))?,
        };
        let role = ModelRole { requirement: self.requirement, admitted, sampling: self.sampling };
        let roles = [(REASON.to_owned(), role), (SUMMARISE.to_owned(), summarising)].into();
        Ok(ModelSection { roles, routing_policy })
    }

    /// The role of who sums up: it reads text and writes text. Where nobody fits it but who reasons, these do it.
    fn summarising(&self, fitting: Vec<AdmittedModel>, reasoning: &[AdmittedModel]) -> ModelRole {
        let requirement = Requirement {
            tools: false,
            structured_output: false,
            input_modalities: Vec::new(),
            ..self.requirement.clone()
        };
        let sampling = Sampling {
            max_output_tokens: SUMMARY_TOKENS.min(self.order.limits.max_output_tokens),
            ..self.sampling.clone()
        };
        let admitted = if fitting.is_empty() { reasoning.to_vec() } else { fitting };
        ModelRole { requirement, admitted, sampling }
    }
}

/// Those of a router's candidates that may sum up: what is missing of the others are tools, an answer's form, or senses.
#[must_use]
pub fn summarisers(candidates: &[Candidate]) -> Vec<Candidate> {
    let spared = |rejection: &router::Rejection| {
        use RejectionReason::{Modality, StructuredOutput, Tools};
        matches!(rejection.reason(), Tools | StructuredOutput | Modality)
    };
    let fits = |one: &&Candidate| one.admitted || !one.rejections.is_empty() && one.rejections.iter().all(spared);
    candidates.iter().filter(fits).map(|one| Candidate { admitted: true, ..one.clone() }).collect()
}

/// The admitted ones as a descriptor pins them.
fn pinned(candidates: &[Candidate]) -> Result<Vec<AdmittedModel>, Error> {
    let admitted = candidates.iter().filter(|candidate| candidate.admitted).map(|candidate| {
        let spec_hash = candidate.spec_hash.parse().map_err(|_| broken("a spec hash that is none"))?;
        Ok(AdmittedModel { model: candidate.model.clone(), spec_hash })
    });
    admitted.collect()
}

/// The largest window among the admitted models that the router is configured to call; 0 where nobody says.
#[must_use]
pub fn widest(candidates: &[Candidate]) -> i64 {
    callable(candidates).map(|one| one.context_tokens).max().unwrap_or(0)
}

/// The admitted models that the router is configured to call; all of them where it is configured for none.
fn callable(candidates: &[Candidate]) -> impl Iterator<Item = &Candidate> {
    let admitted = || candidates.iter().filter(|one| one.admitted);
    let configured = |one: &&Candidate| one.obstacle() != Obstacle::NotConfigured;
    let any = admitted().any(|one| configured(&one));
    admitted().filter(move |one| !any || configured(one))
}

/// The dearest prices among the admitted models that the router is configured to call, each class by itself: an upper
/// bound whichever of them acts. A dearer one that is configured later acts only where a reservation covers it.
#[must_use]
pub fn dearest(candidates: &[Candidate]) -> ReservationPrice {
    let prices = || callable(candidates).filter_map(|one| one.price.as_ref());
    ReservationPrice {
        input_per_million: prices().map(|price| price.input_per_million).max().unwrap_or(0),
        output_per_million: prices().map(|price| price.output_per_million).max().unwrap_or(0),
    }
}

/// What the wish names and the router does not know: its routing policy, its models. For an answer that is a refusal
/// anyway: a router that does not answer leaves out what only it can tell.
pub async fn unknown(router: &dyn Router, call: &Call, wish: &ModelWish) -> Missing {
    let mut missing = Missing::default();
    if wish.routing_policy.is_empty() && wish.models.is_empty() {
        return missing;
    }
    let ask = |routing_policy: &str| {
        let requirement = Some(router::Requirement::default());
        let request = SelectModelRequest {
            requirement,
            routing_policy: routing_policy.to_owned(),
            ..SelectModelRequest::default()
        };
        router.select_model(call, request)
    };
    let mut answer = ask(&wish.routing_policy).await;
    if answer.as_ref().is_err_and(is_unknown_policy) {
        missing.add(Resource::RoutingPolicy, [wish.routing_policy.clone()]);
        answer = ask("").await;
    }
    match answer {
        Ok(answer) => missing.extend(absent(wish, &answer.candidates)),
        Err(status) => tracing::debug!(error = %status, "the router does not say which models it knows"),
    }
    missing
}

/// The models that the wish names and that are none of the router's candidates, which are all that it knows.
#[must_use]
pub fn absent(wish: &ModelWish, candidates: &[Candidate]) -> Missing {
    let known: BTreeSet<&str> = candidates.iter().map(|one| one.model.as_str()).collect();
    let mut missing = Missing::default();
    missing.add(Resource::Model, wish.models.iter().filter(|name| !known.contains(name.as_str())).cloned());
    missing
}

fn rejections(candidates: &[Candidate]) -> Vec<(String, String)> {
    let mut rejections: Vec<_> = candidates
        .iter()
        .map(|candidate| {
            let why: Vec<String> = candidate.rejections.iter().map(describe).collect();
            let model = candidate.model.strip_prefix("models/").unwrap_or(&candidate.model);
            (model.to_owned(), why.join("; "))
        })
        .collect();
    rejections.sort();
    rejections
}

fn describe(rejection: &router::Rejection) -> String {
    let name = RejectionReason::try_from(rejection.reason).unwrap_or_default().as_str_name();
    let name = name.strip_prefix("REJECTION_REASON_").unwrap_or(name);
    if rejection.detail.is_empty() { name.to_owned() } else { format!("{name}: {}", rejection.detail) }
}

fn broken(what: &str) -> Error {
    Error::PeerBroken { peer: ServiceName::Router, what: what.to_owned() }
}

fn tier_to_proto(tier: TrustTier) -> types::TrustTier {
    match tier {
        TrustTier::Unverified => types::TrustTier::Unverified,
        TrustTier::Experimental => types::TrustTier::Experimental,
        TrustTier::Aligned => types::TrustTier::Aligned,
        TrustTier::Production => types::TrustTier::Production,
    }
}

#[cfg(test)]
mod tests {
    use mar_proto::router::Price;

    use super::*;

    #[test]
    fn a_reservation_reckons_with_models_that_can_be_called() {
        let one = |price: i64, admitted, obstacle: Obstacle| Candidate {
            admitted,
            price: Some(Price { input_per_million: price, cached_input_per_million: 0, output_per_million: 2 * price }),
            obstacle: obstacle.into(),
            ..Candidate::default()
        };
        let dearest = |candidates: &[Candidate]| dearest(candidates).input_per_million;
        let local = one(0, true, Obstacle::Unspecified);
        let keyless = one(9, true, Obstacle::NotConfigured);
        assert_eq!(dearest(&[local.clone(), keyless.clone(), one(99, false, Obstacle::Unspecified)]), 0);
        assert_eq!(dearest(&[keyless]), 9, "with nothing configured all count");
        // What is wrong for a moment only may be right when the run gets there.
        assert_eq!(dearest(&[local, one(5, true, Obstacle::CredentialRefused)]), 5);
    }
}
