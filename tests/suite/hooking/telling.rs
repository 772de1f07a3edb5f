//! What hooks are told of decisions, budgets and states, held against the logs of the runs.

use anyhow::Context as _;
use mar_proto::session::event_leaf::Body;
use mar_proto::session::*;
use mar_proto::types::{HaltingPolicy, OnBudget};
use mar_testkit::wait;
use mar_tests::client::request_id;
use mar_tests::{Options, task};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Does, LONG, QUESTION, Receiver, SECRET, SECRET_FILE, Sent, hook, start, webhook};
use crate::approving::Office;

both_ways! {
    decisions_are_told_as_they_stand_in_the_log_and_nothing_of_the_calls
    a_run_that_has_not_begun_is_told_as_pending_whatever_it_waits_for
}

const ADA: usize = 0;
const BOB: usize = 1;

/// Stands in every argument, in the task, in the policy's text and in what people say.
const PRIVATE: &str = "Ultramarine";

const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { text = "Ultramarine it is." }
[[rule]]
reply = { tool_calls = [
  { name = "mail_echo", arguments = { text = "Ultramarine" } },
  { name = "mail_count", arguments = { colour = "Ultramarine" } },
  { name = "mail_status", arguments = { key = "Ultramarine" } },
] }
"#;

const POLICY: &str = r#"
@id("mail") @verdict("require_approval") @approvers("office") @message("Who wants Ultramarine?")
permit (principal, action == Action::"callTool", resource);
@id("no-status") @message("Nobody asks after Ultramarine.")
forbid (principal, action == Action::"callTool", resource == Tool::"mail.status");
@id("rest") permit (principal, action in [Action::"listTool", Action::"selectModel", Action::"shapePrompt",
  Action::"receiveResult"], resource);
"#;

/// The run of ada's that wants three calls of which two need approval, at its end; bob approves the first and refuses the
/// second.
async fn decided(office: &Office) -> anyhow::Result<Run> {
    let mut grpc = office.client.grpc.clone();
    let start = StartSessionRequest { request_id: request_id(), session: None };
    let session = grpc.start_session(office.by(ADA, start)).await?.into_inner().session.context("no session")?.name;
    let task = Task {
        tools: task::selectors(&["mail.echo", "mail.count", "mail.status"]),
        alignment_policy: POLICY.to_owned(),
        ..task::question(&format!("Send {PRIVATE}."))
    };
    let request = StartRunRequest { request_id: request_id(), session, task: Some(task), ..Default::default() };
    let run = grpc.start_run(office.by(ADA, request)).await?.into_inner().run.context("no run")?.name;
    let waits = |run: &Run| run.wait_reason() == WaitReason::Approval && run.held_calls.len() == 2;
    office.until(&run, |run| waits(run) || run.seal.is_some()).await?;
    let list = ListApprovalsRequest { parent: run.clone(), ..Default::default() };
    let approvals = grpc.list_approvals(office.by(BOB, list)).await?.into_inner().approvals;
    for (tool, approved) in [("tools/mail.echo", true), ("tools/mail.count", false)] {
        let approval = approvals.iter().find(|one| one.tool == tool).with_context(|| format!("{approvals:?}"))?;
        office.decide(BOB, approval, approved).await?;
    }
    office.until(&run, |run| run.seal.is_some()).await
}

/// What a hook has to be told of a run's events, as JSON: the members that every notice of the run has come on top.
fn due(run: &Run, seq: i64, body: &Body) -> Option<Value> {
    let reason = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_owned();
    let state = |state: &str| json!({ "kind": "run.state", "state": state });
    let told = match body {
        Body::RunAdmitted(_) => state("PENDING"),
        Body::AgentSealed(_) => state("RUNNING"),
        Body::RunResumed(_) => state("RUNNING"),
        Body::RunWaiting(waiting) => json!({
            "kind": "run.state", "state": "WAITING", "reason": reason(waiting.reason().as_str_name(), "WAIT_REASON_"),
        }),
        Body::RunEnded(ended) => state(&reason(ended.state().as_str_name(), "RUN_STATE_")),
        Body::ApprovalRequested(asked) => json!({
            "kind": "approval.wanted", "call_id": asked.call_id, "group": "office",
            "approval": format!("{}/approvals/{}", run.name, asked.approval),
        }),
        Body::ToolReturned(back) if back.outcome() == ToolOutcome::Denied => {
            json!({ "kind": "policy.denied", "call_id": back.call_id, "reason": back.reason })
        }
        _ => return None,
    };
    let (session, id) = run.name.split_once("/runs/")?;
    let mut told = told;
    told["id"] = json!(format!("{id}.{seq}"));
    told["tenant"] = json!("acme");
    told["session"] = json!(session);
    told["run"] = json!(run.name);
    told["seq"] = json!(seq);
    Some(told)
}

fn time_of(leaf: &EventLeaf) -> anyhow::Result<String> {
    let stamp = leaf.time.context("no time")?;
    let at = OffsetDateTime::from_unix_timestamp(stamp.seconds)? + time::Duration::nanoseconds(stamp.nanos.into());
    Ok(at.format(&Rfc3339)?)
}

