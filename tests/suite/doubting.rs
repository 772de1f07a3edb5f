//! Calls that were issued and of which nobody knows what they did, where the operator wants a human to settle it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::*;
use mar_testkit::process::built_binary;
use mar_testkit::wait;
use mar_tests::client::request_id;
use mar_tests::deployment::Replica;
use mar_tests::{Options, Shape, Stores, oracle, task};
use serde_json::Value;
use tokio::process::Command;

use crate::approving::{Office, reason};

const PATIENCE: Duration = Duration::from_secs(60);

const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { from_tool_result = "Heard: {{last_tool_result}}" }
[[rule]]
reply = { tool_calls = [{ name = "mail_status", arguments = { key = "letter" } }] }
"#;

/// Neither idempotent nor probed.
const DECLARED: &str = "timeout = '10m'\nrestart = { min = '50ms', max = '1s' }\n\
                        tools.status.doubt = { on_unknown = 'ask_human', group = 'office' }\n";

const GATEWAY: usize = 3;
const ADA: usize = 0;
const BOB: usize = 1;
const DAN: usize = 3;

/// Replicas of session, and a call of ada's that hangs at its tool.
struct Scene {
    office: Office,
    run: String,
}

impl Scene {
    async fn begin() -> anyhow::Result<Self> {
        let options = Options::new(Shape::Four, Stores::Servers).script(SCRIPT);
        let office = Office::with_mail(options, DECLARED).await?;
        let scene = Self { office, run: String::new() };
        scene.tool_says("hang")?;
        let mut grpc = scene.office.client.grpc.clone();
        let start = StartSessionRequest { request_id: request_id(), session: None };
        let session = grpc.start_session(scene.office.by(ADA, start)).await?.into_inner().session;
        let request = StartRunRequest {
            request_id: request_id(),
            session: session.context("no session")?.name,
            task: Some(Task { tools: task::selectors(&["mail.status"]), ..task::question("Send the letter.") }),
            ..Default::default()
        };
        let run = grpc.start_run(scene.office.by(ADA, request)).await?.into_inner().run.context("no run")?.name;
        let scene = Self { run, ..scene };
        wait::until(PATIENCE, || async { scene.issued().len() == 1 }).await.context("the call is never made")?;
        Ok(scene)
    }

