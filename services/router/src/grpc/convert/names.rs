//! Names in requests: their form, never whether anything has them. The rules are those that a task's model constraints
//! are admitted by, so what is refused here is refused of a task too, and the other way round.

use mar_proto::router as pb;
use mar_runtime::violations::Violations;

use crate::catalogue::{MODALITIES, PREFIX as MODELS};
use crate::policy::PREFIX as ROUTING_POLICIES;

const MAX_NAMES: usize = 64;
const MAX_NAME_BYTES: usize = 200;
const MAX_TYPE_BYTES: usize = 64;

/// `models/{model}`.
pub(in crate::grpc) fn model_name(name: &str, field: &str, found: &mut Violations) {
    found.require(prefixed(name, MODELS), field, "must be `models/{model}`");
}

/// `routingPolicies/{policy}`, or nothing for the default.
pub(in crate::grpc) fn routing_policy(name: &str, found: &mut Violations) {
    let fits = name.is_empty() || prefixed(name, ROUTING_POLICIES);
    found.require(fits, "routing_policy", "must be `routingPolicies/{policy}`");
}

/// A kind of task, or nothing.
pub(in crate::grpc) fn task_type(name: &str, found: &mut Violations) {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    let begins = name.bytes().next().is_none_or(|byte| byte.is_ascii_lowercase());
    let fits = begins && name.len() <= MAX_TYPE_BYTES && name.bytes().all(fits);
    found.require(fits, "task_type", "must match [a-z][a-z0-9_-]{0,63}");
}

/// Every list of names of a requirement.
pub(super) fn requirement(asked: &pb::Requirement, found: &mut Violations) {
    let modality = format!("must be of {}", MODALITIES.join(", "));
    list(&asked.input_modalities, "input_modalities", &modality, |name| MODALITIES.contains(&name), found);
    let word = format!("must be 1 to {MAX_NAME_BYTES} visible ASCII characters");
    list(&asked.residency, "residency", &word, is_word, found);
    list(&asked.providers, "providers", &word, is_word, found);
    list(&asked.models, "models", "must be `models/{model}`", |name| prefixed(name, MODELS), found);
}

fn list(names: &[String], field: &str, rule: &str, fits: impl Fn(&str) -> bool, found: &mut Violations) {
    found.require(names.len() <= MAX_NAMES, field, format!("must be at most {MAX_NAMES}"));
    for (at, name) in names.iter().enumerate().take(MAX_NAMES) {
        found.item(field, at, |found| found.require(fits(name), "", rule).is_empty());
    }
}

fn prefixed(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(is_word)
}

fn is_word(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
