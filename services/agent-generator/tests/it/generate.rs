//! Agents that come about.

use mar_proto::agent::GetAgentRequest;
use mar_proto::agent::agent_generator_service_client::AgentGeneratorServiceClient;
use mar_proto::session::{CallerTool, ModelConstraints, Task};
use mar_proto::types::{Executor, Media, Origin, Part, Role, TrustTier, media::Source, part::Content};
use mar_runtime::peer::Peer;

use crate::harness::{Harness, limits, request, task, text, verified};

#[tokio::test]
async fn an_agent_with_search() {
    let mut harness = Harness::start().await;
    let answer = harness.client.generate_agent(request(task(&["docs.search", "docs.*"]))).await.unwrap().into_inner();
    let agent = answer.agent.unwrap();
    let sealed = agent.descriptor.unwrap();
    let verified = verified(&sealed);
    let descriptor = verified.descriptor();
    assert_eq!(format!("sha256:{}", answer.name.strip_prefix("agents/").unwrap()), sealed.hash);

    let tools: Vec<_> = agent.tools.iter().map(|tool| (tool.name.as_str(), tool.alias.as_str())).collect();
    assert_eq!(tools, [("tools/docs.list", "docs_list"), ("tools/docs.search", "docs_search")]);
    assert_eq!(descriptor.agent.tools.len(), 2);
    assert_eq!(
        descriptor.agent.tool_by_alias("docs_search").unwrap().definition_hash.to_string(),
        agent.tools[1].definition_hash
    );
    let role = &descriptor.model.roles["reason"];
    assert_eq!(role.admitted.len(), 2);
    assert_eq!(agent.price.unwrap().output_per_million, 10);
    assert_eq!(descriptor.policy.alignment_policy.len(), 1);
    assert_eq!(descriptor.halting.max_steps, 16);
    assert_eq!(descriptor.metadata.purpose, "support");

    let roles: Vec<_> = agent.prompt.iter().map(mar_proto::types::Message::role).collect();
    assert_eq!((roles[0], *roles.last().unwrap(), roles.len()), (Role::System, Role::User, 14));
    let Some(Content::Text(system)) = &agent.prompt[0].parts[0].content else { panic!("no system text") };
    assert_eq!(system, &descriptor.prompt.system);
    assert!(system.contains("docs_search"));
    assert_eq!(agent.prompt[13].parts[0].origin(), Origin::Caller);
    assert!(descriptor.prompt.output_schema.as_ref().unwrap().contains("passage_id"));

    let stored = harness.client.get_agent(GetAgentRequest { name: answer.name }).await.unwrap().into_inner();
    assert_eq!(stored.descriptor.unwrap(), sealed);
    assert!(stored.create_time.unwrap().seconds > 0);
}

#[tokio::test]
async fn an_agent_with_tools_of_its_caller() {
    let mut harness = Harness::start().await;
    let mut asked = task(&["docs.search"]);
    asked.may_ask = true;
    asked.caller_tools = vec![CallerTool {
        name: "open".into(),
        description: "Opens a file.".into(),
        idempotent: true,
        ..CallerTool::default()
    }];
    let agent = harness.client.generate_agent(request(asked.clone())).await.unwrap().into_inner().agent.unwrap();
    let tools: Vec<_> =
        agent.tools.iter().map(|tool| (tool.name.as_str(), tool.alias.as_str(), tool.executor())).collect();
    assert_eq!(
        tools,
        [
            ("tools/caller.ask", "caller_ask", Executor::Caller),
            ("tools/caller.open", "caller_open", Executor::Caller),
            ("tools/docs.search", "docs_search", Executor::Unspecified),
        ]
    );
    let sealed = agent.descriptor.unwrap();
    let verified = verified(&sealed);
    let open = verified.descriptor().agent.tool("caller.open").unwrap();
    assert_eq!(open.definition_hash.to_string(), agent.tools[1].definition_hash);
    assert!(open.idempotent && !open.read_only);

    // What the caller says of a tool is part of the agent.
    asked.caller_tools[0].description = "Shuts a file.".into();
    let other = harness.client.generate_agent(request(asked.clone())).await.unwrap().into_inner().agent.unwrap();
    assert_ne!(other.descriptor.unwrap().hash, sealed.hash);

    asked.alignment_policy = "permit (principal, action, resource); @id(\"no\") \
        forbid (principal, action == Action::\"listTool\", resource) when { resource.name == \"caller.open\" };"
        .into();
    let refused = harness.client.generate_agent(request(asked)).await.unwrap_err();
    assert!(refused.message().contains("tools/caller.open"), "{refused:?}");
}

