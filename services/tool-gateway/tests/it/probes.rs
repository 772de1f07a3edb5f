//! Asking whether a call took effect.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::tool::{self as pb, ProbeAnswer};
use mar_runtime::config::Span;
use mar_tool_gateway::UpstreamConfig;
use mar_tool_gateway::config::{DoubtConfig, OnUnknown, ProbeConfig, ToolConfig};
use serde_json::{Value, json};

use crate::harness::{Agent, Bench, journal, stdio, text};

/// The scripted server, with `status` as the probe of `count`.
fn probed(folder: &Path) -> UpstreamConfig {
    let probe = ProbeConfig { tool: "status".into(), key_argument: "key".into(), settles_after: None };
    let doubt = DoubtConfig { probe: Some(probe), on_unknown: OnUnknown::AskHuman, ..DoubtConfig::default() };
    let count = ToolConfig { doubt: Some(doubt), ..ToolConfig::default() };
    let status = ToolConfig { read_only: Some(true), ..ToolConfig::default() };
    UpstreamConfig {
        timeout: Duration::from_secs(5),
        tools: BTreeMap::from([("count".to_owned(), count), ("status".to_owned(), status)]),
        ..stdio(folder)
    }
}

async fn bench() -> Bench {
    let bench = Bench::start(|folder| vec![("s", probed(folder))]).await;
    bench.up(&["s"]).await;
    bench
}

async fn ask(agent: &Agent<'_>, tool: &str) -> pb::InvokeToolResponse {
    let mut request = agent.request(tool, &json!({}));
    request.get_mut().probe = true;
    agent.send(request).await.unwrap()
}

fn answer(response: &pb::InvokeToolResponse) -> &pb::Probed {
    match &response.outcome {
        Some(Outcome::Probed(probed)) => probed,
        other => panic!("{other:?}"),
    }
}

