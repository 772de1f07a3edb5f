//! The rules for a descriptor's contents.

use std::collections::BTreeSet;

use super::{
    Descriptor, Doubt, ModelRole, ON_BUDGET_HALT, ON_BUDGET_WAIT, ON_UNKNOWN_ASK_HUMAN, ON_UNKNOWN_TELL_MODEL,
    POLICY_LAYERS, PolicyLayer, Requirement, RolePrompt, SCHEMA, Sampling, Violations,
};
use crate::{
    canonical::{self, MAX_INTEGER},
    decimal,
};

const SORTED: &str = "must be sorted by code point and hold nothing twice";
const COUNT: &str = "must be between 0 and 2^53-1";
const NOT_EMPTY: &str = "must not be empty";
const HASH_OF_TEXT: &str = "must be the hash of the text";

pub(super) fn validate(descriptor: &Descriptor) -> Result<(), Violations> {
    let mut found = Violations::default();
    found.require(descriptor.schema == SCHEMA, "schema", "must be `mcp-agent-runtime/descriptor/v1`");
    model(descriptor, &mut found);
    prompt(descriptor, &mut found);
    agent(descriptor, &mut found);
    policy(descriptor, &mut found);
    halting(descriptor, &mut found);
    metadata(descriptor, &mut found);
    if found.0.is_empty() { Ok(()) } else { Err(found) }
}

fn model(descriptor: &Descriptor, found: &mut Violations) {
    let section = &descriptor.model;
    for (name, role) in &section.roles {
        let at = format!("model.roles[{name:?}]");
        found.require(!name.is_empty(), &at, "must have a name");
        requirement(&role.requirement, &format!("{at}.requirement"), found);
        admitted(role, &at, found);
        sampling(&role.sampling, &format!("{at}.sampling"), found);
    }
    let named = !section.routing_policy.name.is_empty() || section.roles.is_empty();
    found.require(named, "model.routing_policy.name", "must not be empty when there are roles");
    count(section.routing_policy.version, "model.routing_policy.version", found);
}

fn requirement(requirement: &Requirement, at: &str, found: &mut Violations) {
    set(&requirement.input_modalities, &format!("{at}.input_modalities"), found);
    let tier = requirement.trust_tier().is_some();
    found.require(tier, format!("{at}.min_trust_tier"), "must be one of UNVERIFIED, EXPERIMENTAL, ALIGNED, PRODUCTION");
    set(&requirement.residency, &format!("{at}.residency"), found);
    set(&requirement.providers, &format!("{at}.providers"), found);
    count(requirement.min_context_tokens, &format!("{at}.min_context_tokens"), found);
}

fn admitted(role: &ModelRole, at: &str, found: &mut Violations) {
    let names: Vec<_> = role.admitted.iter().map(|admitted| admitted.model.as_str()).collect();
    set(&names, &format!("{at}.admitted"), found);
}

fn sampling(sampling: &Sampling, at: &str, found: &mut Violations) {
    if let Some(text) = &sampling.temperature {
        let fits = decimal::is_canonical(text) && !text.starts_with('-');
        found.require(
            fits,
            format!("{at}.temperature"),
            "must be a decimal string without superfluous zeros, at least 0",
        );
    }
    if let Some(text) = &sampling.top_p {
        let fits = decimal::is_canonical(text) && (text == "0" || text == "1" || text.starts_with("0."));
        found.require(
            fits,
            format!("{at}.top_p"),
            "must be a decimal string without superfluous zeros, between 0 and 1",
        );
    }
    if let Some(seed) = sampling.seed {
        let fits = (-MAX_INTEGER..=MAX_INTEGER).contains(&seed);
        found.require(fits, format!("{at}.seed"), "must be within ±(2^53-1)");
    }
    count(sampling.max_output_tokens, &format!("{at}.max_output_tokens"), found);
}

fn prompt(descriptor: &Descriptor, found: &mut Violations) {
    let section = &descriptor.prompt;
    if let Some(recipe) = &section.recipe {
        found.require(!recipe.name.is_empty(), "prompt.recipe.name", NOT_EMPTY);
        count(recipe.version, "prompt.recipe.version", found);
    }
    set(&section.parameters, "prompt.parameters", found);
    for (index, step) in section.steps.iter().enumerate() {
        found.require(!step.is_empty(), format!("prompt.steps[{index}]"), NOT_EMPTY);
    }
    for (name, prompt) in &section.roles {
        let at = format!("prompt.roles[{name:?}]");
        found.require(!name.is_empty(), &at, "must have a name");
        found.require(prompt.hash == RolePrompt::text_hash(&prompt.text), format!("{at}.hash"), HASH_OF_TEXT);
        found.require(!prompt.text.is_empty(), format!("{at}.text"), NOT_EMPTY);
    }
    let spelled = match section.output_schema_json() {
        Ok(None) => true,
        Ok(Some(schema)) => {
            let kind = schema.is_object() || schema.is_boolean();
            found.require(kind, "prompt.output_schema", "must be a JSON Schema: an object, true or false");
            canonical::foreign(&schema).ok() == section.output_schema
        }
        Err(_) => false,
    };
    found.require(spelled, "prompt.output_schema", "must be JSON text in its canonical spelling");
}

