//! Between the API's messages and the domain. Everything that is wrong with a request is collected.

use mar_descriptor::{Hash, SealedDescriptor, Signature, TrustTier};
use mar_proto::router as pb;
use mar_proto::types;
use mar_runtime::auth::RunGrant;
use mar_runtime::violations::Violations;

use super::tier;
use crate::admission::{Reason, Rejection, Requirement, Wanted};
use crate::catalogue::{LatencyClass, Model, ToolCalling};
use crate::dispatch::{Budget, Frame, Turn};
use crate::price::Price;
use crate::provider::credential::Problem;
use crate::provider::pool::Pool;
use crate::provider::{Delta, DeltaKind};
use crate::reach::Found;
use crate::select::Candidate;

mod names;
mod prompt;

pub(super) use names::{model_name, routing_policy, task_type};
pub(super) use prompt::{Emptiness, prompt};

const DEFAULT_ATTEMPTS: u32 = 3;
const MAX_ATTEMPTS: i32 = 8;
const MAX_ID: usize = 512;
/// Tokens and money beyond this are typing errors.
const MAX_COUNT: i64 = 1_000_000_000_000_000;

/// The hash that the run token grants.
pub(super) fn granted_hash(grant: &RunGrant, found: &mut Violations) -> Hash {
    let hash = grant.descriptor_hash.as_deref().unwrap_or_default().parse();
    found.take("authorization.descriptor_hash", hash).unwrap_or(Hash::ZERO)
}

/// The descriptor that came with the request.
pub(super) fn sealed(sealed: Option<types::SealedDescriptor>, found: &mut Violations) -> Option<SealedDescriptor> {
    let sealed = sealed?;
    let hash = found.take("descriptor.hash", sealed.hash.parse())?;
    let signatures = sealed
        .signatures
        .into_iter()
        .map(|signature| Signature { key_id: signature.key_id, sig: signature.sig.to_vec() });
    Some(SealedDescriptor { hash, canonical: sealed.canonical.to_vec(), signatures: signatures.collect() })
}

/// The budget, which has to be set.
pub(super) fn budget(budget: Option<pb::Budget>, found: &mut Violations) -> Budget {
    found.require(budget.is_some(), "budget", "must be set");
    let budget = budget.unwrap_or(pb::Budget {
        max_cost_nano_usd: 0,
        max_input_tokens: 1,
        max_output_tokens: 1,
        max_attempts: 0,
    });
    found.within("budget", |found| {
        count("max_cost_nano_usd", budget.max_cost_nano_usd, 0, found);
        count("max_input_tokens", budget.max_input_tokens, 1, found);
        count("max_output_tokens", budget.max_output_tokens, 1, found);
        let fits = (0..=MAX_ATTEMPTS).contains(&budget.max_attempts);
        found.require(fits, "max_attempts", "must be 0 to 8");
        let attempts = u32::try_from(budget.max_attempts).unwrap_or(0);
        Budget {
            max_cost_nano_usd: budget.max_cost_nano_usd,
            max_input_tokens: budget.max_input_tokens,
            max_output_tokens: budget.max_output_tokens,
            max_attempts: if attempts == 0 { DEFAULT_ATTEMPTS } else { attempts },
        }
    })
}

pub(super) fn generation_id(id: &str, found: &mut Violations) {
    let fits = id.len() <= MAX_ID && id.chars().all(|char| !char.is_control());
    found.require(fits, "generation_id", "must be at most 512 bytes without control characters");
}

fn count(field: &str, value: i64, least: i64, found: &mut Violations) {
    let fits = (least..=MAX_COUNT).contains(&value);
    found.require(fits, field, format!("must be {least} to {MAX_COUNT}"));
}

