//! Decisions on calls whose result is there already: nothing is sent, and nobody but the descriptor and the policies is asked.

use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::types::{Executor, ToolDefinition};
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
