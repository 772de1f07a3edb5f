//! Decisions on calls whose result is there already: nothing is sent, and nobody but the descriptor and the policies is asked.

use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::types::{Executor, Origin, Part, ToolDefinition, ToolResult, part};
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::harness::{Agent, Bench, journal, stdio};

async fn bench() -> Bench {
    let bench = Bench::start(|folder| vec![("s", stdio(folder))]).await;
    bench.up(&["s"]).await;
    bench
}

async fn definition(bench: &Bench, tool: &str) -> ToolDefinition {
    let listed = bench.list().await.tools;
    listed.into_iter().find(|listed| listed.name == format!("tools/{tool}")).unwrap().definition.unwrap()
}

fn decide(agent: &Agent<'_>, definition: &ToolDefinition, arguments: &Value) -> Request<pb::InvokeToolRequest> {
    let mut request = agent.request(definition.name.strip_prefix("tools/").unwrap(), arguments);
    (request.get_mut().decide_only, request.get_mut().definition) = (true, Some(definition.clone()));
    request
}

async fn outcome(agent: &Agent<'_>, request: Request<pb::InvokeToolRequest>) -> (Outcome, Value) {
    let response = agent.send(request).await.unwrap();
    (response.outcome.unwrap(), serde_json::from_str(&response.decision_json).unwrap())
}

async fn denied(agent: &Agent<'_>, request: Request<pb::InvokeToolRequest>) -> String {
    match outcome(agent, request).await {
        (Outcome::Denied(denied), _) => denied.reason,
        other => panic!("{other:?}"),
    }
}

const TO_NOBODY: Outcome = Outcome::HandedOver(pb::HandedOver { executor: Executor::Unspecified as i32 });

#[tokio::test]
async fn a_call_is_decided_on_as_if_it_were_made_and_is_not() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let count = definition(&bench, "s.count").await;
    let (told, decided) = outcome(&agent, decide(&agent, &count, &json!({}))).await;
    assert_eq!(told, TO_NOBODY);
    assert!(journal(bench.folder.path()).iter().all(|line| !line.starts_with("count ")), "it was sent");
    let made = agent.send(agent.request("s.count", &json!({}))).await.unwrap();
    let made: Value = serde_json::from_str(&made.decision_json).unwrap();
    for part in ["verdict", "decision", "definition_hash", "arguments_digest", "sealed_definition_hash"] {
        assert_eq!(decided.get(part), made.get(part), "{part}: {decided} {made}");
    }
    assert_eq!(journal(bench.folder.path()).iter().filter(|line| line.starts_with("count ")).count(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn an_upstream_that_hangs_or_is_unknown_is_not_asked() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let count = definition(&bench, "s.count").await;
    let elsewhere = Bench::start(|_| Vec::new()).await;
    let stranger = elsewhere.agent_of(bench.everything().await, None);
    assert_eq!(outcome(&stranger, decide(&stranger, &count, &json!({}))).await.0, TO_NOBODY, "nobody has the upstream");
    elsewhere.stop().await;
    // One that is there is asked for nothing, not even what it offers.
    let before = journal(bench.folder.path());
    assert_eq!(outcome(&agent, decide(&agent, &count, &json!({}))).await.0, TO_NOBODY);
    assert_eq!(journal(bench.folder.path()), before);
    bench.stop().await;
}

#[tokio::test]
async fn what_would_be_refused_is_refused() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let count = definition(&bench, "s.count").await;
    let mut missing = decide(&agent, &count, &json!({}));
    missing.get_mut().definition = None;
    let missing = denied(&agent, missing).await;
    let changed = ToolDefinition { description: "It does something else.".into(), ..count.clone() };
    let changed = denied(&agent, decide(&agent, &changed, &json!({}))).await;
    assert_eq!((missing.as_str(), changed.as_str()), ("TOOL_DEFINITION_CHANGED", "TOOL_DEFINITION_CHANGED"));
    assert_eq!(denied(&agent, decide(&agent, &count, &json!([1, 2]))).await, "ARGUMENTS_INVALID");

    let mut without = bench.everything().await;
    without.agent.tools.retain(|tool| tool.name != "s.count");
    let without = bench.agent_of(without, None);
    assert_eq!(denied(&without, decide(&without, &count, &json!({}))).await, "TOOL_NOT_SEALED");

    let forbids = r#"permit (principal, action, resource);
        forbid (principal, action == Action::"callTool", resource) when { resource.name == "s.count" };"#;
    let forbidden = bench.agent(Some(forbids)).await;
    assert_eq!(denied(&forbidden, decide(&forbidden, &count, &json!({}))).await, "POLICY_DENIED");

    let asks = r#"@id("ask") @verdict("require_approval") @approvers("office") @expires("1h") @message("Look first.")
        permit (principal, action == Action::"callTool", resource);
        @id("rest") permit (principal, action, resource) unless { action == Action::"callTool" };"#;
    let careful = bench.agent(Some(asks)).await;
    let (told, _) = outcome(&careful, decide(&careful, &count, &json!({}))).await;
    assert!(matches!(told, Outcome::ApprovalRequired(_)), "{told:?}");
    assert!(journal(bench.folder.path()).iter().all(|line| !line.starts_with("count ")), "something was sent");
    bench.stop().await;
}

