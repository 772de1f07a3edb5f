//! What is checked before a call, in which order, and what the caller learns.

use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::types::ErrorReason;
use mar_runtime::status::Reason;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Bench, search, stdio};

async fn bench() -> Bench {
    let bench = Bench::start(|folder| vec![("s", stdio(folder)), ("docs", search(folder))]).await;
    bench.up(&["s", "docs"]).await;
    bench
}

#[tokio::test]
async fn a_call_needs_token_and_descriptor() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let hello = json!({"text": "hi"});

    let mut bare = agent.request("s.echo", &hello);
    bare.metadata_mut().remove("authorization");
    let refused = agent.send(bare).await.unwrap_err();
    assert_eq!(
        (refused.code(), Reason::of(&refused)),
        (Code::PermissionDenied, Some(ErrorReason::NoStandingDescriptor))
    );

    let mut without = agent.request("s.echo", &hello);
    without.get_mut().descriptor = None;
    let refused = agent.send(without).await.unwrap_err();
    assert_eq!(
        (refused.code(), Reason::of(&refused)),
        (Code::FailedPrecondition, Some(ErrorReason::DescriptorRequired))
    );

    let mut forged = agent.request("s.echo", &hello);
    let sealed = forged.get_mut().descriptor.as_mut().unwrap();
    let mut bytes = sealed.signatures[0].sig.to_vec();
    bytes[5] ^= 1;
    sealed.signatures[0].sig = bytes.into();
    let refused = agent.send(forged).await.unwrap_err();
    assert_eq!((refused.code(), Reason::of(&refused)), (Code::PermissionDenied, Some(ErrorReason::DescriptorInvalid)));

    assert_eq!(agent.text("s.echo", &hello).await, "hi");
    // Once verified it is kept.
    let mut without = agent.request("s.echo", &hello);
    without.get_mut().descriptor = None;
    assert!(agent.send(without).await.is_ok());

    let mut newer = agent.clone();
    newer.epoch = 3;
    assert_eq!(newer.text("s.echo", &hello).await, "hi");
    let refused = agent.send(agent.request("s.echo", &hello)).await.unwrap_err();
    assert_eq!((refused.code(), Reason::of(&refused)), (Code::FailedPrecondition, Some(ErrorReason::EpochStale)));
    bench.stop().await;
}

#[tokio::test]
async fn requests_are_checked_whole() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let mut wrong = agent.request("nothing", &json!({}));
    wrong.get_mut().call_id.clear();
    wrong.get_mut().facts = Some(pb::CallFacts { step: -1, ..pb::CallFacts::default() });
    let refused = agent.send(wrong).await.unwrap_err();
    let fields: Vec<String> = mar_runtime::status::violations(&refused).into_iter().map(|one| one.field).collect();
    assert_eq!(fields, ["tool", "call_id", "facts.step"]);

    let mut client = bench.client.clone();
    let refused = client.get_tool(pb::GetToolRequest { name: "tools/docs.none".into() }).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(ErrorReason::NotFound));
    let tool =
        client.get_tool(pb::GetToolRequest { name: "tools/docs.search".into() }).await.unwrap().into_inner().tool;
    assert!(tool.unwrap().definition.unwrap().read_only);
    let patterns = vec!["docs*".to_owned(), String::new()];
    let refused = client.list_tools(pb::ListToolsRequest { patterns, ..Default::default() }).await.unwrap_err();
    assert_eq!(mar_runtime::status::violations(&refused).len(), 2);
    bench.stop().await;
}

