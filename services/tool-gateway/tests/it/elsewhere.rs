//! Tools of the caller and of the runtime: decided on as any other, and made by others.

use mar_descriptor::{Descriptor, SealedTool};
use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::types::{Executor, Origin, Part, ToolDefinition, ToolResult, part};
use mar_tool_gateway::definition::{Declared, Definition, Described};
use serde_json::{Value, json};
use tonic::Request;

use crate::harness::{Agent, Bench, text};

fn definition(tool: &str, read_only: bool) -> ToolDefinition {
    let (upstream, tool) = tool.split_once('.').unwrap();
    let Value::Object(input_schema) = json!({
        "type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"],
    }) else {
        unreachable!()
    };
    let described =
        Described { tool: tool.into(), description: "Opens a file.".into(), input_schema, output_schema: None };
    Definition::try_new(upstream, described, Declared { read_only, ..Declared::default() }).unwrap().to_proto()
}

fn descriptor(tools: &[&ToolDefinition]) -> Descriptor {
    let mut descriptor = Descriptor::default();
    descriptor.agent.role = "tester".into();
    let sealed = |(at, tool): (usize, &&ToolDefinition)| SealedTool {
        name: tool.name.strip_prefix("tools/").unwrap().to_owned(),
        alias: format!("t{at}"),
        definition_hash: tool.definition_hash.parse().unwrap(),
        idempotent: tool.idempotent,
        read_only: tool.read_only,
        doubt: None,
    };
    descriptor.agent.tools = tools.iter().enumerate().map(sealed).collect();
    descriptor
}

fn tool_text(words: impl Into<String>) -> Part {
    Part { content: Some(part::Content::Text(words.into())), origin: Origin::Tool.into(), tainted: false }
}

fn request(agent: &Agent<'_>, tool: &ToolDefinition, arguments: &Value) -> Request<pb::InvokeToolRequest> {
    let mut request = agent.request(tool.name.strip_prefix("tools/").unwrap(), arguments);
    request.get_mut().definition = Some(tool.clone());
    request
}

async fn outcome(agent: &Agent<'_>, request: Request<pb::InvokeToolRequest>) -> (Outcome, Value) {
    let response = agent.send(request).await.unwrap();
    (response.outcome.unwrap(), serde_json::from_str(&response.decision_json).unwrap())
}

