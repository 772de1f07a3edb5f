//! Agents that do not come about, and what the caller learns.

use std::collections::BTreeSet;
use std::time::Duration;

use mar_proto::agent::{GenerateAgentRequest, GetAgentRequest, RenderPromptRequest};
use mar_proto::router::RejectionReason;
use mar_proto::session::{ModelConstraints, Task, ToolSelector};
use mar_proto::types::{ErrorReason, Media, Part, ToolCall, part::Content};
use mar_runtime::status::{Fault, Reason, metadata, retry_after, violations};
use mar_runtime::violations::Violation;
use mar_testkit::postgres::Postgres;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::fakes::rejected;
use crate::harness::{Harness, request, task, text};

async fn refused(harness: &mut Harness, request: GenerateAgentRequest) -> Status {
    harness.client.generate_agent(request).await.unwrap_err()
}

fn fields(status: &Status) -> BTreeSet<String> {
    assert_eq!((status.code(), Reason::of(status)), (Code::InvalidArgument, Some(ErrorReason::InvalidRequest)));
    violations(status).into_iter().map(|one| one.field).collect()
}

#[tokio::test]
async fn a_named_tool_that_is_missing() {
    let mut harness = Harness::start().await;
    let status = refused(&mut harness, request(task(&["docs.search", "docs.gone", "*"]))).await;
    assert_eq!((status.code(), Reason::of(&status)), (Code::NotFound, Some(ErrorReason::NotFound)));
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "tools/docs.gone");

    harness.gateway.state().unavailable = vec!["docs".into()];
    let status = refused(&mut harness, request(task(&["docs.gone"]))).await;
    assert_eq!((status.code(), Reason::of(&status)), (Code::Unavailable, Some(ErrorReason::UpstreamUnavailable)));
    assert!(retry_after(&status).is_some());
}

#[tokio::test]
async fn selectors_that_pick_nothing_are_named_together() {
    let mut harness = Harness::start().await;
    let status = refused(&mut harness, request(task(&["nobody.*"]))).await;
    assert_eq!((status.code(), Reason::of(&status)), (Code::NotFound, Some(ErrorReason::NotFound)));
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "tools/nobody.*");
    assert!(status.message().contains("tools/nobody.*"), "{status:?}");

    let status = refused(&mut harness, request(task(&["nobody.*", "docs.*", "docs.gone", "noone.*", "*"]))).await;
    assert_eq!(metadata(&status)["missing"], "tools/docs.gone,tools/nobody.*,tools/noone.*");
    for name in ["tools/docs.gone", "tools/nobody.*", "tools/noone.*"] {
        assert!(status.message().contains(name), "{status:?}");
    }

    // Waiting for what is down would not bring the other.
    harness.gateway.state().unavailable = vec!["down".into()];
    let status = refused(&mut harness, request(task(&["down.tool", "nobody.*"]))).await;
    assert_eq!(Reason::of(&status), Some(ErrorReason::NotFound), "{status:?}");
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "tools/nobody.*");
}

#[tokio::test]
async fn selectors_that_pick_nothing_now_may_be_in_order() {
    let mut harness = Harness::start().await;
    harness.gateway.state().unavailable = vec!["down".into()];
    let status = refused(&mut harness, request(task(&["down.*", "docs.*"]))).await;
    assert_eq!((status.code(), Reason::of(&status)), (Code::Unavailable, Some(ErrorReason::UpstreamUnavailable)));
    assert_eq!(metadata(&status)["upstreams"], "down");

    // Everything there is, which the policy leaves out: the upstream is known.
    let mut narrow = task(&["docs.*", "*"]);
    narrow.alignment_policy =
        r#"permit (principal, action, resource); forbid (principal, action == Action::"listTool", resource);"#.into();
    let made = harness.client.generate_agent(request(narrow)).await.unwrap().into_inner();
    assert!(made.agent.unwrap().tools.is_empty());

    harness.gateway.state().tools.clear();
    harness.client.generate_agent(request(task(&["*"]))).await.unwrap();
}

