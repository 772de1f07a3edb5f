//! The order of the checks: of two faults the earlier one is told, and nothing later is looked at.

use mar_descriptor::Hash;
use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::types::ErrorReason;
use mar_runtime::status::Reason;
use serde_json::{Value, json};
use tonic::Request;

use crate::harness::{Agent, Bench, journal, stdio};

const NOTHING: &str = "@id(\"nothing\") forbid (principal, action == Action::\"callTool\", resource);";

async fn bench() -> Bench {
    let bench = Bench::start(|folder| vec![("s", stdio(folder))]).await;
    bench.up(&["s"]).await;
    bench
}

async fn refused(agent: &Agent<'_>, request: Request<pb::InvokeToolRequest>) -> Option<ErrorReason> {
    Reason::of(&agent.send(request).await.unwrap_err())
}

/// The reason of a denied call, and its record.
async fn denied(agent: &Agent<'_>, request: Request<pb::InvokeToolRequest>) -> (String, Value) {
    let response = agent.send(request).await.unwrap();
    let Some(Outcome::Denied(denied)) = response.outcome else { panic!("{response:?}") };
    (denied.reason, serde_json::from_str(&response.decision_json).unwrap())
}

fn forge(request: &mut Request<pb::InvokeToolRequest>) {
    let sealed = request.get_mut().descriptor.as_mut().unwrap();
    let mut bytes = sealed.signatures[0].sig.to_vec();
    bytes[5] ^= 1;
    sealed.signatures[0].sig = bytes.into();
}

/// An agent whose `s.echo` is pinned to another definition.
async fn mispinned<'a>(bench: &'a Bench, policy: Option<&str>) -> Agent<'a> {
    let mut descriptor = bench.everything().await;
    descriptor.agent.tools.iter_mut().for_each(|tool| tool.definition_hash = Hash::ZERO);
    bench.agent_of(descriptor, policy)
}

#[tokio::test]
async fn the_token_comes_before_the_descriptor() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let unknown = || {
        let mut request = agent.request("s.echo", &json!({"text": "x"}));
        request.get_mut().descriptor = None;
        request
    };
    let mut none = unknown();
    none.metadata_mut().remove("authorization");
    assert_eq!(refused(&agent, none).await, Some(ErrorReason::NoStandingDescriptor));

    let mut tampered = unknown();
    let token = tampered.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let flipped: String = signature.chars().rev().collect();
    tampered.metadata_mut().insert("authorization", format!("{signed}.{flipped}").parse().unwrap());
    assert_eq!(refused(&agent, tampered).await, Some(ErrorReason::RunTokenInvalid));

    let mut forged = agent.request("s.echo", &json!({"text": "x"}));
    forge(&mut forged);
    forged.metadata_mut().remove("authorization");
    assert_eq!(refused(&agent, forged).await, Some(ErrorReason::NoStandingDescriptor));

    let mut newer = agent.clone();
    newer.epoch = 3;
    newer.text("s.echo", &json!({"text": "x"})).await;
    let mut other = agent.clone();
    other.sealed = mispinned(&bench, None).await.sealed;
    let mut stale = other.request("s.echo", &json!({"text": "x"}));
    stale.get_mut().descriptor = None;
    assert_eq!(refused(&other, stale).await, Some(ErrorReason::EpochStale));
    bench.stop().await;
}

#[tokio::test]
async fn the_descriptor_comes_before_the_pin() {
    let bench = bench().await;
    let agent = mispinned(&bench, None).await;
    let mut unknown = agent.request("s.echo", &json!({"text": "x"}));
    unknown.get_mut().descriptor = None;
    assert_eq!(refused(&agent, unknown).await, Some(ErrorReason::DescriptorRequired));
    let mut forged = agent.request("s.echo", &json!({"text": "x"}));
    forge(&mut forged);
    assert_eq!(refused(&agent, forged).await, Some(ErrorReason::DescriptorInvalid));
    let mut not_sealed = agent.request("none.such", &json!({}));
    forge(&mut not_sealed);
    assert_eq!(refused(&agent, not_sealed).await, Some(ErrorReason::DescriptorInvalid));
    bench.stop().await;
}

#[tokio::test]
async fn the_pin_comes_before_the_schema() {
    let bench = bench().await;
    let agent = mispinned(&bench, None).await;
    for arguments in ["{\"text\": 7}", "{"] {
        let mut request = agent.request("s.echo", &json!({}));
        request.get_mut().arguments_json = arguments.into();
        let (reason, record) = denied(&agent, request).await;
        assert_eq!(reason, "TOOL_DEFINITION_CHANGED", "{arguments}");
        assert_eq!(record.get("arguments_digest"), None, "the arguments were not looked at");
    }
    let (reason, _) = denied(&agent, agent.request("none.such", &json!({"text": 7}))).await;
    assert_eq!(reason, "TOOL_NOT_SEALED");
    bench.stop().await;
}

#[tokio::test]
async fn the_schema_comes_before_the_policy() {
    let bench = bench().await;
    let agent = bench.agent(Some(NOTHING)).await;
    for arguments in ["{\"text\": 7}", "{}", "{", "{\"text\":\"a\",\"text\":\"b\"}"] {
        let mut request = agent.request("s.echo", &json!({}));
        request.get_mut().arguments_json = arguments.into();
        let (reason, record) = denied(&agent, request).await;
        assert_eq!(reason, "ARGUMENTS_INVALID", "{arguments}");
        assert_eq!(record.get("decision"), None, "no policy was asked: {record}");
    }
    let (reason, record) = denied(&agent, agent.request("s.echo", &json!({"text": "x"}))).await;
    assert_eq!((reason.as_str(), record["verdict"].as_str()), ("POLICY_DENIED", Some("deny")));
    assert_eq!(record["decision"]["determining"][0]["rule"], "nothing");

    let both = mispinned(&bench, Some(NOTHING)).await;
    let (reason, record) = denied(&both, both.request("s.echo", &json!({"text": "x"}))).await;
    assert_eq!((reason.as_str(), record.get("decision")), ("TOOL_DEFINITION_CHANGED", None));
    assert!(!journal(bench.folder.path()).iter().any(|line| line.starts_with("echo")));
    bench.stop().await;
}