#[tokio::test]
async fn the_peers_are_asked_for_what_the_task_implies() {
    let mut harness = Harness::start().await;
    let mut asked = task(&["docs.search"]);
    asked.model = Some(ModelConstraints {
        routing_policy: "routingPolicies/cheap".into(),
        models: vec!["models/small".into(), "models/large".into(), "models/small".into()],
        providers: vec!["local".into()],
        min_trust_tier: TrustTier::Aligned.into(),
        residency: vec!["us".into(), "eu".into()],
        temperature: "0.7".into(),
        max_output_tokens: 2_000,
    });
    let image =
        Media { media_type: "image/png".into(), source: Some(Source::Inline(vec![1, 2, 3].into())), size_bytes: 0 };
    asked.input.push(Part { content: Some(Content::Media(image)), ..Part::default() });
    let mut wanted = request(asked);
    wanted.limits.as_mut().unwrap().max_cost_nano_usd = Some(0);
    harness.client.generate_agent(wanted).await.unwrap();

    let router = harness.router.state();
    let select = &router.asked[0].message;
    assert_eq!((select.routing_policy.as_str(), select.task_type.as_str()), ("routingPolicies/cheap", "answer"));
    let requirement = select.requirement.as_ref().unwrap();
    assert!(
        requirement.tools && requirement.structured_output && requirement.streaming && !requirement.allow_rehearsal
    );
    assert_eq!(requirement.models, ["models/large", "models/small"]);
    assert_eq!(
        (&requirement.residency[..], &requirement.providers[..]),
        (&["eu".to_owned(), "us".to_owned()][..], &["local".to_owned()][..])
    );
    assert_eq!(requirement.input_modalities, ["image"]);
    assert_eq!(requirement.min_trust_tier(), TrustTier::Aligned);
    assert_eq!((requirement.output_tokens, requirement.max_cost_nano_usd), (2_000, Some(0)));
    assert!(router.asked[0].has_deadline);

    let gateway = harness.gateway.state();
    assert_eq!(gateway.asked.len(), 2, "every page is read");
    assert_eq!(gateway.asked[0].message.patterns, ["docs.search"]);
}

#[tokio::test]
async fn no_tools_no_recipe_no_policy_still_runs() {
    let mut harness = Harness::start().await;
    let plain = Task { r#type: "chat".into(), input: vec![text("Hello")], ..Task::default() };
    let agent = harness.client.generate_agent(request(plain)).await.unwrap().into_inner().agent.unwrap();
    let verified = verified(agent.descriptor.as_ref().unwrap());
    let descriptor = verified.descriptor();
    assert_eq!((&descriptor.prompt.recipe, &descriptor.prompt.output_schema), (&None, &None));
    assert!(descriptor.agent.tools.is_empty() && descriptor.prompt.examples.is_empty());
    assert_eq!(descriptor.policy.alignment_policy[0].layer, "platform");
    assert_eq!(agent.prompt.len(), 2);
    assert!(harness.gateway.state().asked.is_empty(), "nobody is asked for tools");
    let router = harness.router.state();
    let requirement = router.asked[0].message.requirement.as_ref().unwrap();
    assert!(!requirement.tools && !requirement.structured_output);
}

#[tokio::test]
async fn the_tasks_policy_is_sealed_beside_the_platforms() {
    let mut harness = Harness::start().await;
    let mut narrow = task(&["docs.*"]);
    narrow.alignment_policy = r#"
        permit (principal, action, resource);
        forbid (principal, action == Action::"listTool", resource) when { resource.name == "docs.list" };
    "#
    .into();
    let agent = harness.client.generate_agent(request(narrow.clone())).await.unwrap().into_inner().agent.unwrap();
    let verified = verified(agent.descriptor.as_ref().unwrap());
    let layers = &verified.descriptor().policy.alignment_policy;
    assert_eq!(layers.iter().map(|layer| layer.layer.as_str()).collect::<Vec<_>>(), ["platform", "task"]);
    assert_eq!(layers[1].text, narrow.alignment_policy);
    let tools: Vec<_> = agent.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(tools, ["tools/docs.search"], "what a wildcard picks is left out when policy denies it");
}

#[tokio::test]
async fn over_tcp_and_in_process_alike() {
    let mut harness = Harness::start().await;
    let tcp = harness.client.generate_agent(request(task(&["docs.search"]))).await.unwrap().into_inner();
    let mut local = AgentGeneratorServiceClient::new(Peer::local(harness.server.routed()));
    let here = local.generate_agent(request(task(&["docs.search"]))).await.unwrap().into_inner();
    assert_eq!(tcp, here);
}

#[tokio::test]
async fn four_mebibytes_of_input_are_taken() {
    let mut harness = Harness::start().await;
    let mut long = task(&[]);
    long.input = vec![text(&"x".repeat(4 << 20))];
    let agent = harness.client.generate_agent(request(long)).await.unwrap().into_inner().agent.unwrap();
    assert!(agent.descriptor.unwrap().canonical.len() < 32 * 1024);
    assert_eq!(limits().max_steps, Some(16));
}