/// What a model has to be.
pub(super) fn requirement(asked: &pb::Requirement, found: &mut Violations) -> Requirement {
    count("input_tokens", asked.input_tokens, 0, found);
    count("output_tokens", asked.output_tokens, 0, found);
    for (field, value) in
        [("max_cost_nano_usd", asked.max_cost_nano_usd), ("max_retention_days", asked.max_retention_days)]
    {
        count(field, value.unwrap_or(0), 0, found);
    }
    let tier = types::TrustTier::try_from(asked.min_trust_tier);
    found.require(tier.is_ok(), "min_trust_tier", "is no trust tier");
    names::requirement(asked, found);
    let models = asked.models.clone();
    Requirement {
        tools: asked.tools,
        structured_output: asked.structured_output,
        streaming: asked.streaming,
        input_modalities: asked.input_modalities.clone(),
        min_trust_tier: tier.ok().map(least_tier),
        residency: asked.residency.clone(),
        providers: asked.providers.clone(),
        models: if models.is_empty() { Wanted::Any } else { Wanted::Named(models) },
        min_context_tokens: 0,
        output_tokens: asked.output_tokens,
        max_cost_nano_usd: asked.max_cost_nano_usd,
        max_retention_days: asked.max_retention_days,
        allow_rehearsal: asked.allow_rehearsal,
    }
}

fn least_tier(tier: types::TrustTier) -> TrustTier {
    match tier {
        types::TrustTier::Unspecified | types::TrustTier::Unverified => TrustTier::Unverified,
        types::TrustTier::Experimental => TrustTier::Experimental,
        types::TrustTier::Aligned => TrustTier::Aligned,
        types::TrustTier::Production => TrustTier::Production,
    }
}

/// A model as the API tells it.
pub(super) fn spec(model: &Model) -> pb::ModelSpec {
    let tool_calling = match model.tool_calling {
        ToolCalling::Native => pb::ToolCalling::Native,
        ToolCalling::Constrained => pb::ToolCalling::Constrained,
        ToolCalling::None => pb::ToolCalling::None,
    };
    let latency_class = match model.latency_class {
        LatencyClass::Unknown => pb::LatencyClass::Unspecified,
        LatencyClass::Fast => pb::LatencyClass::Fast,
        LatencyClass::Medium => pb::LatencyClass::Medium,
        LatencyClass::Slow => pb::LatencyClass::Slow,
    };
    pb::ModelSpec {
        name: model.name.clone(),
        provider: model.provider.clone(),
        provider_model: model.provider_model.clone(),
        display_name: model.display_name.clone(),
        context_tokens: model.context_tokens,
        max_output_tokens: model.max_output_tokens,
        input_modalities: model.input_modalities.clone(),
        output_modalities: model.output_modalities.clone(),
        streaming: model.streaming,
        tool_calling: tool_calling.into(),
        structured_output: model.structured_output,
        price: model.price.map(price),
        latency_class: latency_class.into(),
        trust_tier: tier(model.trust_tier).into(),
        residency: model.residency.clone(),
        retention_days: model.retention_days,
        tokenizer: model.tokenizer.as_str().to_owned(),
        rehearsal: model.rehearsal,
        source: model.source.clone(),
        as_of: model.as_of.clone(),
        spec_hash: model.spec_hash.to_string(),
    }
}

fn price(price: Price) -> pb::Price {
    pb::Price {
        input_per_million: price.input,
        cached_input_per_million: price.cached_input,
        output_per_million: price.output,
    }
}