fn denied(response: &pb::InvokeToolResponse) -> &pb::Denied {
    match &response.outcome {
        Some(Outcome::Denied(denied)) => denied,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_probe_says_whether_a_key_took_effect() {
    let bench = bench().await;
    let listed = bench.list().await.tools;
    let definition = |name: &str| listed.iter().find(|tool| tool.name == name).unwrap().definition.clone().unwrap();
    let doubt = definition("tools/s.count").doubt.unwrap();
    let probe = doubt.probe.clone().unwrap();
    assert_eq!((&*probe.tool, &*probe.key_argument, probe.settles_after_ms), ("tools/s.status", "key", 5_000));
    assert_eq!(probe.definition_hash, definition("tools/s.status").definition_hash);
    assert_eq!((doubt.on_unknown(), doubt.expires_after_ms), (mar_proto::types::OnUnknown::AskHuman, 3_600_000));

    let agent = bench.agent(None).await;
    let response = ask(&agent, "s.count").await;
    assert_eq!(answer(&response).answer(), ProbeAnswer::DidNotHappen);
    let record: Value = serde_json::from_str(&response.decision_json).unwrap();
    assert_eq!((&record["tool"], &record["verdict"]), (&json!("s.status"), &json!("allow")));
    agent.text("s.count", &json!({})).await;
    let response = ask(&agent, "s.count").await;
    let probed = answer(&response);
    assert_eq!(probed.answer(), ProbeAnswer::Happened);
    assert_eq!(text(&probed.result.as_ref().unwrap().content), "counted before");
    assert!(probed.result.as_ref().unwrap().content[0].tainted, "a probe's word is the upstream's");
    assert!(text(&probed.evidence.as_ref().unwrap().content).contains("HAPPENED"));
    let lines = journal(bench.folder.path());
    assert_eq!(lines.iter().filter(|line| line.starts_with("count ")).count(), 1, "asking does not make the call");
    assert!(lines.iter().any(|line| line.starts_with("status - ")), "a probe has no key of its own: {lines:?}");
    bench.stop().await;
}

#[tokio::test]
async fn a_probe_that_fails_lies_or_hangs_says_nothing() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let says = |what: &str| std::fs::write(bench.folder.path().join("status"), what).unwrap();
    for odd in ["yes", r#"{"outcome": "MAYBE"}"#, r#"{"outcome": "HAPPENED", "outcome": "DID_NOT_HAPPEN"}"#] {
        says(odd);
        let response = ask(&agent, "s.count").await;
        let probed = answer(&response);
        assert_eq!((probed.answer(), probed.result.is_none()), (ProbeAnswer::Unknown, true), "{odd}");
        assert_eq!(text(&probed.evidence.as_ref().unwrap().content), odd, "the evidence is what it said");
    }
    for (odd, reason) in [("hang", "TIMEOUT"), ("die", "UPSTREAM_BROKEN")] {
        says(odd);
        let response = ask(&agent, "s.count").await;
        let Some(Outcome::Failed(failed)) = response.outcome else { panic!("{response:?}") };
        assert_eq!(failed.reason, reason);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_probe_is_held_to_what_is_sealed_and_to_the_policies() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    assert_eq!(denied(&ask(&agent, "s.echo").await).reason, "NO_PROBE");
    assert_eq!(denied(&ask(&agent, "s.other").await).reason, "NO_PROBE");

    let mut other = bench.everything().await;
    let count = other.agent.tools.iter_mut().find(|tool| tool.name == "s.count").unwrap();
    count.doubt.as_mut().unwrap().probe.as_mut().unwrap().definition_hash = mar_descriptor::Hash::ZERO;
    let pinned = bench.agent_of(other, None);
    assert_eq!(denied(&ask(&pinned, "s.count").await).reason, "TOOL_DEFINITION_CHANGED");

    let mut other = bench.everything().await;
    let count = other.agent.tools.iter_mut().find(|tool| tool.name == "s.count").unwrap();
    count.doubt.as_mut().unwrap().probe.as_mut().unwrap().tool = "s.fail".to_owned();
    let fail = bench.list().await.tools.into_iter().find(|tool| tool.name == "tools/s.fail").unwrap();
    let hash = fail.definition.unwrap().definition_hash.parse().unwrap();
    count.doubt.as_mut().unwrap().probe.as_mut().unwrap().definition_hash = hash;
    let changing = bench.agent_of(other, None);
    assert_eq!(denied(&ask(&changing, "s.count").await).reason, "NO_PROBE", "it is not declared read-only");

    let forbids = r#"permit (principal, action, resource);
        forbid (principal, action == Action::"callTool", resource) when { resource.name == "s.status" };"#;
    let forbidden = bench.agent(Some(forbids)).await;
    assert_eq!(denied(&ask(&forbidden, "s.count").await).reason, "POLICY_DENIED");
    bench.stop().await;
}

/// What the probe tells of a call becomes the call's result: the policies decide on it as on one, under the call's own tool.
#[tokio::test]
async fn what_a_probe_tells_of_a_call_is_withheld_where_its_result_would_be() {
    let bench = bench().await;
    let says = |what: &str| std::fs::write(bench.folder.path().join("status"), what).unwrap();
    says(r#"{"outcome": "HAPPENED", "result": "hunter2"}"#);
    let rule = |resource: &str| {
        format!(
            "permit (principal, action, resource);\n@id(\"no\") @message(\"Not for this agent.\")\n\
             forbid (principal, action == Action::\"receiveResult\", resource) when {{ resource.name == \"{resource}\" }};"
        )
    };
    let strict = bench.agent(Some(&rule("s.count"))).await;
    let response = ask(&strict, "s.count").await;
    let told = answer(&response).result.clone().unwrap();
    assert_eq!(answer(&response).answer(), ProbeAnswer::Happened, "it happened all the same");
    assert!(told.is_error && text(&told.content).starts_with("POLICY_DENIED: Not for this agent."), "{told:?}");
    let record: Value = serde_json::from_str(&response.decision_json).unwrap();
    assert_eq!(record["result_decision"]["verdict"], "allow", "the probe's own answer may be received");
    assert_eq!(record["doubted_result_decision"]["verdict"], "deny");
    assert_eq!(record["doubted_result_decision"]["facts"]["question"]["tool"]["name"], "s.count");
    assert!(!record.to_string().contains("hunter2"), "a record holds no payload");

    // One that may not hear the probe knows nothing.
    let deaf = bench.agent(Some(&rule("s.status"))).await;
    let response = ask(&deaf, "s.count").await;
    assert_eq!((answer(&response).answer(), answer(&response).result.is_none()), (ProbeAnswer::Unknown, true));
    let open = bench.agent(Some(&rule("s.other"))).await;
    let response = ask(&open, "s.count").await;
    assert_eq!(text(&answer(&response).result.as_ref().unwrap().content), "hunter2");
    bench.stop().await;
}

#[tokio::test]
async fn a_probe_that_the_upstream_does_not_offer_cannot_be_asked() {
    let bench = Bench::start(|folder| {
        let mut config = probed(folder);
        let doubt = config.tools.get_mut("count").unwrap().doubt.as_mut().unwrap();
        doubt.probe.as_mut().unwrap().tool = "gone".into();
        doubt.expires_after = Some(Span(Duration::from_secs(90)));
        vec![("s", config)]
    })
    .await;
    let tools = bench.up(&["s"]).await;
    let count = tools.into_iter().find(|tool| tool.name == "tools/s.count").unwrap().definition.unwrap();
    let doubt = count.doubt.unwrap();
    assert_eq!((doubt.probe, doubt.expires_after_ms), (None, 90_000));
    bench.stop().await;
}