async fn decisions_are_told_as_they_stand_in_the_log_and_nothing_of_the_calls(options: Options) -> anyhow::Result<()> {
    let (all, some) =
        (Receiver::start(&[], Does::Answers(200)).await?, Receiver::start(&[], Does::Answers(200)).await?);
    let url = |receiver: &Receiver| format!("http://127.0.0.1:{}/", receiver.port);
    let of_acme =
        |url: &str| hook(url).replace("tenants.dev", "tenants.acme").replace(SECRET_FILE, "{ env = \"HOOK_SECRET\" }");
    let choosy = of_acme(&url(&some)).replace("hooks.audit", "hooks.desk");
    let hooks = format!("{}{choosy}kinds = ['approval.wanted', 'policy.denied']\n", of_acme(&url(&all)));
    let office = Office::with_mail(options.script(SCRIPT).env("HOOK_SECRET", SECRET), &hooks).await?;
    let run = decided(&office).await?;
    assert_eq!(run.state(), RunState::Succeeded, "{run:#?}");

    let list = ListEventsRequest { parent: run.name.clone(), page_size: 500, ..Default::default() };
    let events = office.client.grpc.clone().list_events(office.by(ADA, list)).await?.into_inner().events;
    let mut expected = Vec::new();
    for event in &events {
        let leaf = event.body.as_ref().context("no body")?;
        let Some(mut told) = leaf.body.as_ref().and_then(|body| due(&run, event.seq, body)) else { continue };
        told["time"] = json!(time_of(leaf)?);
        expected.push(told);
    }
    let kind = |told: &Value| told["kind"].as_str().unwrap_or_default().to_owned();
    let of_people: Vec<Value> = expected.iter().filter(|told| kind(told) != "run.state").cloned().collect();
    let reasons: Vec<&str> = of_people.iter().filter_map(|told| told["reason"].as_str()).collect();
    assert_eq!((of_people.len(), reasons), (4, vec!["POLICY_DENIED", "APPROVAL_DENIED"]), "{expected:#?}");

    let ended = || async { all.taken().iter().any(|sent| sent.told().1 == "SUCCEEDED") };
    wait::until(LONG, ended).await.with_context(|| format!("{:?}", all.sent()))?;
    let told: Vec<Value> = all.taken().iter().map(Sent::json).filter(|told| told.get("run").is_some()).collect();
    assert_eq!(told, expected);
    let four = || async { some.taken().len() == 4 };
    wait::until(LONG, four).await.with_context(|| format!("{:?}", some.sent()))?;
    assert_eq!(some.taken().iter().map(Sent::json).collect::<Vec<_>>(), of_people, "these kinds and no other");
    for sent in all.sent().iter().chain(&some.sent()) {
        let text = String::from_utf8(sent.body.clone())?;
        for private in [PRIVATE, "as agreed", "arguments", "user:", SECRET] {
            assert!(!text.contains(private), "{private} is in {text}");
        }
    }
    Ok(())
}

async fn a_run_that_has_not_begun_is_told_as_pending_whatever_it_waits_for(options: Options) -> anyhow::Result<()> {
    let receiver = Receiver::start(&[], Does::Answers(200)).await?;
    let system = start(webhook(options, &receiver)).await?;
    let mut client = system.client().await?;
    let runs = |most| Some(SessionBudget { max_runs: Some(most), ..SessionBudget::default() });
    let begin = StartSessionRequest {
        request_id: request_id(),
        session: Some(Session { budget: runs(1), ..Session::default() }),
    };
    let session = client.grpc.start_session(begin).await?.into_inner().session.context("no session")?;
    client.run_in(&session.name, task::with_sources(QUESTION)).await?;
    let limits = HaltingPolicy { on_budget: OnBudget::Wait.into(), ..HaltingPolicy::default() };
    let run = client.start(&session.name, task::limited(task::with_sources(QUESTION), limits)).await?;
    let waiting = client.until(&run.name, |run| run.wait_reason() == WaitReason::Budget).await?;
    assert_eq!(waiting.state(), RunState::Pending);
    let raised = UpdateSessionRequest {
        request_id: request_id(),
        session: Some(Session { name: session.name.clone(), budget: runs(9), ..Session::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["budget".into()] }),
    };
    client.grpc.update_session(raised).await?;
    client.until(&run.name, |run| run.seal.is_some()).await?;
    let of_run = || {
        let sent = receiver.taken();
        let of_run = sent.iter().filter(|sent| sent.json()["run"] == run.name.as_str());
        of_run.map(Sent::told).collect::<Vec<_>>()
    };
    let ended = || async { of_run().last().is_some_and(|last| last.1 == "SUCCEEDED") };
    wait::until(LONG, ended).await.with_context(|| format!("{:?}", receiver.sent()))?;
    let states = [("PENDING", ""), ("PENDING", "BUDGET"), ("PENDING", ""), ("RUNNING", ""), ("SUCCEEDED", "")];
    let expected: Vec<_> = states.map(|(state, why)| ("run.state".to_owned(), state.to_owned(), why.to_owned())).into();
    assert_eq!(of_run(), expected);
    let crossed: Vec<_> = receiver.taken().iter().map(Sent::told).filter(|told| told.0 == "budget.threshold").collect();
    let all = "SESSION_RUNS_50,SESSION_RUNS_80,SESSION_RUNS_100";
    assert_eq!(
        crossed,
        [("budget.threshold".to_owned(), String::new(), all.to_owned())],
        "by the run that reached them"
    );
    Ok(())
}
