//! Descriptors that the tests share.

use std::collections::BTreeMap;

use mar_descriptor::descriptor::ON_UNKNOWN_ASK_HUMAN;
use mar_descriptor::{
    AdmittedModel, Descriptor, Doubt, Hash, ModelRole, PolicyLayer, PolicyRef, Probe, RecipeRef, Requirement,
    RolePrompt, Sampling, SealedTool, domain,
};
use serde_json::json;

/// The least that is valid.
pub fn minimal() -> Descriptor {
    Descriptor::default()
}

/// Something in every field.
pub fn full() -> Descriptor {
    let mut descriptor = Descriptor::default();
    descriptor.model.roles =
        BTreeMap::from([("reason".to_owned(), reasoning()), ("summarise".to_owned(), ModelRole::default())]);
    descriptor.model.routing_policy =
        PolicyRef { name: "balanced".to_owned(), version: 3, hash: Hash::of(domain::ROUTING_POLICY, b"balanced") };
    descriptor.prompt.recipe = Some(RecipeRef {
        name: "answer-with-sources".to_owned(),
        version: 1,
        hash: Hash::of(domain::PROMPT_RECIPE, b"recipe"),
    });
    descriptor.prompt.system =
        "Answer from the passages.\n\tCite each one as \"[n]\"; \\ and \u{7f} stay as they are.".to_owned();
    descriptor.prompt.examples = vec![Hash::of(domain::EXAMPLE, b"2"), Hash::of(domain::EXAMPLE, b"1")];
    descriptor.prompt.parameters = strings(&["language", "question"]);
    descriptor
        .prompt
        .set_output_schema(&json!({"type": "object", "properties": {"score": {"type": "number", "multipleOf": 0.1, "maximum": i64::MAX}}}))
        .unwrap();
    descriptor.prompt.steps = strings(&["system-role", "few-shot", "compress"]);
    descriptor.prompt.roles = BTreeMap::from([(
        "summarise".to_owned(),
        RolePrompt::new("Say in a few words what \u{201c}they\u{201d} said."),
    )]);
    descriptor.agent.role = "researcher".to_owned();
    descriptor.agent.tools = vec![
        tool("builtin.search", "search"),
        tool("files.read_file", "read_file"),
        changing_tool("mail.send", "send"),
    ];
    descriptor.policy.alignment_policy = vec![
        PolicyLayer::new("platform", "default", 2, "permit (principal, action, resource);"),
        PolicyLayer::new("task", "read-only", 0, "forbid (principal, action, resource) unless { context.read_only };"),
    ];
    let halting = &mut descriptor.halting;
    (halting.max_steps, halting.max_tool_calls, halting.max_depth) = (8, 16, 1);
    (halting.max_input_tokens, halting.max_output_tokens) = (200_000, 20_000);
    halting.max_active_time_ms = 600_000;
    halting.max_cost_nano_usd = 9_007_199_254_740_991;
    halting.on_budget = "WAIT".to_owned();
    descriptor.metadata.purpose = "support".to_owned();
    descriptor.metadata.task_type = "question".to_owned();
    descriptor.metadata.environment = "dev".to_owned();
    descriptor.metadata.labels = BTreeMap::from([("team".to_owned(), "search".to_owned())]);
    descriptor
}

/// Labels whose keys sort differently by code point, by UTF-8 and by UTF-16.
pub fn unicode() -> Descriptor {
    let mut descriptor = Descriptor::default();
    let keys =
        ["\u{20ac}", "\r", "\u{fb33}", "1", "\u{1f600}", "\u{80}", "\u{f6}", "o\u{308}", "\u{10ffff}", "\u{ffff}"];
    descriptor.metadata.labels =
        keys.iter().enumerate().map(|(n, key)| ((*key).to_owned(), format!("{n} \u{1}\u{2028}"))).collect();
    descriptor.metadata.purpose = "Grüße, 世界 \u{1f30d}".to_owned();
    descriptor
}

pub fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

pub fn tool(name: &str, alias: &str) -> SealedTool {
    SealedTool {
        name: name.to_owned(),
        alias: alias.to_owned(),
        definition_hash: Hash::of(domain::TOOL_DEFINITION, name.as_bytes()),
        idempotent: true,
        read_only: true,
        doubt: None,
    }
}

/// A tool whose calls change something, and can be asked about.
pub fn changing_tool(name: &str, alias: &str) -> SealedTool {
    let probe = Probe {
        tool: format!("{}.status", name.split_once('.').unwrap().0),
        definition_hash: Hash::of(domain::TOOL_DEFINITION, b"status"),
        key_argument: "key".to_owned(),
        settles_after_ms: 30_000,
    };
    let doubt = Doubt {
        probe: Some(probe),
        on_unknown: ON_UNKNOWN_ASK_HUMAN.to_owned(),
        group: "office".to_owned(),
        expires_after_ms: 3_600_000,
    };
    SealedTool { idempotent: false, read_only: false, doubt: Some(doubt), ..tool(name, alias) }
}

pub fn admitted(model: &str) -> AdmittedModel {
    AdmittedModel { model: model.to_owned(), spec_hash: Hash::of(domain::MODEL_SPEC, model.as_bytes()) }
}

fn reasoning() -> ModelRole {
    ModelRole {
        requirement: Requirement {
            tools: true,
            structured_output: true,
            streaming: true,
            input_modalities: strings(&["image", "text"]),
            min_trust_tier: "ALIGNED".to_owned(),
            residency: strings(&["ch", "eu"]),
            providers: strings(&["local", "openai"]),
            min_context_tokens: 32_768,
        },
        admitted: vec![admitted("local/small"), admitted("openai/large")],
        sampling: Sampling {
            temperature: Some("0.7".to_owned()),
            top_p: Some("0.95".to_owned()),
            seed: Some(-42),
            max_output_tokens: 4_096,
        },
    }
}
