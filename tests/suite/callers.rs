//! Tools that the caller executes, and questions that an agent asks it.

use anyhow::{Context as _, ensure};
use mar_proto::session::event_leaf::Body;
use mar_proto::session::*;
use mar_proto::types::{Media, Origin, Part, Passage, ToolResult, media::Source, part::Content};
use mar_tests::client::{name_of, request_id};
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};
use tonic::Status;
use tonic_types::StatusExt as _;

both_ways! {
    a_caller_makes_a_call_and_the_run_goes_on
    what_does_not_fit_is_refused_and_the_call_waits_on
    an_agent_asks_its_caller
    a_call_waits_for_its_caller_whatever_dies
    policies_bind_the_callers_tools
    one_of_two_results_counts
    a_fork_has_what_the_caller_brought_and_said
}

const SCRIPT: &str = r#"
[[rule]]
match = { tool_result_contains = "no such file" }
reply = { text = "It is gone." }
[[rule]]
match = { last_role = "tool" }
reply = { from_tool_result = "It says: {{last_tool_result}}" }
[[rule]]
match = { contains = "Ask me" }
reply = { tool_calls = [{ name = "caller_ask", arguments = { question = "Which colour?" } }] }
[[rule]]
reply = { tool_calls = [{ name = "caller_open_file", arguments = { path = "src/main.rs" } }] }
"#;

fn text(words: &str) -> Part {
    Part { content: Some(Content::Text(words.into())), ..Part::default() }
}

/// A task whose caller opens files.
fn editing() -> Task {
    let open = CallerTool {
        name: "open_file".into(),
        description: "Opens a file in the editor and gives its first line.".into(),
        input_schema_json: r#"{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}"#.into(),
        output_schema_json: r#"{"type":"object","properties":{"line":{"type":"string"}},"required":["line"]}"#.into(),
        ..CallerTool::default()
    };
    Task { caller_tools: vec![open], ..task::question("What is in it?") }
}

struct Bench {
    system: Deployment,
    client: Client,
}

impl Bench {
    async fn open(options: Options) -> anyhow::Result<Self> {
        let system = Deployment::start(options.script(SCRIPT)).await?;
        let client = system.client().await?;
        Ok(Self { system, client })
    }

    /// A run that waits for its caller, and the call that it waits with.
    async fn waiting(&mut self, task: Task, reason: WaitReason) -> anyhow::Result<(Run, HeldCall)> {
        let session = self.client.session().await?;
        let run = self.client.start(&session, task).await?;
        let parked = |run: &Run| run.wait_reason() == reason || run.seal.is_some();
        let run = self.client.until(&run.name, parked).await?;
        let held = run.held_calls.first().cloned();
        let log = || format!("{run:#?}\n{}", self.system.log().join("\n"));
        let held = held.with_context(log)?;
        Ok((run, held))
    }

    /// What the model was told last.
    fn told(&self) -> String {
        let requests = self.system.rehearsal.requests();
        requests.last().map(|request| request.body["messages"].to_string()).unwrap_or_default()
    }
}

fn result(held: &HeldCall, content: Vec<Part>) -> ToolResult {
    ToolResult { call_id: held.call_id.clone(), content, ..ToolResult::default() }
}

fn line(held: &HeldCall, words: &str) -> ToolResult {
    result(held, vec![text(&serde_json::json!({ "line": words }).to_string())])
}

async fn submit(client: &Client, run: &str, result: ToolResult) -> Result<Run, Status> {
    submit_as(client, run, result, &request_id()).await
}

async fn submit_as(client: &Client, run: &str, result: ToolResult, id: &str) -> Result<Run, Status> {
    let request = SubmitToolResultRequest { request_id: id.into(), run: run.into(), result: Some(result) };
    Ok(client.grpc.clone().submit_tool_result(request).await?.into_inner().run.unwrap_or_default())
}

async fn answer(client: &Client, run: &str, call_id: &str, input: Vec<Part>) -> Result<Run, Status> {
    let request = SubmitInputRequest { request_id: request_id(), run: run.into(), input, call_id: call_id.into() };
    Ok(client.grpc.clone().submit_input(request).await?.into_inner().run.unwrap_or_default())
}

fn reason(refused: Result<Run, Status>) -> anyhow::Result<String> {
    let status = refused.err().context("it was let through")?;
    Ok(status.get_details_error_info().context("no reason")?.reason)
}

fn fields(refused: Result<Run, Status>) -> anyhow::Result<Vec<String>> {
    let status = refused.err().context("it was let through")?;
    let found = status.get_details_bad_request().context("no fields")?;
    Ok(found.field_violations.into_iter().map(|violation| violation.field).collect())
}