#[tokio::test]
async fn a_named_tool_that_is_denied() {
    let mut harness = Harness::start().await;
    let mut narrow = task(&["docs.search"]);
    narrow.alignment_policy = r#"permit (principal, action, resource);
        @id("task.no-search") forbid (principal, action == Action::"listTool", resource) when { resource.upstream == "docs" };"#
        .into();
    let status = refused(&mut harness, request(narrow.clone())).await;
    assert_eq!((status.code(), Reason::of(&status)), (Code::PermissionDenied, Some(ErrorReason::PolicyDenied)));
    assert_eq!(metadata(&status)["policies"], "task/task.no-search");
    assert_eq!(metadata(&status)["tools"], "tools/docs.search");
    // A layer that permits nothing denies everything.
    narrow.alignment_policy = r#"forbid (principal, action == Action::"callTool", resource);"#.into();
    let status = refused(&mut harness, request(narrow)).await;
    assert_eq!(
        (Reason::of(&status), metadata(&status)["policies"].as_str()),
        (Some(ErrorReason::PolicyDenied), "task")
    );
}

#[tokio::test]
async fn no_model() {
    let mut harness = Harness::start().await;
    harness.router.state().candidates = vec![
        rejected("small", RejectionReason::Context, "8192 of 100000 tokens"),
        rejected("large", RejectionReason::TrustTier, ""),
    ];
    let status = refused(&mut harness, request(task(&[]))).await;
    assert_eq!((status.code(), Reason::of(&status)), (Code::FailedPrecondition, Some(ErrorReason::NoModelAdmitted)));
    assert_eq!(metadata(&status)["small"], "CONTEXT: 8192 of 100000 tokens");
    assert_eq!(metadata(&status)["large"], "TRUST_TIER");
    harness.router.state().candidates.clear();
    let status = refused(&mut harness, request(task(&[]))).await;
    assert_eq!(Reason::of(&status), Some(ErrorReason::NoModelAdmitted));
}

#[tokio::test]
async fn a_schema_that_does_not_compile() {
    let mut harness = Harness::start().await;
    for schema in ["{", "[1]", r#"{"type":"objekt"}"#, r#"{"$ref":"http://127.0.0.1:9/x"}"#] {
        let wrong = Task { output_schema_json: schema.into(), ..task(&[]) };
        let status = refused(&mut harness, request(wrong)).await;
        assert_eq!(fields(&status), BTreeSet::from(["task.output_schema_json".to_owned()]), "{schema}");
    }
}

#[tokio::test]
async fn a_policy_that_is_not_cedar() {
    let mut harness = Harness::start().await;
    let text = "permit (principal, action == Action::\"fly\", resource);\npermit (principal, action, resource) when { principal.nose };";
    let wrong = Task { alignment_policy: text.into(), ..task(&[]) };
    let status = refused(&mut harness, request(wrong)).await;
    let found = violations(&status);
    assert!(found.len() >= 2, "{found:?}");
    assert!(found.iter().all(|one| one.field == "task.alignment_policy"));
    assert!(found.iter().any(|one| one.description.starts_with("1:")), "{found:?}");
    assert!(found.iter().any(|one| one.description.starts_with("2:")), "{found:?}");
}

