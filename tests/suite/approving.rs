//! Calls that wait for people.

use std::fmt::Write as _;

use anyhow::Context as _;
use mar_proto::session::*;
use mar_runtime::auth::api_key;
use mar_runtime::clock::{Clock as _, SystemClock, SystemIds};
use mar_testkit::process::built_binary;
use mar_tests::client::{name_of, request_id};
use mar_tests::{Client, Deployment, Options, task};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

both_ways! {
    two_of_a_group_let_a_call_happen_once
    one_refusal_is_told_to_the_model
    a_question_that_nobody_waits_for_is_closed
    who_wants_a_call_does_not_decide_on_it
    a_fork_of_an_approved_call_asks_nobody_and_sends_nothing
}

const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { text = "So it went." }
[[rule]]
reply = { tool_calls = [{ name = "mail_count", arguments = {} }] }
"#;

/// A system whose callers are ada (who wants things), bob and cid (of the office), and dan (of no group).
pub(crate) struct Office {
    pub system: Deployment,
    pub client: Client,
    pub keys: Vec<AsciiMetadataValue>,
}

impl Office {
    async fn open(options: Options) -> anyhow::Result<Self> {
        Self::with_mail(options.script(SCRIPT), "").await
    }

    /// `declared` is what the operator says besides of the upstream `mail`.
    pub async fn with_mail(options: Options, declared: &str) -> anyhow::Result<Self> {
        let mut toml = "[runtime.auth]\nmode = 'api_keys'\n".to_owned();
        let mut keys = Vec::new();
        for (name, groups, scopes) in [
            ("ada", "['office']", "['*']"),
            ("bob", "['office']", "['approvals.decide', 'sessions.read']"),
            ("cid", "['office', 'others']", "['approvals.decide', 'sessions.read']"),
            ("dan", "[]", "['approvals.decide', 'sessions.read']"),
            ("eve", "['office']", "['sessions.read']"),
        ] {
            let (key, sha256) = api_key::generate(name, &SystemIds);
            keys.push(format!("Bearer {key}").parse()?);
            writeln!(
                toml,
                "[[runtime.auth.api_keys]]\nid = '{name}'\nsha256 = '{sha256}'\ntenant = 'acme'\nprincipal = 'user:{name}'\n\
                 environment = 'dev'\ngroups = {groups}\nscopes = {scopes}"
            )?;
        }
        let server = built_binary("examples/scripted_mcp")?.display().to_string();
        writeln!(
            toml,
            "[tool_gateway.upstreams.mail]\nkind = 'mcp_stdio'\ncommand = '{server}'\nargs = ['stdio', 'mail']\n{declared}"
        )?;
        let mut system = Deployment::prepare(options.extra(toml)).await?;
        std::fs::create_dir(system.folder().join("mail"))?;
        system.start_all().await?;
        let client = system.client().await?;
        Ok(Self { system, client, keys })
    }

