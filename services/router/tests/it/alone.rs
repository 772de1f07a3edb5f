use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::router::{
    CountTokensRequest, GetModelRequest, ListModelsRequest, Obstacle, Prompt, RejectionReason, Requirement,
    SelectModelRequest, ToolCalling,
};
use mar_proto::types::{ErrorReason, Message, Role};
use mar_router::{Deps, RouterConfig};
use mar_runtime::config::RuntimeConfig;
use mar_runtime::peer::Peer;
use mar_runtime::status::violations;
use tonic::Code;

use crate::harness::{Harness, reason, said, search};

const NO_PROVIDER: Obstacle = Obstacle::NotConfigured;
const FINE: &str = "[[rule]]\nreply = { text = 'fine' }";

/// A router with nothing configured at all, in process.
async fn bare() -> RouterServiceClient<Peer> {
    let server = mar_router::server(RouterConfig::default(), &RuntimeConfig::default(), Deps::default()).await.unwrap();
    RouterServiceClient::new(Peer::local(server.routed()))
}

#[tokio::test]
async fn selection_works_without_anything_else() {
    let mut router = bare().await;
    let ask = || SelectModelRequest {
        requirement: Some(Requirement {
            tools: true,
            max_cost_nano_usd: Some(0),
            input_tokens: 10,
            ..Requirement::default()
        }),
        ..SelectModelRequest::default()
    };
    let first = router.select_model(ask()).await.unwrap().into_inner();
    assert_eq!(router.select_model(ask()).await.unwrap().into_inner(), first);
    assert_eq!(first.routing_policy, "routingPolicies/balanced");
    assert!(first.routing_policy_hash.starts_with("sha256:") && first.catalogue_version.starts_with("sha256:"));
    let dear = first.candidates.iter().find(|candidate| candidate.model == "models/gpt-4o").unwrap();
    let reasons: Vec<_> = dear.rejections.iter().map(|rejection| rejection.reason()).collect();
    assert_eq!(reasons, [RejectionReason::Price]);
    let free = first.candidates.iter().find(|candidate| candidate.model == "models/qwen2.5-coder-1.5b").unwrap();
    assert!(free.admitted, "what is configured here plays no part: {free:?}");
    assert_eq!((free.obstacle(), free.obstacle_detail.as_str()), (NO_PROVIDER, "the provider is not configured"));
}

#[tokio::test]
async fn what_is_admitted_comes_first_with_its_terms() {
    let harness = Harness::start(FINE).await;
    let ask = SelectModelRequest {
        requirement: Some(Requirement { tools: true, output_tokens: 100, ..Requirement::default() }),
        ..SelectModelRequest::default()
    };
    let answer = harness.client.clone().select_model(ask).await.unwrap().into_inner();
    let order: Vec<_> = answer.candidates.iter().map(|one| (one.model.as_str(), one.admitted)).collect();
    assert_eq!(order, [("models/alpha", true), ("models/con", true), ("models/beta", true), ("models/plain", false)],);
    let best = &answer.candidates[0];
    let terms: Vec<_> =
        best.terms.iter().map(|term| (term.name.as_str(), term.value_micros, term.weight_micros)).collect();
    assert_eq!(terms, [("quality", 900_000, 500_000), ("price", 444_444, 300_000), ("latency", 1_000_000, 200_000)]);
    assert_eq!(best.score_micros, 783_333);
    assert!(best.price.is_some() && best.context_tokens == 8192 && best.spec_hash.starts_with("sha256:"));
}

#[tokio::test]
async fn an_odd_question_is_refused() {
    let mut router = bare().await;
    let negative = SelectModelRequest {
        requirement: Some(Requirement {
            input_tokens: -1,
            output_tokens: -1,
            min_trust_tier: 99,
            ..Requirement::default()
        }),
        ..SelectModelRequest::default()
    };
    let refused = router.select_model(negative).await.unwrap_err();
    assert_eq!(mar_runtime::status::violations(&refused).len(), 3);
    let unknown = SelectModelRequest { routing_policy: "routingPolicies/none".into(), ..SelectModelRequest::default() };
    assert_eq!(reason(&router.select_model(unknown).await.unwrap_err()), ErrorReason::NotFound);
}

#[tokio::test]
async fn a_selection_takes_sixty_four_names_of_each_kind() {
    let mut router = bare().await;
    let ask = |count: usize| SelectModelRequest {
        requirement: Some(Requirement {
            models: vec!["models/none".into(); count],
            input_modalities: vec!["image".into(); count],
            providers: vec!["nobody".into(); count],
            residency: vec!["eu".into(); count],
            ..Requirement::default()
        }),
        ..SelectModelRequest::default()
    };
    router.select_model(ask(64)).await.unwrap();
    let refused = router.select_model(ask(65)).await.unwrap_err();
    let told: Vec<_> = violations(&refused).into_iter().map(|one| (one.field, one.description)).collect();
    let lists = ["input_modalities", "residency", "providers", "models"];
    assert_eq!(told, lists.map(|list| (format!("requirement.{list}"), "must be at most 64".to_owned())));
}