#[tokio::test]
async fn everything_at_once() {
    let mut harness = Harness::start().await;
    let call = Part { content: Some(Content::ToolCall(ToolCall::default())), ..Part::default() };
    let media = Part {
        content: Some(Content::Media(Media { media_type: "png".into(), source: None, size_bytes: 0 })),
        ..Part::default()
    };
    let wrong = Task {
        r#type: "Answer!".into(),
        input: vec![text(""), call, media, Part::default()],
        output_schema_json: "{".into(),
        tools: vec![ToolSelector { pattern: "docs".into() }, ToolSelector { pattern: "*".into() }],
        model: Some(ModelConstraints {
            routing_policy: "cheap".into(),
            models: vec!["gpt".into()],
            providers: vec![String::new()],
            min_trust_tier: 99,
            residency: vec!["a b".into()],
            temperature: "0.70".into(),
            max_output_tokens: -1,
        }),
        recipe: "answer-with-sources".into(),
        parameters: [("n".to_owned(), "x".repeat(17_000))].into(),
        alignment_policy: "permit".into(),
        labels: [("Team".to_owned(), "x".repeat(300))].into(),
        ..Task::default()
    };
    let mut wanted = request(wrong);
    wanted.purpose = "p".repeat(257);
    let dry = RenderPromptRequest { task: wanted.task.clone(), purpose: wanted.purpose.clone() };
    let halting = wanted.limits.as_mut().unwrap();
    halting.max_steps = Some(-1);
    halting.max_tool_calls = None;
    halting.max_depth = Some(9);
    halting.expire_after = None;
    halting.on_budget = 7;
    let status = refused(&mut harness, wanted).await;
    let found = fields(&status);
    for field in [
        "purpose",
        "limits.max_steps",
        "limits.max_tool_calls",
        "limits.max_depth",
        "limits.expire_after",
        "limits.on_budget",
        "task.type",
        "task.input[0].text",
        "task.input[1]",
        "task.input[2].media",
        "task.input[2].media.media_type",
        "task.input[3]",
        "task.output_schema_json",
        "task.tools[0].pattern",
        "task.model.routing_policy",
        "task.model.models[0]",
        "task.model.providers[0]",
        "task.model.min_trust_tier",
        "task.model.residency[0]",
        "task.model.temperature",
        "task.model.max_output_tokens",
        "task.recipe",
        "task.parameters[\"n\"]",
        "task.alignment_policy",
        "task.labels[\"Team\"]",
    ] {
        assert!(found.contains(field), "{field} is not in {found:?}");
    }
    assert!(harness.router.state().asked.is_empty() && harness.gateway.state().asked.is_empty(), "nobody was bothered");

    // A dry run tells as much, as far as it is asked.
    let told = harness.client.render_prompt(dry).await.unwrap_err();
    let of_limits = |one: &Violation| one.field.starts_with("limits.");
    let expected: Vec<_> = violations(&status).into_iter().filter(|one| !of_limits(one)).collect();
    assert_eq!(violations(&told), expected);

    let status = refused(&mut harness, GenerateAgentRequest::default()).await;
    let found = fields(&status);
    assert!(["task", "task.input", "limits"].iter().all(|field| found.contains(*field)), "{found:?}");
}

#[tokio::test]
async fn recipes_and_parameters_that_are_not_there() {
    let mut harness = Harness::start().await;
    let gone = Task { recipe: "recipes/gone".into(), ..task(&[]) };
    let status = refused(&mut harness, request(gone)).await;
    assert_eq!(Reason::of(&status), Some(ErrorReason::NotFound));
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "recipes/gone");
    let mut unknown = Task { parameters: [("colour".to_owned(), "red".to_owned())].into(), ..task(&[]) };
    let status = refused(&mut harness, request(unknown.clone())).await;
    assert_eq!(fields(&status), BTreeSet::from(["task.parameters[\"colour\"]".to_owned()]));
    // Beside whatever else is wrong; which recipe it would be cannot be said of every task.
    unknown.recipe = "recipes/answer-with-sources".into();
    unknown.tools = vec![ToolSelector { pattern: "z".into() }];
    let status = refused(&mut harness, request(unknown.clone())).await;
    let both = ["task.parameters[\"colour\"]", "task.tools[0].pattern"].map(str::to_owned);
    assert_eq!(fields(&status), BTreeSet::from(both));
    unknown.recipe = "answer-with-sources".into();
    let status = refused(&mut harness, request(unknown)).await;
    let both = ["task.recipe", "task.tools[0].pattern"].map(str::to_owned);
    assert_eq!(fields(&status), BTreeSet::from(both));
}

fn wanting(models: &[&str], task: Task) -> Task {
    let models = models.iter().map(|name| (*name).to_owned()).collect();
    Task { model: Some(ModelConstraints { models, ..ModelConstraints::default() }), ..task }
}

