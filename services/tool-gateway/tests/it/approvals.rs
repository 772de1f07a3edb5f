//! Calls that people have to approve, and what an approval is worth.

use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use serde_json::{Value, json};

use crate::harness::{Agent, Bench, journal, stdio, text};

const TWO_LEADS: &str = "@id(\"ask\") @verdict(\"require_approval\") @approvers(\"leads\") @approvals(\"2\") @expires(\"30m\")\n\
    @message(\"Shown to a human.\") permit (principal, action == Action::\"callTool\", resource);\n\
    permit (principal, action == Action::\"receiveResult\", resource);";

async fn bench() -> Bench {
    let bench = Bench::start(|folder| vec![("s", stdio(folder))]).await;
    bench.up(&["s"]).await;
    bench
}

async fn sent(agent: &Agent<'_>, request: tonic::Request<pb::InvokeToolRequest>) -> (Outcome, Value) {
    let response = agent.send(request).await.unwrap();
    (response.outcome.unwrap(), serde_json::from_str(&response.decision_json).unwrap())
}

async fn asked(agent: &Agent<'_>, request: tonic::Request<pb::InvokeToolRequest>) -> pb::ApprovalRequired {
    match sent(agent, request).await {
        (Outcome::ApprovalRequired(asked), record) => {
            assert_eq!(record["verdict"], "require_approval");
            assert_eq!(record.get("approval"), None, "an approval that does not count is not recorded as one");
            asked
        }
        other => panic!("{other:?}"),
    }
}

fn given(digest: &str, approvers: &[&str]) -> Option<pb::ApprovalGiven> {
    let approvers = approvers.iter().map(|name| (*name).to_owned()).collect();
    Some(pb::ApprovalGiven { call_digest: digest.to_owned(), approvers })
}

#[tokio::test]
async fn a_call_waits_until_enough_have_approved_it() {
    let bench = bench().await;
    let agent = bench.agent(Some(TWO_LEADS)).await;
    let hello = json!({"text": "hello"});
    let first = asked(&agent, agent.request("s.echo", &hello)).await;
    assert_eq!((first.group.as_str(), first.needed, first.message.as_str()), ("leads", 2, "Shown to a human."));
    assert_eq!(first.expires_after.unwrap().seconds, 1_800);

    let with = |approvers: &[&str]| {
        let mut request = agent.request("s.echo", &hello);
        request.get_mut().approval = given(&first.call_digest, approvers);
        request
    };
    assert_eq!(asked(&agent, with(&["ada"])).await, first, "one is not two");
    assert_eq!(asked(&agent, with(&["ada", "ada"])).await, first, "nor is one twice");
    assert!(!journal(bench.folder.path()).iter().any(|line| line.starts_with("echo")), "nothing was called so far");

    let (outcome, record) = sent(&agent, with(&["grace", "ada"])).await;
    let Outcome::Result(result) = outcome else { panic!("{outcome:?}") };
    assert_eq!(text(&result.content), "hello");
    assert_eq!((&record["verdict"], &record["decision"]["verdict"]), (&json!("allow"), &json!("require_approval")));
    assert_eq!(record["approval"], json!({"call_digest": first.call_digest, "approvers": ["ada", "grace"]}));
    assert_eq!(record["decision"]["approval"]["group_rule"]["rule"], "ask");
    bench.stop().await;
}

