use super::*;
use crate::catalogue::Catalogue;
use crate::samples;

fn reasons(model: &Model, wish: &Requirement, now: &Circumstances<'_>) -> Vec<Reason> {
    admit(model, wish, now).into_iter().map(|rejection| rejection.reason).collect()
}

fn now() -> Circumstances<'static> {
    Circumstances { environment_tier: TrustTier::Unverified, only_rehearsal: false, credential: None, input_tokens: 0 }
}

fn model() -> Model {
    let catalogue = Catalogue::parse(&samples::entry("plain", "p")).unwrap();
    catalogue.models()[0].as_ref().clone()
}

#[test]
fn nothing_asked_for_admits() {
    assert_eq!(reasons(&model(), &Requirement::default(), &now()), []);
}

#[test]
fn each_constraint_has_its_reason() {
    let plain = model();
    let none = Requirement::default;
    let words = |word: &str| vec![word.to_owned()];
    let cases: Vec<(Reason, Model, Requirement, Circumstances<'_>)> = vec![
        (Reason::Context, plain.clone(), none(), Circumstances { input_tokens: 8_193, ..now() }),
        (Reason::Context, plain.clone(), Requirement { min_context_tokens: 8_193, ..none() }, now()),
        (Reason::Modality, plain.clone(), Requirement { input_modalities: words("image"), ..none() }, now()),
        (
            Reason::Tools,
            Model { tool_calling: ToolCalling::None, ..plain.clone() },
            Requirement { tools: true, ..none() },
            now(),
        ),
        (
            Reason::StructuredOutput,
            Model { structured_output: false, ..plain.clone() },
            Requirement { structured_output: true, ..none() },
            now(),
        ),
        (
            Reason::Streaming,
            Model { streaming: false, ..plain.clone() },
            Requirement { streaming: true, ..none() },
            now(),
        ),
        (
            Reason::TrustTier,
            plain.clone(),
            Requirement { min_trust_tier: Some(TrustTier::Production), ..none() },
            now(),
        ),
        (Reason::TrustTier, plain.clone(), none(), Circumstances { environment_tier: TrustTier::Production, ..now() }),
        (Reason::Residency, plain.clone(), Requirement { residency: words("us"), ..none() }, now()),
        (
            Reason::Retention,
            Model { retention_days: 30, ..plain.clone() },
            Requirement { max_retention_days: Some(29), ..none() },
            now(),
        ),
        (
            Reason::Price,
            plain.clone(),
            Requirement { max_cost_nano_usd: Some(999), ..none() },
            Circumstances { input_tokens: 1, ..now() },
        ),
        (
            Reason::PriceUnknown,
            Model { price: None, ..plain.clone() },
            Requirement { max_cost_nano_usd: Some(i64::MAX), ..none() },
            now(),
        ),
        (Reason::Provider, plain.clone(), Requirement { providers: words("q"), ..none() }, now()),
        (Reason::Model, plain.clone(), Requirement { models: Wanted::Named(words("models/other")), ..none() }, now()),
        (
            Reason::Model,
            plain.clone(),
            Requirement { models: Wanted::Sealed(BTreeMap::from([("models/plain".into(), Hash::ZERO)])), ..none() },
            now(),
        ),
        (Reason::Rehearsal, Model { rehearsal: true, ..plain.clone() }, none(), now()),
        (Reason::Credential, plain.clone(), none(), Circumstances { credential: Some("is missing"), ..now() }),
    ];
    for (reason, model, wish, now) in cases {
        assert_eq!(reasons(&model, &wish, &now), [reason], "{reason:?}");
    }
}

#[test]
fn bounds_are_inclusive() {
    let wish = Requirement {
        output_tokens: 100_000,
        max_cost_nano_usd: Some(7_168 * 1_000 + 1_024 * 2_000),
        min_trust_tier: Some(TrustTier::Aligned),
        max_retention_days: Some(0),
        residency: vec!["eu".into()],
        ..Requirement::default()
    };
    let fits = Circumstances { input_tokens: 7_168, ..now() };
    assert_eq!(reasons(&model(), &wish, &fits), []);
    let over = Circumstances { input_tokens: 7_169, ..now() };
    assert_eq!(reasons(&model(), &wish, &over), [Reason::Context, Reason::Price]);
}

#[test]
fn all_rejections_are_named_at_once() {
    let wish = Requirement {
        streaming: true,
        providers: vec!["q".into()],
        residency: vec!["us".into()],
        ..Requirement::default()
    };
    let model = Model { streaming: false, ..model() };
    assert_eq!(reasons(&model, &wish, &now()), [Reason::Streaming, Reason::Residency, Reason::Provider]);
}

#[test]
fn a_stand_in_acts_when_named_or_allowed_or_alone() {
    let stand_in = Model { rehearsal: true, ..model() };
    let named = Wanted::Named(vec!["models/plain".into()]);
    let sealed = Wanted::Sealed(BTreeMap::from([("models/plain".into(), stand_in.spec_hash)]));
    for wish in [
        Requirement { models: named, ..Requirement::default() },
        Requirement { models: sealed, ..Requirement::default() },
        Requirement { allow_rehearsal: true, ..Requirement::default() },
    ] {
        assert_eq!(reasons(&stand_in, &wish, &now()), []);
    }
    let alone = Circumstances { only_rehearsal: true, ..now() };
    assert_eq!(reasons(&stand_in, &Requirement::default(), &alone), []);
}