    pub fn by<T>(&self, who: usize, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.keys[who].clone());
        request
    }

    /// Ada asks for a call, under a policy that wants `asked` of the office to agree.
    async fn ask(&self, asked: &str) -> anyhow::Result<(String, Approval)> {
        let mut grpc = self.client.grpc.clone();
        let start = StartSessionRequest { request_id: request_id(), session: None };
        let session = grpc.start_session(self.by(0, start)).await?.into_inner().session.context("no session")?.name;
        let task = Task {
            tools: task::selectors(&["mail.count"]),
            alignment_policy: format!(
                "@id(\"mail\") @verdict(\"require_approval\") {asked} @message(\"Mail leaves the house.\") \
                 permit (principal, action == Action::\"callTool\", resource);\n\
                 @id(\"rest\") permit (principal, action in [Action::\"listTool\", Action::\"selectModel\", \
                 Action::\"shapePrompt\", Action::\"receiveResult\"], resource);"
            ),
            ..task::question("Send it.")
        };
        let request = StartRunRequest { request_id: request_id(), session, task: Some(task), ..Default::default() };
        let run = grpc.start_run(self.by(0, request)).await?.into_inner().run.context("no run")?.name;
        let waiting = self.until(&run, |run| run.wait_reason() == WaitReason::Approval || run.seal.is_some()).await?;
        let held =
            waiting.held_calls.first().with_context(|| format!("{waiting:#?}\n{}", self.system.log().join("\n")))?;
        let list = ListApprovalsRequest {
            parent: "sessions/-".into(),
            state: ApprovalState::Pending.into(),
            ..Default::default()
        };
        let approvals = grpc.list_approvals(self.by(1, list)).await?.into_inner().approvals;
        let approval = approvals.into_iter().find(|approval| approval.name == held.approval).context("not listed")?;
        Ok((run, approval))
    }

    pub async fn until(&self, run: &str, wanted: impl Fn(&Run) -> bool) -> anyhow::Result<Run> {
        for _ in 0..600 {
            let request = self.by(0, GetRunRequest { name: run.into() });
            let now = self.client.grpc.clone().get_run(request).await?.into_inner().run.context("no run")?;
            if wanted(&now) {
                return Ok(now);
            }
            SystemClock::new().sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::bail!("{run} is never as wanted")
    }

    pub async fn decide(&self, who: usize, approval: &Approval, approved: bool) -> Result<Approval, Status> {
        let resolution = if approved { ApprovalState::Approved } else { ApprovalState::Denied };
        let request = ResolveApprovalRequest {
            request_id: request_id(),
            name: approval.name.clone(),
            call_digest: approval.call_digest.clone(),
            resolution: resolution.into(),
            comment: "as agreed".into(),
        };
        let response = self.client.grpc.clone().resolve_approval(self.by(who, request)).await?;
        Ok(response.into_inner().approval.unwrap_or_default())
    }

    pub async fn story(&self, run: &str) -> anyhow::Result<Vec<&'static str>> {
        let request = ListEventsRequest { parent: run.into(), page_size: 500, ..Default::default() };
        let events = self.client.grpc.clone().list_events(self.by(0, request)).await?.into_inner().events;
        Ok(events.iter().map(name_of).collect())
    }

    /// How often mail was sent.
    fn sent(&self) -> usize {
        let journal = std::fs::read_to_string(self.system.folder().join("mail/journal")).unwrap_or_default();
        journal.lines().filter(|line| line.starts_with("count ")).count()
    }
}

pub(crate) fn reason(refused: Result<Approval, Status>) -> anyhow::Result<String> {
    let status = refused.err().context("it was let through")?;
    Ok(status.get_details_error_info().context("no reason")?.reason)
}

const TWO: &str = "@approvers(\"office\") @approvals(\"2\") @expires(\"1h\")";

async fn two_of_a_group_let_a_call_happen_once(options: Options) -> anyhow::Result<()> {
    let mut office = Office::open(options).await?;
    let (run, approval) = office.ask(TWO).await?;
    assert_eq!((approval.group.as_str(), approval.needed, approval.tool.as_str()), ("office", 2, "tools/mail.count"));
    assert_eq!((approval.reason.as_str(), approval.arguments_json.as_str()), ("Mail leaves the house.", "{}"));
    let first = office.decide(1, &approval, true).await?;
    assert_eq!((first.state(), first.decisions.len()), (ApprovalState::Pending, 1));
    assert_eq!(first.decisions[0].principal, "user:bob");
    assert_eq!(reason(office.decide(1, &approval, true).await)?, "APPROVAL_STATE", "nobody counts twice");
    assert_eq!(office.sent(), 0);

    // It waits as long as it takes, also without the process.
    office.system.kill(0).await?;
    office.system.restart(0).await?;
    office.client = office.system.client().await?;
    let second = office.decide(2, &approval, true).await?;
    assert_eq!(second.state(), ApprovalState::Approved);
    let ended = office.until(&run, |run| run.seal.is_some()).await?;
    assert_eq!(ended.state(), RunState::Succeeded, "{:?}", office.story(&run).await?);
    assert_eq!(office.sent(), 1);
    let story = office.story(&run).await?;
    let count = |wanted: &str| story.iter().filter(|name| **name == wanted).count();
    assert_eq!((count("ApprovalRequested"), count("ApprovalDecided"), count("ToolIntent")), (1, 2, 2), "{story:?}");
    assert_eq!(ended.totals.unwrap_or_default().tool_calls, 1);
    assert_eq!(reason(office.decide(2, &approval, false).await)?, "APPROVAL_STATE", "it is over");
    Ok(())
}

