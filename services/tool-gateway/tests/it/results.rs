//! Whether an agent may receive what a tool answered.

use mar_descriptor::PolicyLayer;
use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::types::{Origin, ToolResult};
use serde_json::{Value, json};

use crate::harness::{Agent, Bench, journal, search, stdio, text};

const OPEN: &str = "permit (principal, action, resource);";

async fn bench() -> Bench {
    let bench = Bench::start(|folder| {
        std::fs::write(folder.join("kept.md"), "# Kept\n\nLogs are kept for nine days.").unwrap();
        vec![("s", stdio(folder)), ("docs", search(folder))]
    })
    .await;
    bench.up(&["s", "docs"]).await;
    bench
}

fn forbidding(condition: &str) -> String {
    format!(
        "{OPEN} @id(\"withhold\") @message(\"Not for this agent.\")\n\
         forbid (principal, action == Action::\"receiveResult\", resource) when {{ {condition} }};"
    )
}

async fn result(agent: &Agent<'_>, tool: &str, arguments: &Value) -> (ToolResult, Value, pb::InvokeToolResponse) {
    let response = agent.call(tool, arguments).await;
    let Some(Outcome::Result(result)) = response.outcome.clone() else { panic!("{response:?}") };
    (result, serde_json::from_str(&response.decision_json).unwrap(), response)
}

#[tokio::test]
async fn a_denied_result_is_withheld_and_the_call_was_made() {
    let bench = bench().await;
    let rule = forbidding("resource.upstream == \"s\" && context.result_bytes > 5 && !context.result_is_error");
    let agent = bench.agent(Some(&rule)).await;
    let (told, record, response) = result(&agent, "s.echo", &json!({"text": "hunter2 is the word"})).await;
    assert!(told.is_error && told.content.len() == 1 && !told.content[0].tainted);
    assert_eq!(told.content[0].origin(), Origin::Platform);
    assert!(text(&told.content).starts_with("POLICY_DENIED: Not for this agent."), "{told:?}");
    assert!(!format!("{response:?}").contains("hunter2"), "nothing of the content is anywhere");
    assert!(journal(bench.folder.path()).iter().any(|line| line.starts_with("echo")), "the call was made");
    assert_eq!((&record["verdict"], &record["decision"]["verdict"]), (&json!("allow"), &json!("allow")));
    let decided = &record["result_decision"];
    assert_eq!((&decided["verdict"], &decided["point"]), (&json!("deny"), &json!("receiveResult")));
    assert_eq!(decided["determining"][0]["rule"], "withhold");
    assert_eq!(decided["facts"]["question"]["result"]["bytes"], 19);
    assert_eq!(response.size_bytes, 19);

    // What the rule does not speak of comes through, and its decision is recorded as well.
    let (told, record, _) = result(&agent, "s.echo", &json!({"text": "short"})).await;
    assert_eq!((text(&told.content).as_str(), told.is_error), ("short", false));
    assert_eq!(record["result_decision"]["verdict"], "allow");
    let (told, _, _) = result(&agent, "s.fail", &json!({})).await;
    assert_eq!(text(&told.content), "it did not work");
    bench.stop().await;
}

#[tokio::test]
async fn passages_of_a_withheld_result_cannot_be_cited() {
    let bench = bench().await;
    let open = bench.agent(None).await;
    let (told, _, _) = result(&open, "docs.search", &json!({"query": "logs kept"})).await;
    assert!(!told.passages.is_empty());
    let shut = bench.agent(Some(&forbidding("resource.name == \"docs.search\""))).await;
    let (told, _, _) = result(&shut, "docs.search", &json!({"query": "logs kept"})).await;
    assert!(told.passages.is_empty() && told.is_error, "{told:?}");
    bench.stop().await;
}

#[tokio::test]
async fn what_is_conspicuous_is_a_fact() {
    let bench = bench().await;
    let agent = bench.agent(Some(&forbidding("context.findings.contains(\"invisible_characters\")"))).await;
    let (told, record, _) = result(&agent, "s.echo", &json!({"text": "a\u{E0041}b"})).await;
    assert!(told.is_error, "{told:?}");
    let facts = &record["result_decision"]["facts"]["question"]["result"];
    assert_eq!(facts["findings"], json!(["invisible_characters"]));
    assert_eq!(agent.text("s.echo", &json!({"text": "a b"})).await, "a b");
    bench.stop().await;
}

#[tokio::test]
async fn a_layer_that_permits_no_result_withholds_all() {
    let bench = bench().await;
    let agent = bench.agent(Some("permit (principal, action == Action::\"callTool\", resource);")).await;
    let (told, record, _) = result(&agent, "s.echo", &json!({"text": "x"})).await;
    assert!(told.is_error && text(&told.content).starts_with("POLICY_DENIED"), "{told:?}");
    assert_eq!(record["result_decision"]["unpermitted"][0]["policy"], "own");
    bench.stop().await;
}

#[tokio::test]
async fn the_current_platform_binds_results_too() {
    let current = forbidding("true && context.result_bytes > 0");
    let bench = Bench::under(Some(&current), |folder| vec![("s", stdio(folder))]).await;
    bench.up(&["s"]).await;
    let layers = vec![PolicyLayer::new("platform", "sealed", 1, OPEN)];
    let agent = bench.agent_under(bench.everything().await, layers);
    let (told, record, _) = result(&agent, "s.echo", &json!({"text": "x"})).await;
    assert!(told.is_error, "{told:?}");
    assert_eq!(record["result_decision"]["determining"][0]["policy"], "platform");
    bench.stop().await;
}

#[tokio::test]
async fn a_platform_rule_that_nobody_would_ask_keeps_the_gateway_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("platform.cedar");
    std::fs::write(&path, format!("{OPEN}\nforbid (principal, action == Action::\"giveAnswer\", resource);")).unwrap();
    let config = mar_tool_gateway::Config { platform_policy: Some(path), ..mar_tool_gateway::Config::default() };
    let found = mar_tool_gateway::Gateway::try_new(config, mar_tool_gateway::Deps::default()).unwrap_err();
    let lines: Vec<String> = found.iter().map(|one| format!("{}: {}", one.field, one.description)).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("platform_policy: platform:2:"), "{lines:?}");
    assert!(lines[0].contains("giveAnswer, which no service decides yet"), "{lines:?}");
}