async fn denied(agent: &Agent<'_>, request: Request<pb::InvokeToolRequest>) -> String {
    match outcome(agent, request).await {
        (Outcome::Denied(denied), record) => {
            assert_eq!(record["verdict"], "deny");
            denied.reason
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_is_decided_on_and_handed_over() {
    let bench = Bench::start(|_| Vec::new()).await;
    for (name, executor) in [("caller.open", Executor::Caller), ("runtime.delegate", Executor::Runtime)] {
        let tool = definition(name, true);
        let agent = bench.agent_of(descriptor(&[&tool]), None);
        let (told, record) = outcome(&agent, request(&agent, &tool, &json!({"file": "a.rs"}))).await;
        assert_eq!(told, Outcome::HandedOver(pb::HandedOver { executor: executor.into() }));
        assert_eq!(record["verdict"], "allow");
        assert_eq!(record["definition_hash"], tool.definition_hash);
        assert!(record["arguments_digest"].is_string() && record["decision"].is_object(), "{record}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn only_the_sealed_definition_counts() {
    let bench = Bench::start(|_| Vec::new()).await;
    let tool = definition("caller.open", true);
    let agent = bench.agent_of(descriptor(&[&tool]), None);
    let open = json!({"file": "a.rs"});
    let with = |definition: Option<ToolDefinition>| {
        let mut request = agent.request("caller.open", &open);
        request.get_mut().definition = definition;
        request
    };
    let others = [
        None,
        Some(ToolDefinition { description: "Deletes a file.".into(), ..tool.clone() }),
        Some(ToolDefinition { input_schema_json: "{}".into(), ..tool.clone() }),
        Some(ToolDefinition { input_schema_json: "no JSON".into(), ..tool.clone() }),
        Some(ToolDefinition { output_schema_json: "{}".into(), ..tool.clone() }),
    ];
    for other in others {
        assert_eq!(denied(&agent, with(other)).await, "TOOL_DEFINITION_CHANGED");
    }
    // What it says of itself beside the pinned text does not count.
    let boast = ToolDefinition { definition_hash: "sha256:00".into(), executor: 2, ..tool.clone() };
    let (told, _) = outcome(&agent, with(Some(boast))).await;
    assert_eq!(told, Outcome::HandedOver(pb::HandedOver { executor: Executor::Caller.into() }));

    let stranger = definition("caller.shut", true);
    assert_eq!(denied(&agent, request(&agent, &stranger, &open)).await, "TOOL_NOT_SEALED");
    assert_eq!(denied(&agent, request(&agent, &tool, &json!({"file": 1}))).await, "ARGUMENTS_INVALID");
    bench.stop().await;
}

#[tokio::test]
async fn policies_bind_what_others_make() {
    let bench = Bench::start(|_| Vec::new()).await;
    let tool = definition("caller.open", false);
    let open = json!({"file": "a.rs"});

    let forbid = "permit (principal, action, resource); \
                  forbid (principal, action == Action::\"callTool\", resource) when { resource.upstream == \"caller\" };";
    let agent = bench.agent_of(descriptor(&[&tool]), Some(forbid));
    assert_eq!(denied(&agent, request(&agent, &tool, &open)).await, "POLICY_DENIED");

    let ask =
        "@id(\"ask\") @verdict(\"require_approval\") permit (principal, action == Action::\"callTool\", resource);";
    let agent = bench.agent_of(descriptor(&[&tool]), Some(ask));
    let (told, _) = outcome(&agent, request(&agent, &tool, &open)).await;
    let Outcome::ApprovalRequired(asked) = told else { panic!("{told:?}") };
    let mut approved = request(&agent, &tool, &open);
    approved.get_mut().approval =
        Some(pb::ApprovalGiven { call_digest: asked.call_digest, approvers: vec!["user:bob".into()] });
    let (told, record) = outcome(&agent, approved).await;
    assert!(matches!(told, Outcome::HandedOver(_)), "{told:?}");
    assert_eq!(record["approval"]["approvers"], json!(["user:bob"]));
    bench.stop().await;
}

/// What a call that others make has brought, as the agent may receive it.
async fn received(agent: &Agent<'_>, tool: &ToolDefinition, parts: &[Part]) -> (ToolResult, Value) {
    let result = ToolResult { content: parts.to_vec(), ..ToolResult::default() };
    let response = agent.bench.client.clone().receive_result(agent.brought(tool, result)).await.unwrap().into_inner();
    let Some(pb::receive_result_response::Outcome::Result(result)) = response.outcome else { panic!("{response:?}") };
    (result, serde_json::from_str(&response.decision_json).unwrap())
}

#[tokio::test]
async fn policies_decide_on_what_others_bring() {
    let bench = Bench::start(|_| Vec::new()).await;
    let (open, delegate) = (definition("caller.open", true), definition("runtime.delegate", true));
    let parts = [false, true].map(|tainted| Part { tainted, ..tool_text("hunter2") });
    let agent = bench.agent_of(descriptor(&[&open, &delegate]), None);
    for (tool, tainted) in [(&open, [true, true]), (&delegate, [false, true])] {
        let (told, record) = received(&agent, tool, &parts).await;
        let marks: Vec<bool> = told.content.iter().map(|part| part.tainted).collect();
        assert_eq!(marks, tainted, "child runs know what they have read, callers do not: {told:?}");
        assert_eq!((&record["verdict"], &record["result_decision"]["verdict"]), (&json!("allow"), &json!("allow")));
        assert_eq!(record["definition_hash"], tool.definition_hash);
    }
    // Session bounds what children say together, and what it has bounded is whole.
    let long = tool_text("x".repeat(80 << 10));
    assert!(!received(&agent, &delegate, std::slice::from_ref(&long)).await.0.truncated);
    assert!(received(&agent, &open, &[long]).await.0.truncated);

    let forbid = "permit (principal, action, resource); @message(\"Not for this agent.\") \
                  forbid (principal, action == Action::\"receiveResult\", resource) when { resource.upstream == \"runtime\" };";
    let agent = bench.agent_of(descriptor(&[&open, &delegate]), Some(forbid));
    let (told, record) = received(&agent, &delegate, &parts).await;
    assert!(told.is_error && told.content.len() == 1 && !told.content[0].tainted, "{told:?}");
    assert!(text(&told.content).starts_with("POLICY_DENIED: Not for this agent."), "{told:?}");
    assert_eq!(record["result_decision"]["verdict"], "deny");
    assert!(!received(&agent, &open, &parts).await.0.is_error);

    // Also where the result is recorded in another run's log.
    let mut replay = request(&agent, &delegate, &json!({"file": "a.rs"}));
    let result = ToolResult { content: parts.to_vec(), ..ToolResult::default() };
    replay.get_mut().decide_only = true;
    replay.get_mut().recorded = Some(pb::RecordedResult { result: Some(result), size_bytes: 14 });
    assert_eq!(denied(&agent, replay).await, "POLICY_DENIED");
    bench.stop().await;
}

#[test]
fn no_upstream_has_their_names() {
    use mar_runtime::config::Validate as _;
    use mar_tool_gateway::config::Kind;
    use mar_tool_gateway::{Config, UpstreamConfig};
    for name in ["caller", "runtime", "callers"] {
        let search = UpstreamConfig { folder: Some("/tmp".into()), ..UpstreamConfig::new(Kind::Search) };
        let config = Config { upstreams: [(name.to_owned(), search)].into(), ..Config::default() };
        let mut found = mar_runtime::violations::Violations::new();
        config.validate(&mut found);
        assert_eq!(found.iter().count(), usize::from(name != "callers"), "{name}");
    }
}
