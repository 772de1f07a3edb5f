//! Following runs: every event once and in order, whoever watches, however often the stream breaks.

use std::time::Duration;

use anyhow::Context as _;
use mar_proto::session::run_frame::Frame;
use mar_proto::session::session_service_client::SessionServiceClient;
use mar_proto::session::{CancelRunRequest, RunFrame, RunState, RunTaskRequest, WatchRunRequest, WatchRunResponse};
use mar_testkit::process::built_binary;
use mar_testkit::wait::until;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, task};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;

use crate::reading::{reason, seqs};

both_ways! {
    every_cursor_gives_the_rest
    a_dropped_stream_is_resumed_without_gap_or_repeat
    a_slow_watcher_slows_nobody
    a_lost_caller_cancels_only_if_asked
    a_cancelled_run_lets_the_model_go
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Six searches, each turn taking a moment, then an answer in many small pieces.
const LONG: &str = r#"
[defaults]
delay = "60ms"
[[rule]]
name = "search"
times = 6
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour of Marel" } }] }
[[rule]]
reply = { text = "That was long, and it is told in many small pieces.", chunk_size = 2, chunk_delay = "5ms" }
"#;

fn long() -> mar_proto::session::Task {
    mar_proto::session::Task { tools: task::selectors(&["docs.*"]), ..task::question("Take your time.") }
}

async fn every_cursor_gives_the_rest(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let run = client.run(task::with_sources("When does it flood?")).await?.run;
    let all = client.events(&run.name).await?;
    assert_eq!(run.next_seq, all.last().map_or(0, |event| event.seq) + 1);
    for from in 0..=run.next_seq {
        let rest = client.watch(&run.name, from).await?;
        let expected: Vec<i64> = all.iter().map(|event| event.seq).filter(|seq| *seq >= from).collect();
        assert_eq!(seqs(&rest.frames), expected, "from {from}");
        assert!(matches!(rest.frames.first().and_then(|frame| frame.frame.as_ref()), Some(Frame::Snapshot(_))));
        assert_eq!(rest.run, run);
    }
    let beyond = WatchRunRequest { name: run.name.clone(), from_seq: run.next_seq + 1, ..Default::default() };
    let refused = match client.grpc.watch_run(beyond).await {
        Ok(stream) => stream.into_inner().message().await.map(|_| ()).unwrap_err(),
        Err(status) => status,
    };
    assert!(reason(&refused).is_some(), "{refused:?}");
    Ok(())
}

/// Reads up to `count` events and drops the stream; whether the end came is told, too.
async fn read_some(
    client: &mut Client,
    name: &str,
    from_seq: i64,
    count: usize,
) -> anyhow::Result<(Vec<RunFrame>, bool)> {
    let request = WatchRunRequest { name: name.into(), from_seq, ..Default::default() };
    let mut stream = client.grpc.watch_run(request).await?.into_inner();
    let mut frames = Vec::new();
    while let Some(frame) = stream.next().await {
        let frame = frame?.frame.context("an empty frame")?;
        let ended = matches!(frame.frame, Some(Frame::End(_)));
        frames.push(frame);
        if ended {
            return Ok((frames, true));
        }
        if seqs(&frames).len() >= count {
            return Ok((frames, false));
        }
    }
    anyhow::bail!("the stream ended by itself")
}

async fn a_dropped_stream_is_resumed_without_gap_or_repeat(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(LONG)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.start(&session, long()).await?;
    let (mut seen, mut cursor, mut streams) = (Vec::new(), 0, 0);
    loop {
        let (frames, ended) = read_some(&mut client, &run.name, cursor, 2).await?;
        streams += 1;
        seen.extend(seqs(&frames));
        cursor = seen.last().map_or(0, |last| last + 1);
        if ended {
            break;
        }
    }
    let all: Vec<i64> = client.events(&run.name).await?.iter().map(|event| event.seq).collect();
    assert_eq!(seen, all);
    assert!(streams > 5, "{streams} streams");
    Ok(())
}

/// Eight large results, more than fits between session and a watcher that does not read.
fn large() -> String {
    // Each another one: an agent that asks the same again and again is halted.
    let call = |bytes: usize| {
        let call = format!(r#"{{ name = "large_huge", arguments = {{ bytes = {bytes} }} }}"#);
        format!("[[rule]]\ntimes = 1\nreply = {{ tool_calls = [{call}] }}\n")
    };
    let calls: String = (14_000..14_008).map(call).collect();
    format!("{calls}[[rule]]\nreply = {{ text = \"That was large.\" }}\n")
}

/// What a connection of the slow watcher holds, in bytes: the least that HTTP/2 has.
const WINDOW: u32 = 65_535;

async fn a_slow_watcher_slows_nobody(options: Options) -> anyhow::Result<()> {
    let upstream = format!(
        "[tool_gateway.upstreams.large]\nkind = 'mcp_stdio'\ncommand = '{}'\nargs = ['stdio', '{{folder}}']\n",
        built_binary("examples/scripted_mcp")?.display()
    );
    let system = Deployment::start(options.script(large()).extra(upstream)).await?;
    crate::mcp::listed(&system, "large.huge").await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let task = mar_proto::session::Task { tools: task::selectors(&["large.huge"]), ..task::question("Be large.") };
    let run = client.start(&session, task).await?;
    // This one reads nothing until the run has ended.
    let endpoint = tonic::transport::Endpoint::from_shared(system.endpoint(0))?;
    let narrow = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW).connect().await?;
    let request = WatchRunRequest { name: run.name.clone(), ..Default::default() };
    let slow = SessionServiceClient::new(narrow).watch_run(request).await?.into_inner();
    let mut watchers = JoinSet::new();
    for _ in 0..24 {
        let (mut client, name) = (system.client().await?, run.name.clone());
        watchers.spawn(async move { client.watch(&name, 0).await });
    }
    let mut told = Vec::new();
    while let Some(followed) = watchers.join_next().await {
        let followed = followed??;
        assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}", followed.run);
        told.push(seqs(&followed.frames));
    }
    let all: Vec<i64> = client.events(&run.name).await?.iter().map(|event| event.seq).collect();
    assert!(told.iter().all(|seqs| *seqs == all), "every watcher gets every event");
    let frames: Vec<WatchRunResponse> = slow.collect::<Vec<_>>().await.into_iter().collect::<Result<_, _>>()?;
    let frames: Vec<RunFrame> = frames.into_iter().filter_map(|frame| frame.frame).collect();
    let bytes: usize = frames.iter().map(prost::Message::encoded_len).sum();
    assert!(bytes > usize::try_from(WINDOW)?, "{bytes} bytes could all have been on their way");
    assert_eq!(seqs(&frames), all, "the slow one gets them when it reads");
    assert!(matches!(frames.last().and_then(|frame| frame.frame.as_ref()), Some(Frame::End(_))));
    Ok(())
}

