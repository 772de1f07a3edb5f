//! Parsing, validating, normalising and comparing descriptors.

use mar_descriptor::{Descriptor, Error, Hash, PolicyLayer, RolePrompt, TrustTier};
use serde_json::{Value, json};

use crate::samples::{admitted, full, minimal, strings, tool, unicode};

fn fields(descriptor: &Descriptor) -> Vec<String> {
    descriptor.validate().map_or_else(|violations| violations.0.into_iter().map(|v| v.field).collect(), |()| Vec::new())
}

#[test]
fn samples_are_valid_and_round_trip() {
    for descriptor in [minimal(), full(), unicode()] {
        assert_eq!(descriptor.validate(), Ok(()));
        assert_eq!(Descriptor::parse(&descriptor.canonical().unwrap()).unwrap(), descriptor);
        assert_eq!(descriptor.clone().normalised(), descriptor);
    }
}

#[test]
fn absent_values_are_written_out() {
    let text = String::from_utf8(minimal().canonical().unwrap()).unwrap();
    assert!(text.contains(r#""output_schema":null"#) && text.contains(r#""recipe":null"#), "{text}");
    for field in [r#""recipe":null,"#, r#""output_schema":null,"#] {
        assert!(matches!(Descriptor::parse(text.replace(field, "").as_bytes()), Err(Error::Canonical(_))), "{field}");
    }
    assert!(matches!(Descriptor::parse(text.replace(r#""max_steps":0,"#, "").as_bytes()), Err(Error::Shape(_))));
    assert!(matches!(
        Descriptor::parse(text.replace(r#""role":"""#, r#""role":"","x":1"#).as_bytes()),
        Err(Error::Canonical(_) | Error::Shape(_))
    ));
}

#[test]
fn unknown_fields_are_refused_at_every_level() {
    let document = serde_json::to_value(full()).unwrap();
    let objects = ["", "/model", "/model/routing_policy", "/model/roles/reason", "/model/roles/reason/requirement"];
    let more =
        ["/model/roles/reason/sampling", "/model/roles/reason/admitted/0", "/prompt", "/prompt/recipe", "/agent"];
    let rest = [
        "/agent/tools/0",
        "/agent/tools/2/doubt",
        "/agent/tools/2/doubt/probe",
        "/policy",
        "/policy/alignment_policy/0",
        "/halting",
        "/metadata",
    ];
    for path in objects.into_iter().chain(more).chain(rest) {
        let mut document = document.clone();
        document.pointer_mut(path).unwrap().as_object_mut().unwrap().insert("zzz".to_owned(), Value::Null);
        let bytes = mar_descriptor::canonical::to_canonical(&document).unwrap();
        assert!(matches!(Descriptor::parse(&bytes), Err(Error::Shape(_))), "{path}");
    }
}

#[test]
fn every_violation_is_named_at_once() {
    let mut descriptor = full();
    descriptor.schema = "other".to_owned();
    let role = descriptor.model.roles.get_mut("reason").unwrap();
    role.requirement.input_modalities = strings(&["text", "image"]);
    role.requirement.min_trust_tier = "SUPREME".to_owned();
    role.requirement.residency = strings(&["eu", "eu"]);
    role.requirement.providers = strings(&[""]);
    role.requirement.min_context_tokens = -1;
    role.admitted = vec![admitted("b"), admitted("a")];
    role.sampling.temperature = Some("0.70".to_owned());
    role.sampling.top_p = Some("1.1".to_owned());
    role.sampling.seed = Some(i64::MIN);
    role.sampling.max_output_tokens = i64::MAX;
    descriptor.model.routing_policy.name.clear();
    descriptor.model.routing_policy.version = -1;
    descriptor.prompt.recipe.as_mut().unwrap().name.clear();
    descriptor.prompt.parameters = strings(&["b", "a"]);
    descriptor.prompt.output_schema = Some("{ }".to_owned());
    descriptor.prompt.steps = strings(&["a", ""]);
    descriptor.prompt.roles =
        [("", RolePrompt::new("")), ("summarise", RolePrompt { hash: Hash::ZERO, text: "x".to_owned() })]
            .map(|(name, prompt)| (name.to_owned(), prompt))
            .into();
    descriptor.agent.tools = vec![tool("b.c", "same"), tool("a", "same"), tool("z.z", "über")];
    descriptor.policy.alignment_policy =
        vec![PolicyLayer::new("task", "x", 1, ""), PolicyLayer::new("cosmos", "", -1, "")];
    descriptor.policy.alignment_policy[0].hash = Hash::ZERO;
    descriptor.halting.max_depth = -1;
    descriptor.halting.on_budget = "halt".to_owned();
    descriptor.metadata.labels.insert(String::new(), String::new());
    let expected = [
        "schema",
        r#"model.roles["reason"].requirement.input_modalities"#,
        r#"model.roles["reason"].requirement.min_trust_tier"#,
        r#"model.roles["reason"].requirement.residency"#,
        r#"model.roles["reason"].requirement.providers[0]"#,
        r#"model.roles["reason"].requirement.min_context_tokens"#,
        r#"model.roles["reason"].admitted"#,
        r#"model.roles["reason"].sampling.temperature"#,
        r#"model.roles["reason"].sampling.top_p"#,
        r#"model.roles["reason"].sampling.seed"#,
        r#"model.roles["reason"].sampling.max_output_tokens"#,
        "model.routing_policy.name",
        "model.routing_policy.version",
        "prompt.recipe.name",
        "prompt.parameters",
        "prompt.steps[1]",
        r#"prompt.roles[""]"#,
        r#"prompt.roles[""].text"#,
        r#"prompt.roles["summarise"].hash"#,
        "prompt.output_schema",
        "agent.tools",
        "agent.tools[1].name",
        "agent.tools[1].alias",
        "agent.tools[2].alias",
        "policy.alignment_policy[0].hash",
        "policy.alignment_policy[1].layer",
        "policy.alignment_policy[1].name",
        "policy.alignment_policy[1].version",
        "halting.max_depth",
        "halting.on_budget",
        "metadata.labels",
    ];
    assert_eq!(fields(&descriptor), expected);
}

#[test]
fn output_schema_has_one_spelling() {
    let mut descriptor = minimal();
    for (text, valid) in [
        (r#"{"multipleOf":0.1}"#, true),
        ("true", true),
        (r#"{"b":1,"a":2}"#, false),
        (r#"{"minimum":1.0}"#, false),
        ("[]", false),
        ("nonsense", false),
    ] {
        descriptor.prompt.output_schema = Some(text.to_owned());
        assert_eq!(fields(&descriptor).is_empty(), valid, "{text}");
    }
    descriptor.prompt.set_output_schema(&json!({"b": 1.0, "a": 0.1})).unwrap();
    assert_eq!(descriptor.prompt.output_schema.as_deref(), Some(r#"{"a":0.1,"b":1}"#));
    assert_eq!(descriptor.prompt.output_schema_json().unwrap(), Some(json!({"a": 0.1, "b": 1})));
}

#[test]
fn normalising_sorts_sets_and_keeps_sequences() {
    let expected = full();
    let mut shuffled = full();
    let role = shuffled.model.roles.get_mut("reason").unwrap();
    role.requirement.providers = strings(&["openai", "local", "openai"]);
    role.requirement.residency.reverse();
    role.requirement.input_modalities.reverse();
    role.admitted.reverse();
    shuffled.prompt.parameters.reverse();
    shuffled.agent.tools.reverse();
    shuffled.policy.alignment_policy.reverse();
    assert_ne!(shuffled.hash().unwrap(), expected.hash().unwrap());
    assert_eq!(shuffled.normalised(), expected);
    let mut reordered = full();
    reordered.prompt.examples.reverse();
    assert_ne!(reordered.normalised().hash().unwrap(), expected.hash().unwrap());
}

#[test]
fn diff_names_the_sections_that_changed() {
    let (a, mut b) = (full(), full());
    assert!(Descriptor::diff(&a, &b).unwrap().is_empty());
    b.halting.max_steps += 1;
    b.agent.tools.pop();
    assert_eq!(Descriptor::diff(&a, &b).unwrap(), ["agent", "halting"]);
    assert_eq!(Descriptor::diff(&minimal(), &full()).unwrap().len(), 6);
}

#[test]
fn what_cannot_be_canonical_has_no_hash() {
    let mut descriptor = minimal();
    descriptor.halting.max_steps = i64::MAX;
    assert!(matches!(descriptor.hash(), Err(Error::Canonical(_))));
    let mut descriptor = minimal();
    descriptor.prompt.system = "x".repeat(1 << 20);
    assert!(matches!(descriptor.section_hashes(), Err(Error::Canonical(_))));
}

#[test]
fn trust_tiers_are_ordered() {
    assert!(TrustTier::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    for tier in TrustTier::ALL {
        assert_eq!(tier.to_string().parse(), Ok(tier));
    }
    assert!("aligned".parse::<TrustTier>().is_err());
}