#[tokio::test]
async fn all_that_is_not_there_is_named_at_once() {
    let mut harness = Harness::start().await;
    let gone = |tools: &[&str]| Task { recipe: "recipes/gone".into(), ..task(tools) };
    let wanted = wanting(&["models/small", "models/nope"], gone(&["docs.search", "docs.gone", "nobody.*"]));
    let status = refused(&mut harness, request(wanted)).await;
    assert_eq!((status.code(), Reason::of(&status)), (Code::NotFound, Some(ErrorReason::NotFound)));
    let said = "recipes/gone, models/nope, tools/docs.gone, tools/nobody.* not found";
    assert_eq!(status.message(), said);
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "recipes/gone");
    let told = metadata(&status);
    assert_eq!((told["recipes"].as_str(), told["models"].as_str()), ("recipes/gone", "models/nope"));
    assert_eq!(told["tools"], "tools/docs.gone,tools/nobody.*");
    assert_eq!(told["missing"], "recipes/gone,models/nope,tools/docs.gone,tools/nobody.*");

    // One fault is told as ever, whatever else is wanted and there.
    let status = refused(&mut harness, request(wanting(&["models/small"], gone(&["docs.search"])))).await;
    assert_eq!(status.message(), "recipe recipes/gone not found");
    assert!(!metadata(&status).contains_key("missing"), "{status:?}");
    let status = refused(&mut harness, request(wanting(&["models/nope"], task(&["docs.gone"])))).await;
    assert_eq!(status.message(), "models/nope, tools/docs.gone not found");
    // A name that nobody has is a mistake, also beside one that somebody has.
    for models in [&["models/nope"][..], &["models/small", "models/nope"]] {
        let status = refused(&mut harness, request(wanting(models, task(&["docs.search"])))).await;
        assert_eq!(status.message(), "model models/nope not found");
        assert_eq!(status.get_details_resource_info().unwrap().resource_name, "models/nope");
    }
}

#[tokio::test]
async fn a_routing_policy_that_is_not_there() {
    let mut harness = Harness::start().await;
    harness.router.state().policies = vec!["routingPolicies/cheap"];
    let with = |policy: &str, task: Task| {
        let mut task = wanting(&["models/nope"], task);
        task.model.as_mut().unwrap().routing_policy = policy.into();
        request(task)
    };
    let status = refused(&mut harness, with("routingPolicies/gone", task(&[]))).await;
    assert_eq!(status.message(), "routingPolicies/gone, models/nope not found");
    let status = refused(&mut harness, with("routingPolicies/gone", task(&["docs.gone"]))).await;
    assert_eq!(status.message(), "routingPolicies/gone, models/nope, tools/docs.gone not found");
    assert_eq!(metadata(&status)["routingPolicies"], "routingPolicies/gone");
    let status = refused(&mut harness, with("routingPolicies/cheap", task(&["docs.gone"]))).await;
    assert_eq!(status.message(), "models/nope, tools/docs.gone not found");
    // Alone, it is what the router says of it.
    let mut alone = with("routingPolicies/gone", task(&[]));
    alone.task.as_mut().unwrap().model.as_mut().unwrap().models.clear();
    let status = refused(&mut harness, alone).await;
    assert_eq!(status.message(), "routing policy routingPolicies/gone not found");
}

#[tokio::test]
async fn what_is_missing_is_told_while_peers_are_down() {
    let mut harness = Harness::with(|setup| setup.peers_listen = false).await;
    let gone = Task { recipe: "recipes/gone".into(), ..wanting(&["models/nope"], task(&["docs.gone"])) };
    let status = refused(&mut harness, request(gone)).await;
    assert_eq!(Reason::of(&status), Some(ErrorReason::NotFound), "{status:?}");
    assert_eq!(status.message(), "recipe recipes/gone not found");
}

#[tokio::test]
async fn a_template_that_takes_too_much_work() {
    let mut harness = Harness::with(|setup| {
        let recipe = setup.folder.join("recipes/loops");
        std::fs::create_dir_all(&recipe).unwrap();
        let front = "name='loops'\nversion=1\nrole='loops'\n[parameters.n]\ndescription='n'\ndefault='1'\n[sampling]\nmax_output_tokens=64\n[budget]\nprompt_bytes=100\n";
        std::fs::write(recipe.join("recipe.toml"), front).unwrap();
        std::fs::write(recipe.join("system.jinja"), "You loop.").unwrap();
        let task = "{% for i in range(parameters.n|int) %}\n{% for j in range(parameters.n|int) %}{% endfor %}\n{% endfor %}{{ input }}";
        std::fs::write(recipe.join("task.jinja"), task).unwrap();
        setup.config.recipes = Some(setup.folder.join("recipes"));
    })
    .await;
    let looping = |n: &str| Task {
        recipe: "recipes/loops".into(),
        parameters: [("n".to_owned(), n.to_owned())].into(),
        ..task(&[])
    };
    harness.client.generate_agent(request(looping("3"))).await.unwrap();
    let status = refused(&mut harness, request(looping("9999"))).await;
    assert_eq!(fields(&status), BTreeSet::from(["task.recipe".to_owned()]));
    let told = &violations(&status)[0].description;
    assert!(told.starts_with("recipe loops, task.jinja line ") && told.contains("too much work"), "{told}");
}