    fn tool_says(&self, what: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.office.system.folder().join("mail/status"), what)?)
    }

    /// The keys of the calls that have reached the tool.
    fn issued(&self) -> Vec<String> {
        let journal = std::fs::read_to_string(self.office.system.folder().join("mail/journal")).unwrap_or_default();
        let calls = journal.lines().filter_map(|line| line.strip_prefix("status "));
        calls.filter_map(|rest| Some(rest.split(' ').next()?.to_owned())).collect()
    }

    async fn look_through(&mut self, replica: &Replica) -> anyhow::Result<()> {
        self.office.client = replica.client().await?;
        Ok(())
    }

    /// The question about the call, as whoever looks sees it: its outcome is unknown, and nothing goes on.
    async fn doubt(&self) -> anyhow::Result<Approval> {
        let office = &self.office;
        let asked = |run: &Run| run.wait_reason() == WaitReason::Approval || run.seal.is_some();
        let run = office.until(&self.run, asked).await?;
        let held = run.held_calls.first().with_context(|| format!("{run:#?}\n{}", office.system.log().join("\n")))?;
        ensure!(held.in_doubt && held.tool == "tools/mail.status", "{held:?}");
        let list = ListApprovalsRequest { parent: self.run.clone(), ..Default::default() };
        let listed = office.client.grpc.clone().list_approvals(office.by(BOB, list)).await?.into_inner().approvals;
        let [approval] = &listed[..] else { anyhow::bail!("{listed:?}") };
        ensure!(approval.name == held.approval && approval.in_doubt && approval.group == "office", "{approval:?}");
        ensure!(approval.state() == ApprovalState::Pending && approval.needed == 1, "{approval:?}");
        let story = office.story(&self.run).await?;
        ensure!(story.contains(&"CallDoubted") && !story.contains(&"ToolReturned"), "{story:?}");
        Ok(approval.clone())
    }

    /// What `mar` says to bob, through a replica.
    async fn mar(&self, replica: &Replica, args: &[&str]) -> anyhow::Result<String> {
        let key = self.office.keys[BOB].to_str()?.trim_start_matches("Bearer ").to_owned();
        let mut command = Command::new(built_binary("mar")?);
        command.args(args).env("MAR_ENDPOINT", &replica.endpoint).env("MAR_API_KEY", key).kill_on_drop(true);
        let output = command.output().await?;
        ensure!(output.status.success(), "{args:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The run at its end and its events, which hold against the oracle and verify.
    async fn end(&self) -> anyhow::Result<(Run, Vec<Event>)> {
        let office = &self.office;
        let run = office.until(&self.run, |run| run.seal.is_some()).await?;
        let parent = self.run.clone();
        let list = ListEventsRequest { parent, page_size: 500, include_leaf: true, ..Default::default() };
        let events = office.client.grpc.clone().list_events(office.by(ADA, list)).await?.into_inner().events;
        oracle::check(&run, &events).with_context(|| format!("{events:#?}"))?;
        let request = VerifyRunRequest { name: self.run.clone() };
        let verified = office.client.grpc.clone().verify_run(office.by(ADA, request)).await?.into_inner();
        ensure!(verified.valid && verified.sealed, "{verified:?}");
        ensure!(run.state() == RunState::Succeeded, "{run:#?}");
        Ok((run, events))
    }
}

fn text(run: &Run) -> String {
    format!("{:?}", run.answer.as_ref().map(|answer| &answer.parts))
}

fn attempts(events: &[Event]) -> Vec<i64> {
    let intent = |event: &Event| match event.body.as_ref()?.body.as_ref()? {
        event_leaf::Body::ToolIntent(intent) => Some(intent.attempt),
        _ => None,
    };
    events.iter().filter_map(intent).collect()
}

/// The session dies with the call in its hands, a second replica asks and dies, and on a third one the call is issued again,
/// because somebody of the group wants it so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_a_dead_replica_is_issued_again_when_a_person_says_so() -> anyhow::Result<()> {
    let mut scene = Scene::begin().await?;
    let mut second = scene.office.system.replica().await?;
    scene.look_through(&second).await?;
    scene.office.system.kill(0).await?;
    let approval = scene.doubt().await?;
    assert_eq!(scene.issued().len(), 1, "nothing is repeated unasked");
    assert_eq!(reason(scene.office.decide(ADA, &approval, true).await)?, "APPROVAL_NOT_ALLOWED");
    assert_eq!(reason(scene.office.decide(DAN, &approval, true).await)?, "APPROVAL_NOT_ALLOWED");

    let third = scene.office.system.replica().await?;
    scene.look_through(&third).await?;
    second.process.kill().await?;
    assert_eq!(scene.doubt().await?, approval, "the question outlives who asked it");
    let shown = scene.mar(&third, &["approvals", "show", &approval.name]).await?;
    assert!(shown.contains("PENDING") && shown.contains("in doubt    OUTCOME_UNKNOWN"), "{shown}");
    let waiting = scene.mar(&third, &["runs", "show", &scene.run]).await?;
    assert!(waiting.contains("of mail.status, OUTCOME_UNKNOWN: mar approvals show"), "{waiting}");

    scene.tool_says("The letter is on its way.")?;
    let decide = ["approvals", "approve", &approval.name, "--yes", "--comment", "It never arrived.", "--json"];
    let decided: Value = serde_json::from_str(&scene.mar(&third, &decide).await?)?;
    assert_eq!((&decided["state"], &decided["in_doubt"]), (&"APPROVED".into(), &true.into()), "{decided}");
    let (run, events) = scene.end().await?;
    assert!(text(&run).contains("The letter is on its way."), "{}", text(&run));
    assert_eq!(attempts(&events), [1, 2]);
    let issued = scene.issued();
    assert!(issued.len() == 2 && issued[0] == issued[1], "under one key: {issued:?}");
    assert!(run.epoch >= 2, "{run:?}");
    assert_eq!(reason(scene.office.decide(BOB, &approval, false).await)?, "APPROVAL_STATE", "it is settled");
    Ok(())
}

/// The gateway dies over the call. Nobody issues it again, and the model reads what the person has found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_a_dead_gateway_stays_unknown_when_a_person_says_so() -> anyhow::Result<()> {
    let mut scene = Scene::begin().await?;
    scene.office.system.kill(GATEWAY).await?;
    scene.tool_says("")?;
    let approval = scene.doubt().await?;
    scene.office.system.restart(GATEWAY).await?;
    let second = scene.office.system.replica().await?;
    scene.look_through(&second).await?;
    scene.office.system.kill(0).await?;
    assert_eq!(scene.doubt().await?, approval, "the question outlives who asked it");

    let comment = "I have seen it: the letter has arrived.";
    let request = ResolveApprovalRequest {
        request_id: request_id(),
        name: approval.name.clone(),
        call_digest: approval.call_digest.clone(),
        resolution: ApprovalState::Denied.into(),
        comment: comment.into(),
    };
    scene.office.client.grpc.clone().resolve_approval(scene.office.by(BOB, request)).await?;
    let (run, events) = scene.end().await?;
    assert!(text(&run).contains("OUTCOME_UNKNOWN") && text(&run).contains(comment), "{}", text(&run));
    assert_eq!((attempts(&events), scene.issued().len()), (vec![1], 1), "it is not issued again");
    let outcome = events.iter().find_map(|event| match event.body.as_ref()?.body.as_ref()? {
        event_leaf::Body::ToolReturned(back) => Some((back.outcome(), back.reason.clone())),
        _ => None,
    });
    assert_eq!(outcome, Some((ToolOutcome::Unknown, "OUTCOME_UNKNOWN".to_owned())));
    Ok(())
}