fn agent(descriptor: &Descriptor, found: &mut Violations) {
    let tools = &descriptor.agent.tools;
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
    found.require(is_sorted_set(&names), "agent.tools", "must be sorted by name, each name once");
    let mut aliases = BTreeSet::new();
    for (index, tool) in tools.iter().enumerate() {
        let at = format!("agent.tools[{index}]");
        let full = tool.name.split_once('.').is_some_and(|(upstream, tool)| !upstream.is_empty() && !tool.is_empty());
        found.require(full, format!("{at}.name"), "must be `upstream.tool`");
        found.require(is_alias(&tool.alias), format!("{at}.alias"), "must be 1 to 64 of A-Z a-z 0-9 _ -");
        found.require(aliases.insert(&tool.alias), format!("{at}.alias"), "must be unique");
        if let Some(declared) = &tool.doubt {
            doubt(&tool.name, declared, &format!("{at}.doubt"), found);
        }
    }
}

fn doubt(tool: &str, doubt: &Doubt, at: &str, found: &mut Violations) {
    let asks = doubt.on_unknown == ON_UNKNOWN_ASK_HUMAN;
    let known = asks || doubt.on_unknown == ON_UNKNOWN_TELL_MODEL;
    found.require(known, format!("{at}.on_unknown"), "must be TELL_MODEL or ASK_HUMAN");
    found.require(asks || doubt.group.is_empty(), format!("{at}.group"), "must be empty unless a human is asked");
    count(doubt.expires_after_ms, &format!("{at}.expires_after_ms"), found);
    let lapses = asks == (doubt.expires_after_ms > 0);
    found.require(lapses, format!("{at}.expires_after_ms"), "must be more than 0 where a human is asked, else 0");
    let Some(probe) = &doubt.probe else { return };
    let upstream = |name: &str| name.split_once('.').map(|(upstream, _)| upstream.to_owned());
    let beside = probe.tool != tool && upstream(&probe.tool) == upstream(tool);
    found.require(beside, format!("{at}.probe.tool"), "must be another tool of the same upstream");
    found.require(!probe.key_argument.is_empty(), format!("{at}.probe.key_argument"), NOT_EMPTY);
    count(probe.settles_after_ms, &format!("{at}.probe.settles_after_ms"), found);
}

fn is_alias(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn policy(descriptor: &Descriptor, found: &mut Violations) {
    let layers = &descriptor.policy.alignment_policy;
    let sorted = layers.windows(2).all(|pair| pair[0].place() < pair[1].place());
    found.require(
        sorted,
        "policy.alignment_policy",
        "must go from the platform to the task, by name within a layer, each once",
    );
    for (index, layer) in layers.iter().enumerate() {
        let at = format!("policy.alignment_policy[{index}]");
        let known = POLICY_LAYERS.contains(&layer.layer.as_str());
        found.require(known, format!("{at}.layer"), "must be one of platform, organisation, environment, agent, task");
        found.require(!layer.name.is_empty(), format!("{at}.name"), NOT_EMPTY);
        count(layer.version, &format!("{at}.version"), found);
        found.require(layer.hash == PolicyLayer::text_hash(&layer.text), format!("{at}.hash"), HASH_OF_TEXT);
    }
}

fn halting(descriptor: &Descriptor, found: &mut Violations) {
    let section = &descriptor.halting;
    count(section.max_steps, "halting.max_steps", found);
    count(section.max_tool_calls, "halting.max_tool_calls", found);
    count(section.max_active_time_ms, "halting.max_active_time_ms", found);
    count(section.max_depth, "halting.max_depth", found);
    count(section.max_input_tokens, "halting.max_input_tokens", found);
    count(section.max_output_tokens, "halting.max_output_tokens", found);
    count(section.max_cost_nano_usd, "halting.max_cost_nano_usd", found);
    let known = [ON_BUDGET_HALT, ON_BUDGET_WAIT].contains(&section.on_budget.as_str());
    found.require(known, "halting.on_budget", "must be HALT or WAIT");
}

fn metadata(descriptor: &Descriptor, found: &mut Violations) {
    found.require(!descriptor.metadata.labels.contains_key(""), "metadata.labels", "must not have an empty key");
}

fn count(value: i64, field: &str, found: &mut Violations) {
    found.require((0..=MAX_INTEGER).contains(&value), field, COUNT);
}

fn set<T: AsRef<str> + Ord>(items: &[T], field: &str, found: &mut Violations) {
    found.require(is_sorted_set(items), field, SORTED);
    for (index, item) in items.iter().enumerate() {
        found.require(!item.as_ref().is_empty(), format!("{field}[{index}]"), NOT_EMPTY);
    }
}

fn is_sorted_set<T: Ord>(items: &[T]) -> bool {
    items.windows(2).all(|pair| pair[0] < pair[1])
}