#[tokio::test]
async fn the_list_pages_and_picks() {
    let bench = bench().await;
    let mut client = bench.client.clone();
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListToolsRequest { page_size: 2, page_token, patterns: vec!["s.*".into()] };
        let page = client.list_tools(request).await.unwrap().into_inner();
        assert!(page.tools.len() <= 2);
        names.extend(page.tools.into_iter().map(|tool| tool.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    // Both pages of the server, without what cannot be offered.
    let tools = ["append", "apply", "count", "crash", "echo", "fail", "huge", "many", "refuse", "slow", "status"];
    let expected = tools.map(|tool| format!("tools/s.{tool}"));
    assert_eq!(names, expected);

    // A token that is none, and one of another listing.
    let first = pb::ListToolsRequest { page_size: 2, ..Default::default() };
    let of_all = client.list_tools(first).await.unwrap().into_inner().next_page_token;
    for page_token in ["nonsense".to_owned(), of_all] {
        let request = pb::ListToolsRequest { page_size: 2, page_token, patterns: vec!["s.*".into()] };
        let refused = client.list_tools(request).await.unwrap_err();
        let violations = mar_runtime::status::violations(&refused);
        assert_eq!(violations.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["page_token"], "{refused:?}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn only_sealed_tools_as_they_were_sealed() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let mut descriptor = mar_descriptor::Descriptor::parse(&agent.sealed.canonical).unwrap();
    descriptor.agent.tools.retain(|tool| tool.name == "s.echo");
    let mut changed = descriptor.clone();
    let narrow = bench.agent_of(descriptor, None);
    assert_eq!(narrow.denied("s.slow", &json!({"ms": 1})).await.reason, "TOOL_NOT_SEALED");
    assert_eq!(narrow.denied("none.such", &json!({})).await.reason, "TOOL_NOT_SEALED");
    assert_eq!(narrow.text("s.echo", &json!({"text": "x"})).await, "x");
    changed.agent.tools[0].definition_hash = mar_descriptor::Hash::ZERO;
    let changed = bench.agent_of(changed, None);
    assert_eq!(changed.denied("s.echo", &json!({"text": "x"})).await.reason, "TOOL_DEFINITION_CHANGED");
    bench.stop().await;
}

#[tokio::test]
async fn arguments_fit_the_schema() {
    let bench = bench().await;
    let agent = bench.agent(None).await;
    let denied = agent.denied("docs.search", &json!({"query": 7, "limit": 99, "secret": "hunter2"})).await;
    assert_eq!(denied.reason, "ARGUMENTS_INVALID");
    for part in ["/query", "/limit", "secret"] {
        assert!(denied.message.contains(part), "{}", denied.message);
    }
    assert!(!denied.message.contains("hunter2"));
    for text in ["{\"text\":\"a\",\"text\":\"b\"}", "[]", "{", "nonsense"] {
        let mut request = agent.request("s.echo", &json!({}));
        request.get_mut().arguments_json = text.to_owned();
        let Some(Outcome::Denied(denied)) = agent.send(request).await.unwrap().outcome else { panic!("{text}") };
        assert_eq!(denied.reason, "ARGUMENTS_INVALID", "{text}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn policies_decide() {
    let bench = bench().await;
    let policy = "@id(\"some\") permit (principal, action == Action::\"callTool\", resource)\n\
        unless { resource.name == \"s.echo\" };\n\
        @id(\"ask\") @verdict(\"require_approval\") @message(\"Shown to a human.\")\n\
        permit (principal, action == Action::\"callTool\", resource) when { resource.name == \"s.echo\" };\n\
        @id(\"no\") @message(\"Not this one.\") forbid (principal, action == Action::\"callTool\", resource)\n\
        when { resource.name == \"s.count\" };";
    let agent = bench.agent(Some(policy)).await;
    let response = agent.call("s.count", &json!({})).await;
    let Some(Outcome::Denied(denied)) = &response.outcome else { panic!("{response:?}") };
    assert_eq!((denied.reason.as_str(), denied.message.as_str()), ("POLICY_DENIED", "Not this one."));
    assert!(response.policy_hashes.len() >= 2);
    let record: Value = serde_json::from_str(&response.decision_json).unwrap();
    assert_eq!(record["verdict"], "deny");
    assert_eq!(record["decision"]["determining"][0]["rule"], "no");

    let asked = |text: &'static str| {
        let agent = agent.clone();
        async move {
            match agent.call("s.echo", &json!({"text": text})).await.outcome {
                Some(Outcome::ApprovalRequired(asked)) => asked,
                other => panic!("{other:?}"),
            }
        }
    };
    let first = asked("a").await;
    assert!(first.call_digest.starts_with("sha256:") && first.message == "Shown to a human.");
    assert_eq!(asked("a").await.call_digest, first.call_digest);
    assert_ne!(asked("b").await.call_digest, first.call_digest);
    let journal = crate::harness::journal(bench.folder.path());
    assert!(!journal.iter().any(|line| line.starts_with("echo") || line.starts_with("count")), "{journal:?}");
    bench.stop().await;
}