#[tokio::test]
async fn an_approval_is_of_one_call() {
    let bench = bench().await;
    let agent = bench.agent(Some(TWO_LEADS)).await;
    let hello = json!({"text": "hello", "more": {"b": 1, "a": [1, 2]}});
    let digest = asked(&agent, agent.request("s.echo", &hello)).await.call_digest;
    let approved = |mut request: tonic::Request<pb::InvokeToolRequest>| {
        request.get_mut().approval = given(&digest, &["ada", "grace"]);
        request
    };

    let mut other_id = agent.request("s.echo", &hello);
    other_id.get_mut().call_id = "run-1/2/0".into();
    let others = [
        other_id,
        agent.request("s.echo", &json!({"text": "hallo", "more": {"b": 1, "a": [1, 2]}})),
        agent.request("s.echo", &json!({"text": "hello", "more": {"b": 1, "a": [2, 1]}})),
        agent.request("s.count", &hello),
    ];
    let mut seen = vec![digest.clone()];
    for other in others {
        let asked = asked(&agent, approved(other)).await;
        assert!(!seen.contains(&asked.call_digest), "{asked:?}");
        seen.push(asked.call_digest);
    }
    assert!(!journal(bench.folder.path()).iter().any(|line| line.starts_with("echo") || line.starts_with("count")));

    // How the arguments are spelt is not what they are.
    let mut spelt = agent.request("s.echo", &hello);
    spelt.get_mut().arguments_json = r#"{ "more": {"a":[1,2], "b":1}, "text":"hell\u006f" }"#.into();
    assert!(matches!(sent(&agent, approved(spelt)).await.0, Outcome::Result(_)));

    // The same call of the same tool with another definition.
    std::fs::write(bench.folder.path().join("description"), "Says something else.").unwrap();
    let crashing = bench.agent(None).await;
    crashing.failed("s.crash", &json!({})).await;
    bench.up(&["s"]).await;
    let again = bench.agent(Some(TWO_LEADS)).await;
    let mut request = again.request("s.echo", &hello);
    request.get_mut().approval = given(&digest, &["ada", "grace"]);
    let asked = asked(&again, request).await;
    assert!(!seen.contains(&asked.call_digest), "{asked:?}");
    bench.stop().await;
}

#[tokio::test]
async fn no_approval_outranks_a_deny_or_another_check() {
    let bench = bench().await;
    let hello = json!({"text": "hello"});
    let agent = bench.agent(Some(TWO_LEADS)).await;
    let digest = asked(&agent, agent.request("s.echo", &hello)).await.call_digest;

    let both = format!("{TWO_LEADS} @id(\"no\") forbid (principal, action == Action::\"callTool\", resource);");
    let denied = bench.agent(Some(&both)).await;
    let mut request = denied.request("s.echo", &hello);
    request.get_mut().approval = given(&digest, &["ada", "grace"]);
    let (outcome, record) = sent(&denied, request).await;
    assert!(matches!(&outcome, Outcome::Denied(denied) if denied.reason == "POLICY_DENIED"), "{outcome:?}");
    assert_eq!((&record["verdict"], record.get("approval")), (&json!("deny"), None));

    let mut request = agent.request("s.echo", &json!({"text": 7}));
    request.get_mut().approval = given(&digest, &["ada", "grace"]);
    let (outcome, _) = sent(&agent, request).await;
    assert!(matches!(&outcome, Outcome::Denied(denied) if denied.reason == "ARGUMENTS_INVALID"), "{outcome:?}");

    // Where nobody has to approve, an approval changes nothing.
    let free = bench.agent(None).await;
    let mut request = free.request("s.echo", &hello);
    request.get_mut().approval = given("sha256:other", &["ada"]);
    let (outcome, record) = sent(&free, request).await;
    assert!(matches!(outcome, Outcome::Result(_)));
    assert_eq!(record.get("approval"), None);
    bench.stop().await;
}

#[tokio::test]
async fn an_approval_is_checked_like_the_rest_of_a_request() {
    let bench = bench().await;
    let agent = bench.agent(Some(TWO_LEADS)).await;
    let mut request = agent.request("s.echo", &json!({"text": "x"}));
    let long = "x".repeat(513);
    request.get_mut().approval = given("", &["", &long, "a\nb", "Ada Lovelace"]);
    let refused = agent.send(request).await.unwrap_err();
    let fields: Vec<String> = mar_runtime::status::violations(&refused).into_iter().map(|one| one.field).collect();
    let approvers = ["approval.approvers[0]", "approval.approvers[1]", "approval.approvers[2]"];
    assert_eq!(fields, [&["approval.call_digest"][..], &approvers[..]].concat());
    for names in [vec![], vec!["ada"; 65]] {
        let mut request = agent.request("s.echo", &json!({"text": "x"}));
        request.get_mut().approval = given("sha256:x", &names);
        let refused = agent.send(request).await.unwrap_err();
        let fields: Vec<String> = mar_runtime::status::violations(&refused).into_iter().map(|one| one.field).collect();
        assert_eq!(fields, ["approval.approvers"]);
    }
    bench.stop().await;
}
