//! Properties of stacks: whatever is added, nothing becomes milder.

use std::sync::{Arc, LazyLock};

use mar_alignment::{
    Agent, Arguments, Caller, Guidance, Layer, Policy, PolicyText, Question, Request, RunFacts, Stack, Tool, TrustTier,
    Verdict, decide_both,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;

const LAYERS: [Layer; 5] = [Layer::Platform, Layer::Organisation, Layer::Environment, Layer::Agent, Layer::Task];

/// Rules of every kind: broad, narrow, named, asking, failing, trying.
const RULES: [&str; 12] = [
    "permit (principal, action, resource);",
    "permit (principal, action == Action::\"callTool\", resource) when { context.sealed };",
    "permit (principal, action, resource == Tool::\"docs.search\");",
    "permit (principal, action, resource in Upstream::\"mail\");",
    "@verdict(\"require_approval\") permit (principal, action, resource == Tool::\"mail.send\");",
    "@verdict(\"require_approval\") permit (principal, action == Action::\"callTool\", resource) when { !resource.read_only };",
    "forbid (principal, action == Action::\"callTool\", resource) when { context.taint };",
    "forbid (principal, action in [Action::\"callTool\", Action::\"listTool\"], resource) when { resource.trust_rank == 0 };",
    "forbid (principal, action, resource == Tool::\"mail.send\");",
    "@mode(\"log_only\") forbid (principal, action, resource);",
    "forbid (principal, action == Action::\"callTool\", resource) when { context.step * 9223372036854775807 < 0 };",
    "@mode(\"log_only\") forbid (principal, action == Action::\"callTool\", resource) when { context.step * 9223372036854775807 < 0 };",
];

/// Parsing dominates otherwise: each rule on each layer is parsed once.
static SINGLE: LazyLock<Vec<Arc<Policy>>> =
    LazyLock::new(|| LAYERS.iter().flat_map(|layer| RULES.iter().map(|rule| policy(*layer, &[rule]))).collect());

fn policy(layer: Layer, rules: &[&str]) -> Arc<Policy> {
    let text = PolicyText { layer, name: "p".to_owned(), version: 1, text: rules.join("\n") };
    Arc::new(Policy::parse(text).unwrap())
}

fn policies() -> impl Strategy<Value = Arc<Policy>> {
    let mixed = (select(&LAYERS[..]), subsequence(&RULES[..], 1..6)).prop_map(|(layer, rules)| policy(layer, &rules));
    let broad = select(&LAYERS[..]).prop_map(|layer| policy(layer, &RULES[..1]));
    prop_oneof![2 => mixed, 2 => broad, 1 => (0..SINGLE.len()).prop_map(|index| SINGLE[index].clone())]
}

fn platforms() -> impl Strategy<Value = Arc<Policy>> {
    prop_oneof![
        3 => Just(policy(Layer::Platform, &RULES[..1])),
        1 => subsequence(&RULES[..], 1..4).prop_map(|rules| policy(Layer::Platform, &rules)),
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let names = select(vec!["docs.search", "mail.send", "mail.list", "code.run"]);
    (names, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0..3_u64, any::<bool>()).prop_map(
        |(name, read_only, sealed, taint, trusted, step, call)| {
            let agent =
                Agent { caller: Caller { environment: "prod".to_owned(), ..Caller::default() }, ..Agent::default() };
            let tool = Tool {
                name: name.to_owned(),
                upstream: name.split('.').next().unwrap().to_owned(),
                read_only,
                idempotent: false,
                trust_tier: if trusted { TrustTier::Production } else { TrustTier::Unverified },
            };
            let question = if call {
                Question::CallTool { agent, tool, sealed, arguments: Arguments::new(json!({"a": 1}), "d", 7) }
            } else {
                Question::ListTool { agent, tool }
            };
            Request::new(question).in_run(RunFacts { step, taint, ..RunFacts::default() })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn adding_a_layer_never_makes_a_decision_milder(
        platform in platforms(),
        others in prop::collection::vec(policies(), 0..4),
        added in policies(),
        request in requests(),
    ) {
        let base: Vec<_> = std::iter::once(platform).chain(others).collect();
        let before = Stack::new(base.clone()).decide(&request);
        let after = Stack::new(base.into_iter().chain([added])).decide(&request);
        prop_assert!(after.verdict >= before.verdict, "{before:#?}\n{after:#?}");
    }

    #[test]
    fn without_a_platform_layer_everything_is_denied(
        others in prop::collection::vec(policies(), 0..5),
        request in requests(),
    ) {
        let lower = others.into_iter().filter(|policy| policy.layer() != Layer::Platform);
        prop_assert_eq!(Stack::new(lower).decide(&request).verdict, Verdict::Deny);
    }

    #[test]
    fn both_is_the_stricter_of_the_two(
        sealed in platforms(),
        lower in prop::collection::vec(policies(), 0..3),
        current in platforms(),
        request in requests(),
    ) {
        let sealed = Stack::new(std::iter::once(sealed).chain(lower));
        let current = Stack::new([current]);
        let both = decide_both(&sealed, &current, &request);
        let stricter = sealed.decide(&request).verdict.max(current.decide(&request).verdict);
        prop_assert_eq!(both.verdict, stricter);
    }

    #[test]
    fn every_decision_explains_itself(
        platform in platforms(),
        others in prop::collection::vec(policies(), 0..4),
        request in requests(),
    ) {
        let decision = Stack::new(std::iter::once(platform).chain(others)).decide(&request);
        if decision.verdict == Verdict::Deny {
            let causes = decision.determining.len() + decision.unpermitted.len() + decision.errors.len();
            prop_assert!(causes > 0);
            prop_assert!(decision.guidance.is_some());
        } else {
            prop_assert!(!decision.determining.is_empty());
            prop_assert!(decision.errors.is_empty() && decision.unpermitted.is_empty());
            prop_assert_ne!(decision.guidance, Some(Guidance::Refuse));
        }
        let written = serde_json::to_string(&decision).unwrap();
        prop_assert_eq!(serde_json::from_str::<mar_alignment::Decision>(&written).unwrap().verdict, decision.verdict);
    }
}