/// Starts a task whose caller leaves once the model is at work, and answers the run's name.
async fn abandon(system: &Deployment, session: &str, cancel_on_disconnect: bool) -> anyhow::Result<String> {
    let before = system.rehearsal.request_count();
    // A connection of its own, which is closed with the client.
    let mut client = system.client().await?;
    let request = RunTaskRequest {
        request_id: request_id(),
        session: session.into(),
        task: Some(task::question("Take your time.")),
        cancel_on_disconnect,
        ..RunTaskRequest::default()
    };
    let mut stream = client.grpc.run_task(request).await?.into_inner();
    let first = stream.next().await.context("no frame")??.frame.and_then(|frame| frame.frame);
    let Some(Frame::Snapshot(snapshot)) = first else { anyhow::bail!("no snapshot first: {first:?}") };
    until(PATIENCE, || async { system.rehearsal.request_count() > before }).await?;
    Ok(snapshot.run.context("a snapshot without a run")?.name)
}

async fn a_lost_caller_cancels_only_if_asked(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script("[[rule]]\nreply = { text = 'Done.', delay = '2s' }")).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let kept = abandon(&system, &session, false).await?;
    assert_eq!(client.watch(&kept, 0).await?.run.state(), RunState::Succeeded);
    let given_up = abandon(&system, &session, true).await?;
    let followed = client.watch(&given_up, 0).await?;
    assert_eq!(followed.run.state(), RunState::Cancelled, "{:?}", followed.story());
    assert!(followed.story().contains(&"StopRequested"));
    assert!(followed.run.seal.is_some());
    Ok(())
}

async fn a_cancelled_run_lets_the_model_go(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script("[[rule]]\nreply = { hang = true }")).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.start(&session, task::question("Hang.")).await?;
    until(PATIENCE, || async { system.rehearsal.in_flight() == 1 }).await?;
    let request = CancelRunRequest { request_id: request_id(), name: run.name.clone() };
    client.grpc.cancel_run(request).await?;
    let followed = client.watch(&run.name, 0).await?;
    assert_eq!(followed.run.state(), RunState::Cancelled, "{:?}", followed.story());
    until(PATIENCE, || async { system.rehearsal.in_flight() == 0 }).await?;
    assert_eq!(system.rehearsal.abandoned(), 1);
    Ok(())
}
