//! Cancelled runs and ended sessions.

use std::path::Path;

use mar_proto::session::*;
use mar_testkit::process::built_binary;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};
use tonic::Code;

use crate::refused::Refused;
use crate::story::{bodies, end, is_over, names, returns, until, when};

const SCRIPT: &str = r#"
[[rule]]
match = { contains = "[call]" }
reply = { tool_calls = [{ name = "s_slow", arguments = { ms = 60000 } }] }
[[rule]]
match = { contains = "[hang]" }
reply = { text = "I begin and then", chunk_size = 4, hang_after = 3 }
[[rule]]
reply = { text = "Fine." }
"#;

async fn system(folder: &Path, shape: Shape) -> anyhow::Result<Deployment> {
    let server = built_binary("examples/scripted_mcp")?.display().to_string();
    let folder = folder.display();
    let extra = format!(
        "[tool_gateway.upstreams.s]\nkind = \"mcp_stdio\"\ncommand = \"{server}\"\nargs = [\"stdio\", \"{folder}\"]\n"
    );
    let system = Deployment::start(Options::new(shape, Stores::Embedded).script(SCRIPT).extra(extra)).await?;
    system.wait_for_tools(&["s"]).await?;
    Ok(system)
}

async fn cancel(client: &mut Client, name: &str) -> anyhow::Result<Run> {
    let request = CancelRunRequest { name: name.into(), ..Default::default() };
    Ok(client.grpc.cancel_run(request).await?.into_inner().run.unwrap_or_default())
}

fn calling() -> Task {
    Task { tools: task::selectors(&["s.*"]), ..task::question("[call]") }
}

async fn stops_what_is_in_flight(shape: Shape) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let system = system(folder.path(), shape).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;

    // A model.
    let run = client.start(&session, task::question("[hang]")).await?;
    when(|| async { system.rehearsal.in_flight() == 1 }).await?;
    let stopping = cancel(&mut client, &run.name).await?;
    assert_eq!(stopping.name, run.name);
    cancel(&mut client, &run.name).await?;
    let run = until(&client, &run.name, |run| is_over(run) && run.seal.is_some()).await?;
    assert_eq!(end(&run), "CANCELLED CANCELLED_BY_CALLER");
    when(|| async { system.rehearsal.in_flight() == 0 }).await?;
    assert_eq!(system.rehearsal.abandoned(), 1, "the provider's connection is closed");
    let events = client.events(&run.name).await?;
    let story = names(&events);
    let stops = story.iter().filter(|name| **name == "StopRequested").count();
    assert_eq!((stops, story.last()), (1, Some(&"RunEnded")), "{story:?}");
    let usage = run.totals.unwrap_or_default().usage.unwrap_or_default();
    assert!(usage.estimated && usage.output_tokens > 0, "what was written counts: {usage:?}");
    // A third time, after the end: it stays as it is.
    let after = cancel(&mut client, &run.name).await?;
    assert_eq!((after.state, after.next_seq, after.seal), (run.state, run.next_seq, run.seal.clone()));

    // A tool call.
    let run = client.start(&session, calling()).await?;
    let journal = folder.path().join("journal");
    let line =
        |word: &str| std::fs::read_to_string(&journal).unwrap_or_default().lines().any(|line| line.starts_with(word));
    when(|| async { line("slow ") }).await?;
    cancel(&mut client, &run.name).await?;
    let run = until(&client, &run.name, is_over).await?;
    assert_eq!(end(&run), "CANCELLED CANCELLED_BY_CALLER");
    when(|| async { line("cancelled ") }).await?;
    let found = returns(&bodies(&client.events(&run.name).await?));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0.as_str(), found[0].1.as_str()), ("UNKNOWN", "OUTCOME_UNKNOWN"));

    // A run that has succeeded stays so.
    let done = client.run_in(&session, task::question("plain")).await?.run;
    assert_eq!(end(&cancel(&mut client, &done.name).await?), "SUCCEEDED");
    assert_eq!(client.get(&done.name).await?.next_seq, done.next_seq);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_stops_what_is_in_flight_in_one_process() -> anyhow::Result<()> {
    stops_what_is_in_flight(Shape::One).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_stops_what_is_in_flight_in_four_processes() -> anyhow::Result<()> {
    stops_what_is_in_flight(Shape::Four).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_session_ends_its_runs() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let system = system(folder.path(), Shape::One).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let start = |text: &str| StartRunRequest {
        request_id: mar_tests::client::request_id(),
        session: session.clone(),
        task: Some(task::question(text)),
        concurrency: Concurrency::Parallel.into(),
    };
    let mut runs = Vec::new();
    for _ in 0..3 {
        let run = client.grpc.start_run(start("[hang]")).await?.into_inner().run.unwrap_or_default();
        runs.push(run.name);
    }
    when(|| async { system.rehearsal.in_flight() == 3 }).await?;
    let request = EndSessionRequest { name: session.clone(), ..Default::default() };
    // Two at once, and one later.
    let mut other = client.clone();
    let (one, two) = tokio::join!(client.grpc.end_session(request.clone()), other.grpc.end_session(request.clone()));
    let ended = one?.into_inner().session.unwrap_or_default();
    assert_eq!(ended.state(), SessionState::Ended);
    assert_eq!(two?.into_inner().session.unwrap_or_default(), ended);
    assert_eq!(client.grpc.end_session(request).await?.into_inner().session.unwrap_or_default(), ended);
    for name in runs {
        assert_eq!(end(&client.get(&name).await?), "CANCELLED SESSION_ENDED", "nothing is open when it is answered");
    }
    when(|| async { system.rehearsal.in_flight() == 0 }).await?;
    let refused = Refused::by(client.grpc.start_run(start("late")).await);
    assert_eq!(refused.why(), (Code::FailedPrecondition, "SESSION_ENDED"));
    Ok(())
}