/// The request that has a recorded result decided on.
fn replay(
    agent: &Agent<'_>,
    definition: &ToolDefinition,
    result: &ToolResult,
    size_bytes: i64,
) -> Request<pb::InvokeToolRequest> {
    let mut request = decide(agent, definition, &json!({"text": "hunter2"}));
    request.get_mut().recorded = Some(pb::RecordedResult { result: Some(result.clone()), size_bytes });
    request
}

/// A result as the log of a run has it.
fn recorded(mut result: ToolResult) -> ToolResult {
    result.content.iter_mut().for_each(|part| part.set_origin(Origin::Tool));
    result
}

async fn told(agent: &Agent<'_>, request: Request<pb::InvokeToolRequest>) -> (ToolResult, Value) {
    match outcome(agent, request).await {
        (Outcome::Result(result), record) => (result, record),
        other => panic!("{other:?}"),
    }
}

fn withholding(condition: &str) -> String {
    format!(
        "permit (principal, action, resource);\n@id(\"no\") @message(\"Not for this agent.\")\n\
         forbid (principal, action == Action::\"receiveResult\", resource) when {{ {condition} }};"
    )
}

#[tokio::test]
async fn a_recorded_result_comes_out_as_it_went_in_or_not_at_all() {
    let bench = bench().await;
    let open = bench.agent(None).await;
    let echo = definition(&bench, "s.echo").await;
    let Some(Outcome::Result(made)) = open.call("s.echo", &json!({"text": "hunter2"})).await.outcome else { panic!() };
    let was = recorded(made);
    let (same, record) = told(&open, replay(&open, &echo, &was, 7)).await;
    assert_eq!((&same.content, same.is_error, same.truncated), (&was.content, false, false));
    assert_eq!(record["result_decision"]["facts"]["question"]["result"]["bytes"], 7);

    // What policies read is the size from before it was cut.
    let strict = bench.agent(Some(&withholding("context.result_bytes > 7"))).await;
    assert_eq!(told(&strict, replay(&strict, &echo, &was, 7)).await.0.content, was.content);
    match outcome(&strict, replay(&strict, &echo, &was, 8)).await {
        (Outcome::Denied(denied), record) => {
            assert!(
                denied.reason == "POLICY_DENIED" && denied.message.starts_with("Not for this agent."),
                "{denied:?}"
            );
            assert!(!format!("{denied:?}{record}").contains("hunter2"), "nothing of the content is anywhere");
            assert_eq!((&record["verdict"], &record["decision"]["verdict"]), (&json!("deny"), &json!("allow")));
            assert_eq!(record["result_decision"]["verdict"], "deny");
        }
        other => panic!("{other:?}"),
    }

    // What the same policy has withheld already is told the same way.
    let shut = bench.agent(Some(&withholding("true"))).await;
    let Some(Outcome::Result(made)) = shut.call("s.echo", &json!({"text": "hunter2"})).await.outcome else { panic!() };
    let was = recorded(made);
    assert_eq!(told(&shut, replay(&shut, &echo, &was, 7)).await.0.content, was.content);
    bench.stop().await;
}

#[tokio::test]
async fn a_recorded_result_needs_no_approval_and_a_decision() {
    let bench = bench().await;
    let echo = definition(&bench, "s.echo").await;
    let was =
        ToolResult { content: vec![Part { origin: Origin::Tool.into(), ..words("hunter2") }], ..Default::default() };
    let asks = r#"@id("ask") @verdict("require_approval") @approvers("office") @expires("1h") @message("Look first.")
        permit (principal, action == Action::"callTool", resource);
        @id("rest") permit (principal, action, resource) unless { action == Action::"callTool" };"#;
    let careful = bench.agent(Some(asks)).await;
    let (told, record) = told(&careful, replay(&careful, &echo, &was, 7)).await;
    // Its upstream is trusted by nobody.
    assert!(told.content.len() == 1 && told.content[0].tainted, "{told:?}");
    assert_eq!(
        (&record["verdict"], &record["result_decision"]["verdict"]),
        (&json!("require_approval"), &json!("allow"))
    );

    let mut alone = replay(&careful, &echo, &ToolResult { content: vec![Part::default()], ..was }, -1);
    alone.get_mut().decide_only = false;
    let status = careful.send(alone).await.unwrap_err();
    let fields: Vec<_> = mar_runtime::status::violations(&status).into_iter().map(|one| one.field).collect();
    assert_eq!(fields, ["recorded", "recorded.size_bytes", "recorded.result.content[0]"]);
    bench.stop().await;
}

fn words(text: &str) -> Part {
    Part { content: Some(part::Content::Text(text.to_owned())), ..Part::default() }
}

#[tokio::test]
async fn a_question_is_not_a_decision() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let count = definition(&bench, "s.count").await;
    let mut both = decide(&agent, &count, &json!({}));
    both.get_mut().probe = true;
    let status = agent.send(both).await.unwrap_err();
    let fields: Vec<_> = mar_runtime::status::violations(&status).into_iter().map(|one| one.field).collect();
    assert_eq!((status.code(), fields), (Code::InvalidArgument, vec!["decide_only".to_owned()]));
    bench.stop().await;
}