/// The one event of a run that closes a call.
async fn returned(client: &mut Client, run: &str) -> anyhow::Result<(ToolReturned, EventLeaf, EventContent)> {
    let events = client.events(run).await?;
    let mut found = events.into_iter().filter_map(|event| match event.body.as_ref()?.body.clone()? {
        Body::ToolReturned(back) => Some((back, event.body?, event.content.unwrap_or_default())),
        _ => None,
    });
    let one = found.next().context("no call came back")?;
    ensure!(found.next().is_none(), "more than one came back");
    Ok(one)
}

async fn a_caller_makes_a_call_and_the_run_goes_on(options: Options) -> anyhow::Result<()> {
    let mut bench = Bench::open(options).await?;
    let (run, held) = bench.waiting(editing(), WaitReason::ToolResult).await?;
    assert_eq!(run.held_calls.len(), 1);
    assert_eq!((held.tool.as_str(), held.wait_reason()), ("tools/caller.open_file", WaitReason::ToolResult));
    assert_eq!(held.arguments_json, r#"{"path":"src/main.rs"}"#, "the exact call");
    let story: Vec<_> = bench.client.events(&run.name).await?.iter().map(name_of).collect();
    assert_eq!(story[story.len() - 3..], ["ToolIntent", "CallHandedOver", "RunWaiting"]);

    let id = request_id();
    let given = line(&held, "fn main() {}");
    submit_as(&bench.client, &run.name, given.clone(), &id).await?;
    let ended = bench.client.until(&run.name, |run| run.seal.is_some()).await?;
    assert_eq!(ended.state(), RunState::Succeeded, "{ended:?}");
    let said = bench.told();
    assert!(said.contains("fn main() {}"), "{said}");
    assert_eq!(ended.totals.context("no totals")?.tool_calls, 1);

    let (back, leaf, content) = returned(&mut bench.client, &run.name).await?;
    assert_eq!(back.outcome(), ToolOutcome::Ok);
    assert!(!leaf.command_id.is_empty() && !content.principal.is_empty(), "who brought it is in the log");
    assert!(content.decision_json.contains("result_decision"), "{}", content.decision_json);
    let result = content.tool_result.context("no result")?;
    assert!(result.content.iter().all(|part| part.tainted && part.origin() == Origin::Tool), "{result:?}");

    // The same request again changes nothing; another one comes too late.
    submit_as(&bench.client, &run.name, given.clone(), &id).await?;
    assert_eq!(reason(submit_as(&bench.client, &run.name, line(&held, "other"), &id).await)?, "REQUEST_ID_REUSED");
    assert_eq!(reason(submit(&bench.client, &run.name, given).await)?, "RUN_STATE");
    assert_eq!(bench.client.get(&run.name).await?, ended);
    let request = VerifyRunRequest { name: run.name.clone() };
    let verified = bench.client.grpc.clone().verify_run(request).await?.into_inner();
    assert!(verified.valid && verified.sealed, "{verified:?}");
    Ok(())
}

/// The end of a fork of a run, from its question on.
async fn forked(client: &mut Client, name: &str) -> anyhow::Result<Run> {
    let request = ForkRunRequest { request_id: request_id(), name: name.into(), ..Default::default() };
    let fork = client.grpc.fork_run(request).await?.into_inner().run.context("no fork")?;
    client.until(&fork.name, |run| run.seal.is_some() || !run.held_calls.is_empty()).await
}

async fn a_fork_has_what_the_caller_brought_and_said(options: Options) -> anyhow::Result<()> {
    let mut bench = Bench::open(options).await?;
    let (brought, held) = bench.waiting(editing(), WaitReason::ToolResult).await?;
    submit(&bench.client, &brought.name, line(&held, "fn main() {}")).await?;
    let asking = Task { may_ask: true, ..task::question("Ask me something.") };
    let (said, held) = bench.waiting(asking, WaitReason::Input).await?;
    answer(&bench.client, &said.name, &held.call_id, vec![text("Green.")]).await?;
    for (origin, words) in [(brought, "fn main() {}"), (said, "Green.")] {
        let first = bench.client.until(&origin.name, |run| run.seal.is_some()).await?;
        let fork = forked(&mut bench.client, &origin.name).await?;
        assert_eq!(fork.state(), RunState::Succeeded, "{fork:#?}");
        assert!(bench.told().contains(words), "{}", bench.told());
        assert_eq!(fork.answer.map(|answer| answer.parts), first.answer.map(|answer| answer.parts));
        let (back, _, content) = returned(&mut bench.client, &fork.name).await?;
        let (_, _, was) = returned(&mut bench.client, &first.name).await?;
        let parts = |content: EventContent| content.tool_result.map(|result| result.content);
        assert_eq!(parts(content), parts(was), "who said it says it still");
        assert!(back.recorded_seq.is_some(), "{back:?}");
        let story: Vec<_> = bench.client.events(&fork.name).await?.iter().map(name_of).collect();
        assert!(!story.contains(&"CallHandedOver") && !story.contains(&"RunWaiting"), "{story:?}");
    }
    Ok(())
}

async fn what_does_not_fit_is_refused_and_the_call_waits_on(options: Options) -> anyhow::Result<()> {
    let mut bench = Bench::open(options).await?;
    let (run, held) = bench.waiting(editing(), WaitReason::ToolResult).await?;
    let (client, name) = (bench.client.clone(), run.name.as_str());

    let unfit = submit(&client, name, result(&held, vec![text(r#"{"lines": 3}"#)])).await;
    assert_eq!(fields(unfit)?, ["result.content[0].text"]);
    for form in [vec![], vec![text("fn main() {}")], vec![text("{}"), text("{}")]] {
        assert_eq!(fields(submit(&client, name, result(&held, form)).await)?, ["result.content"]);
    }
    let large = text(&format!(r#"{{"line": "{}"}}"#, "x".repeat(2 << 20)));
    assert_eq!(fields(submit(&client, name, result(&held, vec![large])).await)?, ["result.content"]);
    let blob = Media { media_type: "image/png".into(), source: Some(Source::Blob("sessions/x".into())), size_bytes: 0 };
    let odd = ToolResult {
        call_id: String::new(),
        content: vec![Part::default(), Part { content: Some(Content::Media(blob)), ..Part::default() }],
        passages: vec![Passage::default()],
        ..ToolResult::default()
    };
    let found = fields(submit_as(&client, "runs/1", odd, "").await)?;
    assert_eq!(
        found,
        ["request_id", "run", "result.call_id", "result.content[0]", "result.content[1]", "result.passages[0]"]
    );

    let other = HeldCall { call_id: held.call_id.replace("/1/0", "/1/1"), ..held.clone() };
    assert_eq!(reason(submit(&client, name, line(&other, "x")).await)?, "CALL_STATE");
    assert_eq!(reason(answer(&client, name, "", vec![text("red")]).await)?, "CALL_STATE", "it waits for no input");
    let nowhere = name.replace("/runs/0", "/runs/1");
    assert_eq!(reason(submit(&client, &nowhere, line(&held, "x")).await)?, "NOT_FOUND");
    let now = bench.client.get(name).await?;
    assert_eq!((now.wait_reason(), now.held_calls.len()), (WaitReason::ToolResult, 1), "it still waits");

    // A failure needs no form, and what is too long is cut.
    let failure = ToolResult { is_error: true, ..result(&held, vec![text(&"no such file ".repeat(8_000))]) };
    submit(&client, name, failure).await?;
    let ended = bench.client.until(name, |run| run.seal.is_some()).await?;
    assert_eq!(ended.state(), RunState::Succeeded, "{ended:?}");
    let (back, _, content) = returned(&mut bench.client, name).await?;
    assert_eq!((back.outcome(), back.size_bytes), (ToolOutcome::Error, 104_000));
    let result = content.tool_result.context("no result")?;
    assert!(result.truncated && prost::Message::encoded_len(&result) < 70_000);
    Ok(())
}

async fn an_agent_asks_its_caller(options: Options) -> anyhow::Result<()> {
    let mut bench = Bench::open(options).await?;
    // Without leave there is no such tool.
    let plain = bench.client.run(task::question("Ask me something.")).await?;
    assert!(!plain.story().contains(&"CallHandedOver"), "{:?}", plain.story());

    let asking = Task { may_ask: true, ..task::question("Ask me something.") };
    let (run, held) = bench.waiting(asking, WaitReason::Input).await?;
    assert_eq!((held.tool.as_str(), held.wait_reason()), ("tools/caller.ask", WaitReason::Input));
    assert_eq!(held.arguments_json, r#"{"question":"Which colour?"}"#);
    assert_eq!(fields(answer(&bench.client, &run.name, "", Vec::new()).await)?, ["input"]);
    assert_eq!(reason(answer(&bench.client, &run.name, "x/1/0", vec![text("red")]).await)?, "CALL_STATE");
    assert_eq!(reason(submit(&bench.client, &run.name, result(&held, vec![text("red")])).await)?, "CALL_STATE");
    let boast = Part { origin: Origin::Platform.into(), tainted: true, ..text("The red one.") };
    answer(&bench.client, &run.name, "", vec![boast]).await?;
    let ended = bench.client.until(&run.name, |run| run.seal.is_some()).await?;
    assert_eq!(ended.state(), RunState::Succeeded, "{ended:?}");
    assert!(bench.told().contains("The red one."));
    let (_, _, content) = returned(&mut bench.client, &run.name).await?;
    let part = content.tool_result.context("no result")?.content.remove(0);
    assert_eq!((part.origin(), part.tainted), (Origin::Caller, false), "the caller's word, whatever it says of itself");
    assert!(!content.principal.is_empty());
    Ok(())
}

async fn a_call_waits_for_its_caller_whatever_dies(options: Options) -> anyhow::Result<()> {
    let mut bench = Bench::open(options).await?;
    let (run, held) = bench.waiting(editing(), WaitReason::ToolResult).await?;
    bench.system.kill(0).await?;
    bench.system.restart(0).await?;
    bench.client = bench.system.client().await?;
    let now = bench.client.get(&run.name).await?;
    assert_eq!(now.held_calls, run.held_calls, "the exact call, also without the process");
    submit(&bench.client, &run.name, line(&held, "fn main() {}")).await?;
    let ended = bench.client.until(&run.name, |run| run.seal.is_some()).await?;
    assert_eq!(ended.state(), RunState::Succeeded, "{ended:?}");
    assert_eq!(ended.totals.context("no totals")?.tool_calls, 1);
    returned(&mut bench.client, &run.name).await?;
    Ok(())
}

async fn policies_bind_the_callers_tools(options: Options) -> anyhow::Result<()> {
    let mut bench = Bench::open(options).await?;
    let under =
        |rule: &str| Task { alignment_policy: format!("permit (principal, action, resource);\n{rule}"), ..editing() };
    let call = "@id(\"no\") @message(\"Not from here.\") forbid (principal, action == Action::\"callTool\", resource) \
                when { resource.upstream == \"caller\" };";
    let denied = bench.client.run(under(call)).await?;
    assert!(!denied.story().contains(&"CallHandedOver"), "{:?}", denied.story());
    assert!(bench.told().contains("POLICY_DENIED") && bench.told().contains("Not from here."));

    let receive = "@id(\"no\") forbid (principal, action == Action::\"receiveResult\", resource) \
                   when { resource.upstream == \"caller\" };";
    let (run, held) = bench.waiting(under(receive), WaitReason::ToolResult).await?;
    submit(&bench.client, &run.name, line(&held, "a secret")).await?;
    bench.client.until(&run.name, |run| run.seal.is_some()).await?;
    assert!(bench.told().contains("POLICY_DENIED") && !bench.told().contains("a secret"), "{}", bench.told());

    let list = "@id(\"no\") forbid (principal, action == Action::\"listTool\", resource);";
    let refused = bench.client.run(under(list)).await?;
    assert_eq!(refused.run.state(), RunState::Denied, "a tool that the task names is not silently left out");
    Ok(())
}

async fn one_of_two_results_counts(options: Options) -> anyhow::Result<()> {
    let mut bench = Bench::open(options).await?;
    let (run, held) = bench.waiting(editing(), WaitReason::ToolResult).await?;
    let client = bench.client.clone();
    let both = [line(&held, "the first"), line(&held, "the second")];
    let (one, two) =
        tokio::join!(submit(&client, &run.name, both[0].clone()), submit(&client, &run.name, both[1].clone()));
    ensure!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let (taken, refused) = if one.is_ok() { ("the first", two) } else { ("the second", one) };
    let why = reason(refused)?;
    ensure!(why == "CALL_STATE" || why == "RUN_STATE", "{why}");
    bench.client.until(&run.name, |run| run.seal.is_some()).await?;
    let (_, _, content) = returned(&mut bench.client, &run.name).await?;
    assert!(format!("{:?}", content.tool_result).contains(taken));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_takes_what_a_caller_brings() -> anyhow::Result<()> {
    let mut bench = Bench::open(Options::new(Shape::Four, Stores::Servers)).await?;
    let other = bench.system.replica().await?;
    let mut there = other.client().await?;
    let (run, held) = bench.waiting(editing(), WaitReason::ToolResult).await?;
    bench.system.kill(0).await?;
    assert_eq!(there.get(&run.name).await?.held_calls, run.held_calls);
    submit(&there, &run.name, line(&held, "fn main() {}")).await?;
    let ended = there.watch(&run.name, 0).await?;
    assert_eq!(ended.run.state(), RunState::Succeeded, "{:?}", ended.run);
    let seqs: Vec<i64> = ended.events().iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (0..ended.run.next_seq).collect::<Vec<_>>());
    returned(&mut there, &run.name).await?;
    Ok(())
}
