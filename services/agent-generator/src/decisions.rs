//! What the policies say of an agent that is being made, besides its tools: its models and its prompt.

use std::collections::{BTreeMap, BTreeSet};

use mar_alignment::{Agent, Decision, Model, Question, Request, Session, Stack, TrustTier, Verdict};
use mar_proto::router::{Candidate, ListModelsRequest, ModelSpec};
use mar_proto::types;
use mar_runtime::ServiceName;
use tonic::Status;

use crate::error::{Denied, Error};
use crate::order::Order;
use crate::peers::{Call, Router};

const PREFIX: &str = "models/";
const PAGE_SIZE: i32 = 500;
/// A catalogue that does not end by then is broken.
const MAX_PAGES: usize = 100;

/// What policies may know of models, by name.
#[derive(Debug, Default)]
pub struct Specs(BTreeMap<String, ModelSpec>);

/// Reads the router's whole catalogue.
///
/// # Errors
/// [`Error::Peer`], and [`Error::PeerBroken`] for pages that never end.
pub async fn specs(router: &dyn Router, call: &Call) -> Result<Specs, Error> {
    let mut specs = Specs::default();
    let mut page_token = String::new();
    for _ in 0..MAX_PAGES {
        let request = ListModelsRequest { page_size: PAGE_SIZE, page_token };
        let page = router.list_models(call, request).await.map_err(peer)?;
        specs.0.extend(page.models.into_iter().map(|spec| (spec.name.clone(), spec)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(specs);
        }
    }
    Err(Error::PeerBroken { peer: ServiceName::Router, what: "a list of models that does not end".to_owned() })
}

/// Takes admission from each candidate that a policy denies.
///
/// # Errors
/// [`Error::PolicyDenied`] when nothing of what was admitted is left, [`Error::Peer`] when the catalogue has changed
/// since the candidates were admitted.
pub fn narrow(candidates: &mut [Candidate], specs: &Specs, policy: &Stack, agent: &Agent) -> Result<(), Error> {
    let mut denied = Vec::new();
    let mut left = 0_usize;
    for candidate in candidates.iter_mut().filter(|candidate| candidate.admitted) {
        // The spec's hash covers what policies read of it.
        let spec = specs.0.get(&candidate.model).filter(|spec| spec.spec_hash == candidate.spec_hash);
        let spec = spec.ok_or_else(|| peer(Status::unavailable("the catalogue has changed meanwhile")))?;
        let question = Question::SelectModel { agent: agent.clone(), model: model(spec) };
        let decision = policy.decide(&Request::new(question));
        if decision.verdict == Verdict::Allow {
            left += 1;
        } else {
            tracing::debug!(model.name = candidate.model, "policy leaves a model out");
            candidate.admitted = false;
            denied.push((candidate.model.clone(), decision));
        }
    }
    if left > 0 || denied.is_empty() {
        return Ok(());
    }
    denied.sort_by(|(one, _), (other, _)| one.cmp(other));
    Err(Error::PolicyDenied {
        policies: causes(denied.iter().map(|(_, decision)| decision)),
        denied: Denied::Models(denied.into_iter().map(|(model, _)| model).collect()),
    })
}

/// Whether the policies let a prompt of this size be used.
///
/// # Errors
/// [`Error::PolicyDenied`].
pub fn prompt(bytes: usize, order: &Order, policy: &Stack, agent: &Agent) -> Result<(), Error> {
    let session = Session {
        id: String::new(),
        purpose: order.brief.purpose.clone(),
        labels: order.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
    };
    let prompt_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let decision = policy.decide(&Request::new(Question::ShapePrompt { agent: agent.clone(), session, prompt_bytes }));
    match decision.verdict {
        Verdict::Allow => Ok(()),
        _ => Err(Error::PolicyDenied { denied: Denied::Prompt, policies: causes([&decision]) }),
    }
}

/// Names what denied: rules, policies that permit nothing, or rules that could not be evaluated.
pub fn causes<'a>(decisions: impl IntoIterator<Item = &'a Decision>) -> Vec<String> {
    let mut causes = BTreeSet::new();
    for decision in decisions {
        let failed = decision.errors.iter().filter_map(|failure| failure.rule.as_ref());
        causes.extend(decision.determining.iter().chain(failed).map(|rule| format!("{}/{}", rule.policy, rule.rule)));
        causes.extend(decision.unpermitted.iter().map(|policy| policy.policy.clone()));
    }
    causes.into_iter().collect()
}

/// The tier as policies know it; one that is not stated is the lowest.
pub fn tier(tier: types::TrustTier) -> TrustTier {
    match tier {
        types::TrustTier::Unspecified | types::TrustTier::Unverified => TrustTier::Unverified,
        types::TrustTier::Experimental => TrustTier::Experimental,
        types::TrustTier::Aligned => TrustTier::Aligned,
        types::TrustTier::Production => TrustTier::Production,
    }
}

fn model(spec: &ModelSpec) -> Model {
    Model {
        name: spec.name.strip_prefix(PREFIX).unwrap_or(&spec.name).to_owned(),
        provider: spec.provider.clone(),
        trust_tier: tier(spec.trust_tier()),
        residency: spec.residency.iter().cloned().collect(),
    }
}

fn peer(status: Status) -> Error {
    Error::Peer { peer: ServiceName::Router, status: Box::new(status) }
}
