//! What the policies say of an agent that is being made, besides its tools: its models and its prompt.

use std::collections::BTreeSet;

use mar_alignment::{Agent, Decision, Model, Question, Request, Session, Stack, TrustTier, Verdict};
use mar_proto::router::Candidate;
use mar_proto::types;

use crate::error::{Denied, Error};
use crate::order::Brief;

const PREFIX: &str = "models/";

/// Takes admission from each candidate that a policy denies.
///
/// # Errors
/// [`Error::PolicyDenied`] when nothing of what was admitted is left.
pub fn narrow(candidates: &mut [Candidate], policy: &Stack, agent: &Agent) -> Result<(), Error> {
    let mut denied = Vec::new();
    let mut left = 0_usize;
    for candidate in candidates.iter_mut().filter(|candidate| candidate.admitted) {
        let question = Question::SelectModel { agent: agent.clone(), model: model(candidate) };
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
pub fn prompt(bytes: usize, brief: &Brief, policy: &Stack, agent: &Agent) -> Result<(), Error> {
    let session = Session {
        id: String::new(),
        purpose: brief.purpose.clone(),
        labels: brief.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
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

fn model(candidate: &Candidate) -> Model {
    Model {
        name: candidate.model.strip_prefix(PREFIX).unwrap_or(&candidate.model).to_owned(),
        provider: candidate.provider.clone(),
        trust_tier: tier(candidate.trust_tier()),
        residency: candidate.residency.iter().cloned().collect(),
    }
}