#[tokio::test]
async fn every_malformed_name_of_a_selection_is_told_at_once() {
    let mut router = bare().await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let odd = SelectModelRequest {
        routing_policy: "???".into(),
        task_type: "BAD T!".into(),
        requirement: Some(Requirement {
            models: names(&["", "xx", "models/fine"]),
            input_modalities: names(&["text", "smell"]),
            providers: names(&["A B"]),
            residency: vec!["eu".into(); 65],
            output_tokens: -1,
            ..Requirement::default()
        }),
        look: false,
    };
    let refused = router.select_model(odd).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, ErrorReason::InvalidRequest));
    let fields: Vec<_> = violations(&refused).into_iter().map(|one| one.field).collect();
    let expected = [
        "requirement.output_tokens",
        "requirement.input_modalities[1]",
        "requirement.residency",
        "requirement.providers[0]",
        "requirement.models[0]",
        "requirement.models[1]",
        "routing_policy",
        "task_type",
    ];
    assert_eq!(fields, expected);
    let unknown = SelectModelRequest {
        task_type: "nobody-has-it".into(),
        requirement: Some(Requirement {
            models: names(&["models/none"]),
            providers: names(&["Nobody"]),
            residency: names(&["MARS"]),
            input_modalities: names(&["video"]),
            ..Requirement::default()
        }),
        ..SelectModelRequest::default()
    };
    let answer = router.select_model(unknown).await.unwrap().into_inner();
    assert!(answer.candidates.iter().all(|one| !one.admitted), "unknown names are no violation, and fit no model");
}

#[tokio::test]
async fn a_malformed_name_is_no_model_that_is_missing() {
    let mut router = bare().await;
    for name in ["", "bad name", "models/", "models/bad name", "gpt-4o", "tools/gpt-4o"] {
        let refused = router.get_model(GetModelRequest { name: name.into() }).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, ErrorReason::InvalidRequest), "{name}");
        assert_eq!(violations(&refused)[0].field, "name");
        let nothing = Prompt { messages: vec![Message::default()], ..Prompt::default() };
        let ask = CountTokensRequest { model: name.into(), prompt: Some(nothing) };
        let refused = router.count_tokens(ask).await.unwrap_err();
        let fields: Vec<_> = violations(&refused).into_iter().map(|one| one.field).collect();
        assert!(fields[0] == "model" && fields.len() > 1, "the prompt is looked at too: {fields:?}");
    }
    let get = router.get_model(GetModelRequest { name: "models/none".into() }).await.unwrap_err();
    let ask = CountTokensRequest { model: "models/none".into(), prompt: Some(Prompt::default()) };
    let count = router.count_tokens(ask).await.unwrap_err();
    for unknown in [get, count] {
        assert_eq!((unknown.code(), reason(&unknown)), (Code::NotFound, ErrorReason::NotFound));
        assert!(unknown.message().contains("models/none"), "{unknown}");
    }
}

#[tokio::test]
async fn models_are_listed_by_pages() {
    let harness = Harness::start(FINE).await;
    let mut client = harness.client.clone();
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = ListModelsRequest { page_size: 3, page_token: token };
        let page = client.list_models(page).await.unwrap().into_inner();
        names.extend(page.models.into_iter().map(|model| model.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["models/alpha", "models/beta", "models/con", "models/plain"]);
    for wrong in [
        ListModelsRequest { page_size: -1, page_token: String::new() },
        ListModelsRequest { page_size: 0, page_token: "nonsense".into() },
    ] {
        assert_eq!(reason(&client.list_models(wrong).await.unwrap_err()), ErrorReason::InvalidRequest);
    }
    let model = client.get_model(GetModelRequest { name: "models/con".into() }).await.unwrap().into_inner();
    assert_eq!(model.model.unwrap().tool_calling(), ToolCalling::Constrained);
    let unknown = client.get_model(GetModelRequest { name: "models/none".into() }).await.unwrap_err();
    assert_eq!(reason(&unknown), ErrorReason::NotFound);
}

#[tokio::test]
async fn tokens_are_counted_as_each_model_reads_them() {
    let harness = Harness::start(FINE).await;
    let mut client = harness.client.clone();
    let mut count = async |model: &str, tools: bool| {
        let tools = if tools { vec![search()] } else { Vec::new() };
        let prompt = Prompt { messages: vec![said(Role::User, "hello world")], tools, ..Prompt::default() };
        let ask = CountTokensRequest { model: format!("models/{model}"), prompt: Some(prompt) };
        client.count_tokens(ask).await.map(|counted| counted.into_inner())
    };
    let plain = count("alpha", false).await.unwrap();
    assert!(plain.exact && (2..30).contains(&plain.input_tokens), "{plain:?}");
    let with_tools = count("alpha", true).await.unwrap();
    assert!(with_tools.input_tokens > plain.input_tokens);
    // A constrained model reads instructions besides.
    assert!(count("con", true).await.unwrap().input_tokens > with_tools.input_tokens);
    assert_eq!(reason(&count("none", false).await.unwrap_err()), ErrorReason::NotFound);
}