/// One model's fit as the API tells it, and what keeps calls from it here and now. `looked` is what a look has found.
pub(super) fn candidate(candidate: Candidate, pool: &Pool, looked: &Found) -> pb::Candidate {
    let look = looked.get(&candidate.model.provider);
    let (obstacle, obstacle_detail) = match pool.credential_problem(&candidate.model.provider) {
        Some(Problem::NotConfigured(detail)) => (pb::Obstacle::NotConfigured, detail),
        Some(Problem::Refused(detail)) => (pb::Obstacle::CredentialRefused, detail),
        None => match look {
            Some(Some(problem)) => (pb::Obstacle::Unreachable, problem.clone()),
            Some(None) | None => (pb::Obstacle::Unspecified, String::new()),
        },
    };
    let admitted = candidate.admitted();
    let terms = candidate.terms.iter().map(|term| pb::ScoreTerm {
        name: term.name.to_owned(),
        value_micros: term.value_micros,
        weight_micros: term.weight_micros,
    });
    let model = &candidate.model;
    pb::Candidate {
        model: model.name.clone(),
        admitted,
        terms: terms.collect(),
        score_micros: candidate.score_micros,
        spec_hash: model.spec_hash.to_string(),
        price: model.price.map(price),
        max_output_tokens: model.max_output_tokens,
        context_tokens: model.context_tokens,
        obstacle: obstacle.into(),
        obstacle_detail,
        answered: look == Some(&None),
        provider: model.provider.clone(),
        trust_tier: tier(model.trust_tier).into(),
        residency: model.residency.clone(),
        rejections: candidate.rejections.into_iter().map(rejection).collect(),
    }
}

fn rejection(rejection: Rejection) -> pb::Rejection {
    let reason = match rejection.reason {
        Reason::Context => pb::RejectionReason::Context,
        Reason::Modality => pb::RejectionReason::Modality,
        Reason::Tools => pb::RejectionReason::Tools,
        Reason::StructuredOutput => pb::RejectionReason::StructuredOutput,
        Reason::Streaming => pb::RejectionReason::Streaming,
        Reason::TrustTier => pb::RejectionReason::TrustTier,
        Reason::Residency => pb::RejectionReason::Residency,
        Reason::Retention => pb::RejectionReason::Retention,
        Reason::Price => pb::RejectionReason::Price,
        Reason::PriceUnknown => pb::RejectionReason::PriceUnknown,
        Reason::Provider => pb::RejectionReason::Provider,
        Reason::Model => pb::RejectionReason::Model,
        Reason::Rehearsal => pb::RejectionReason::Rehearsal,
        Reason::Credential => pb::RejectionReason::Credential,
    };
    pb::Rejection { reason: reason.into(), detail: rejection.detail }
}

/// A finished turn as the API tells it.
pub(super) fn turn(turn: Turn) -> pb::Turn {
    let usage = types::Usage {
        input_tokens: turn.tokens.input,
        cached_input_tokens: turn.tokens.cached_input,
        cache_write_tokens: 0,
        output_tokens: turn.tokens.output,
        reasoning_tokens: turn.tokens.reasoning,
        cost_nano_usd: turn.cost_nano_usd,
        estimated: turn.estimated,
    };
    pb::Turn {
        message: Some(types::Message { role: types::Role::Assistant.into(), parts: turn.parts }),
        model: turn.model,
        selection: turn.selection,
        usage: Some(usage),
        finish_reason: turn.finish.as_str().to_owned(),
        translation_warnings: turn.warnings,
        failed_attempts: turn.failed,
    }
}

/// A frame of a streamed turn.
pub(super) fn frame(frame: Frame) -> pb::StreamGenerateResponse {
    use pb::stream_generate_response::Frame as Kind;
    let frame = match frame {
        Frame::Attempt { number, model } => {
            Kind::Attempt(pb::ProviderAttempt { attempt: i32::try_from(number).unwrap_or(i32::MAX), model })
        }
        Frame::Delta(piece) => Kind::Delta(delta(piece)),
        Frame::Turn(finished) => Kind::Turn(turn(*finished)),
    };
    pb::StreamGenerateResponse { frame: Some(frame) }
}

fn delta(delta: Delta) -> pb::TurnDelta {
    let kind = match delta.kind {
        DeltaKind::Text => pb::TurnDeltaKind::Text,
        DeltaKind::Reasoning => pb::TurnDeltaKind::Reasoning,
        DeltaKind::ToolArguments => pb::TurnDeltaKind::ToolArguments,
    };
    pb::TurnDelta {
        part: i32::try_from(delta.part).unwrap_or(i32::MAX),
        offset: i64::try_from(delta.offset).unwrap_or(i64::MAX),
        kind: kind.into(),
        text: delta.text,
    }
}