async fn a_fork_of_an_approved_call_asks_nobody_and_sends_nothing(options: Options) -> anyhow::Result<()> {
    let office = Office::open(options).await?;
    let (approved, first) = office.ask("@approvers(\"office\")").await?;
    office.decide(1, &first, true).await?;
    let (refused, second) = office.ask("@approvers(\"office\")").await?;
    office.decide(1, &second, false).await?;
    for (origin, outcome) in [(approved, ToolOutcome::Ok), (refused, ToolOutcome::Denied)] {
        office.until(&origin, |run| run.seal.is_some()).await?;
        let request = ForkRunRequest { request_id: request_id(), name: origin.clone(), ..Default::default() };
        let fork = office.client.grpc.clone().fork_run(office.by(0, request)).await?.into_inner().run;
        let fork = fork.context("no fork")?.name;
        let ended = office.until(&fork, |run| run.seal.is_some()).await?;
        let story = office.story(&fork).await?;
        assert_eq!((ended.state(), office.sent()), (RunState::Succeeded, 1), "{story:?}");
        assert!(!story.contains(&"ApprovalRequested") && !story.contains(&"RunWaiting"), "{story:?}");
        let request = ListEventsRequest { parent: fork.clone(), page_size: 500, ..Default::default() };
        let events = office.client.grpc.clone().list_events(office.by(0, request)).await?.into_inner().events;
        let back = events.iter().find_map(|event| match event.body.as_ref()?.body.as_ref()? {
            event_leaf::Body::ToolReturned(back) => Some(back),
            _ => None,
        });
        let back = back.context("nothing came back")?;
        assert_eq!((back.outcome(), back.recorded_seq.is_some()), (outcome, true), "{back:?}");
    }
    Ok(())
}

async fn one_refusal_is_told_to_the_model(options: Options) -> anyhow::Result<()> {
    let office = Office::open(options).await?;
    let (run, approval) = office.ask(TWO).await?;
    let denied = office.decide(2, &approval, false).await?;
    assert_eq!(denied.state(), ApprovalState::Denied);
    let ended = office.until(&run, |run| run.seal.is_some()).await?;
    assert_eq!((ended.state(), office.sent()), (RunState::Succeeded, 0));
    let told = office.system.rehearsal.requests().last().map(|request| request.body["messages"].to_string());
    assert!(
        told.as_ref().is_some_and(|told| told.contains("APPROVAL_DENIED") && told.contains("as agreed")),
        "{told:?}"
    );
    Ok(())
}

async fn a_question_that_nobody_waits_for_is_closed(options: Options) -> anyhow::Result<()> {
    let office = Office::open(options).await?;
    let (run, approval) = office.ask("@expires(\"1m\")").await?;
    assert_eq!((approval.needed, approval.group.as_str()), (1, ""));
    let cancel = CancelRunRequest { name: run.clone(), ..Default::default() };
    office.client.grpc.clone().cancel_run(office.by(0, cancel)).await?;
    let ended = office.until(&run, |run| run.seal.is_some()).await?;
    assert_eq!((ended.state(), office.sent()), (RunState::Cancelled, 0));
    assert_eq!(reason(office.decide(1, &approval, true).await)?, "APPROVAL_STATE");
    let list = ListApprovalsRequest { parent: run, ..Default::default() };
    let listed = office.client.grpc.clone().list_approvals(office.by(1, list)).await?.into_inner().approvals;
    assert_eq!(listed[0].state(), ApprovalState::Expired, "a question that nobody waits for is closed");
    Ok(())
}

async fn who_wants_a_call_does_not_decide_on_it(options: Options) -> anyhow::Result<()> {
    let office = Office::open(options).await?;
    let (_, approval) = office.ask(TWO).await?;
    assert_eq!(reason(office.decide(0, &approval, true).await)?, "APPROVAL_NOT_ALLOWED", "the requester");
    assert_eq!(reason(office.decide(3, &approval, true).await)?, "APPROVAL_NOT_ALLOWED", "not of the group");
    assert_eq!(reason(office.decide(4, &approval, true).await)?, "SCOPE_MISSING");
    let other = Approval { call_digest: format!("sha256:{}", "0".repeat(64)), ..approval.clone() };
    assert_eq!(reason(office.decide(1, &other, true).await)?, "APPROVAL_STATE", "what was looked at is another call");
    let nowhere = Approval { name: approval.name.replace("/approvals/", "/approvals/9"), ..approval.clone() };
    assert_eq!(reason(office.decide(1, &nowhere, true).await)?, "NOT_FOUND");
    let nameless = Approval { name: "approvals/1".into(), call_digest: String::new(), ..approval };
    let refused = office.decide(1, &nameless, true).await.err().context("it was let through")?;
    let fields = refused.get_details_bad_request().context("no fields")?.field_violations;
    let fields: Vec<&str> = fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["name", "call_digest"]);
    Ok(())
}
