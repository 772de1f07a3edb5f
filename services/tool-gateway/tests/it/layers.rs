//! A call is decided under the sealed policies and under the platform's current one: both must allow.

use mar_alignment::{Layer, PolicyText};
use mar_descriptor::PolicyLayer;
use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use serde_json::{Value, json};

use crate::harness::{Bench, journal, stdio};

const OPEN: &str = "@id(\"open\") permit (principal, action, resource);";
const NO_ECHO: &str = "@id(\"open\") permit (principal, action, resource);\n\
    @id(\"no-echo\") forbid (principal, action == Action::\"callTool\", resource == Tool::\"s.echo\");";

/// What becomes of `s.echo` for an agent sealed under one platform policy at a gateway under another.
async fn called(sealed: &str, current: &str) -> pb::InvokeToolResponse {
    let bench = Bench::under(Some(current), |folder| vec![("s", stdio(folder))]).await;
    bench.up(&["s"]).await;
    let layers = vec![PolicyLayer::new("platform", "sealed", 4, sealed)];
    let agent = bench.agent_under(bench.everything().await, layers);
    let response = agent.call("s.echo", &json!({"text": "x"})).await;
    let called = journal(bench.folder.path()).iter().any(|line| line.starts_with("echo"));
    assert_eq!(called, matches!(response.outcome, Some(Outcome::Result(_))), "a denied call is not made");
    bench.stop().await;
    response
}

fn hash(name: &str, version: i64, text: &str) -> String {
    PolicyText { layer: Layer::Platform, name: name.into(), version, text: text.into() }.hash()
}

/// That both policies are in the record, each in its place.
fn both_are_recorded(response: &pb::InvokeToolResponse, sealed: &str, current: &str) -> Value {
    let (sealed, current) = (hash("sealed", 4, sealed), hash("platform", 1, current));
    assert_eq!(response.policy_hashes, [sealed.clone(), current.clone()]);
    let record: Value = serde_json::from_str(&response.decision_json).unwrap();
    assert_eq!(record["decision"]["policies"][0]["hash"], json!(sealed));
    assert_eq!(record["decision"]["current"][0]["hash"], json!(current));
    record
}

#[tokio::test]
async fn a_platform_that_was_tightened_binds_agents_that_are_sealed() {
    let response = called(OPEN, NO_ECHO).await;
    let Some(Outcome::Denied(denied)) = &response.outcome else { panic!("{response:?}") };
    assert_eq!(denied.reason, "POLICY_DENIED");
    let record = both_are_recorded(&response, OPEN, NO_ECHO);
    let rule = &record["decision"]["determining"][0];
    assert_eq!((&rule["policy"], &rule["rule"]), (&json!("platform"), &json!("no-echo")));
}

#[tokio::test]
async fn a_platform_that_was_loosened_widens_nothing() {
    let response = called(NO_ECHO, OPEN).await;
    let Some(Outcome::Denied(denied)) = &response.outcome else { panic!("{response:?}") };
    assert_eq!(denied.reason, "POLICY_DENIED");
    let record = both_are_recorded(&response, NO_ECHO, OPEN);
    let rule = &record["decision"]["determining"][0];
    assert_eq!((&rule["policy"], &rule["rule"]), (&json!("sealed"), &json!("no-echo")));
}

#[tokio::test]
async fn where_both_allow_the_call_is_made() {
    let response = called(OPEN, OPEN).await;
    assert!(matches!(response.outcome, Some(Outcome::Result(_))), "{response:?}");
    both_are_recorded(&response, OPEN, OPEN);
}