#[tokio::test]
async fn peers_that_are_down() {
    let mut harness = Harness::with(|setup| setup.peers_listen = false).await;
    for (task, peer) in [(task(&[]), "router"), (task(&["*"]), "tool-gateway")] {
        let status = refused(&mut harness, request(task)).await;
        assert_eq!(
            (status.code(), Reason::of(&status)),
            (Code::Unavailable, Some(ErrorReason::PeerUnavailable)),
            "{status:?}"
        );
        assert!(retry_after(&status).is_some());
        assert_eq!(metadata(&status)["peer"], peer);
    }
    let rendered = RenderPromptRequest { task: Some(task(&["*"])), purpose: String::new() };
    harness.client.render_prompt(rendered).await.unwrap();
}

#[tokio::test]
async fn what_peers_say_is_passed_on_when_it_is_the_callers() {
    let mut harness = Harness::start().await;
    let fault = |code, reason| Some(Status::from(Fault::new(code, reason, "says the peer")));
    for (status, reason) in [
        (fault(Code::NotFound, ErrorReason::NotFound), ErrorReason::NotFound),
        (fault(Code::PermissionDenied, ErrorReason::RunTokenInvalid), ErrorReason::RunTokenInvalid),
        (fault(Code::Unavailable, ErrorReason::Draining), ErrorReason::PeerUnavailable),
        (fault(Code::Internal, ErrorReason::Internal), ErrorReason::PeerUnavailable),
        (Some(Status::unknown("a proxy")), ErrorReason::PeerUnavailable),
    ] {
        harness.router.state().fail = status;
        let status = refused(&mut harness, request(task(&[]))).await;
        assert_eq!(Reason::of(&status), Some(reason));
    }
}

#[tokio::test]
async fn huge_input() {
    let mut harness = Harness::start().await;
    let mut long = task(&[]);
    long.input = vec![text(&"x".repeat((4 << 20) + 1))];
    let status = refused(&mut harness, request(long.clone())).await;
    assert_eq!(fields(&status), BTreeSet::from(["task.input".to_owned()]));
    long.input = vec![text(&"x".repeat(10 << 20))];
    let status = refused(&mut harness, request(long)).await;
    assert_eq!((status.code(), Reason::of(&status)), (Code::ResourceExhausted, Some(ErrorReason::MessageTooLarge)));
    let many = Task { input: vec![text("x"); 101], ..task(&[]) };
    assert_eq!(fields(&refused(&mut harness, request(many)).await), BTreeSet::from(["task.input".to_owned()]));
}

#[tokio::test]
async fn the_store_is_down() {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start().unwrap()).await.unwrap();
    let database = postgres.database().unwrap();
    let mut harness = Harness::with(|setup| setup.config.store.url = database.to_string()).await;
    let name = harness.client.generate_agent(request(task(&[]))).await.unwrap().into_inner().name;
    postgres.stop();
    let generate = refused(&mut harness, request(task(&[]))).await;
    let get = harness.client.get_agent(GetAgentRequest { name: name.clone() }).await.unwrap_err();
    for status in [generate, get] {
        assert_eq!((status.code(), Reason::of(&status)), (Code::Unavailable, Some(ErrorReason::StoreUnavailable)));
        assert!(retry_after(&status).is_some_and(|delay| delay > Duration::ZERO));
        assert!(!format!("{status:?}").contains("127.0.0.1"), "says nothing of where the store is");
    }
    postgres.resume().unwrap();
    harness.client.get_agent(GetAgentRequest { name }).await.unwrap();
}
