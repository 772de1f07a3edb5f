//! Runs that people hold up: paused, resumed, and asleep meanwhile.

use std::time::Duration;

use anyhow::Context as _;
use mar_proto::session::{CancelRunRequest, PauseRunRequest, Run, RunState, WaitReason};
use mar_runtime::clock::{Clock as _, SystemClock};
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, task};
use tokio::task::JoinSet;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::verifying::rows::Rows;

both_ways! {
    a_paused_run_sleeps_over_a_restart_and_goes_on
    a_pause_lets_what_is_in_flight_come_back
    a_paused_run_can_be_cancelled
    a_run_whose_log_is_broken_goes_on_when_it_is_mended
}

/// Slow enough to be paused in the middle of a turn.
const SCRIPT: &str = r#"
[defaults]
chunk_size = 2
chunk_delay = "40ms"
[[rule]]
match = { last_role = "tool" }
reply = { text = "The harbour of Marel floods at spring tide." }
[[rule]]
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour of Marel" } }] }
"#;

fn is_paused(run: &Run) -> bool {
    run.wait_reason() == WaitReason::Paused
}

async fn paused(client: &mut Client) -> anyhow::Result<String> {
    let session = client.session().await?;
    let task = mar_proto::session::Task { tools: task::selectors(&["docs.*"]), ..task::question("When?") };
    let run = client.start(&session, task).await?;
    client.until(&run.name, |run| run.state() == RunState::Running).await?;
    let pausing = client.pause(&run.name).await?;
    assert!(pausing.pausing || is_paused(&pausing), "{pausing:?}");
    client.until(&run.name, is_paused).await?;
    Ok(run.name)
}

async fn a_paused_run_sleeps_over_a_restart_and_goes_on(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let name = paused(&mut client).await?;
    let asleep = client.events(&name).await?.len();

    // A pause is no state to be paused in again, nor does it end by itself or with the process.
    assert!(is_paused(&client.pause(&name).await?));
    system.kill(0).await?;
    system.restart(0).await?;
    system.wait_for_tools(&["docs"]).await?;
    let mut client = system.client().await?;
    assert!(is_paused(&client.get(&name).await?));
    assert_eq!(client.events(&name).await?.len(), asleep, "a parked run is not even claimed");

    let mut watcher = client.clone();
    let watched = name.clone();
    let mut watching = JoinSet::new();
    watching.spawn(async move { watcher.watch(&watched, 0).await });
    let resumed = client.resume(&name).await?;
    assert!(!is_paused(&resumed) && !resumed.pausing, "{resumed:?}");
    let followed = watching.join_next().await.context("nobody watches")???;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:?}\n{}", followed.run, system.log().join("\n"));
    let seqs: Vec<i64> = followed.events().iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (0..followed.run.next_seq).collect::<Vec<_>>(), "every event once and in order");
    for event in ["PauseRequested", "RunWaiting", "RunClaimed", "RunResumed"] {
        assert_eq!(followed.story().iter().filter(|name| **name == event).count(), 1, "{:?}", followed.story());
    }
    let refused = client.resume(&name).await.err().context("a run that has ended was resumed")?;
    let status = refused.downcast::<tonic::Status>()?;
    assert_eq!(status.get_details_error_info().context("no reason")?.reason, "RUN_STATE");
    Ok(())
}

async fn a_pause_lets_what_is_in_flight_come_back(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let name = paused(&mut client).await?;
    let events = client.events(&name).await?;
    let story: Vec<&str> = events.iter().map(mar_tests::client::name_of).collect();
    let demanded = story.iter().position(|name| *name == "PauseRequested").context("no pause")?;
    let after = &story[demanded + 1..];
    assert!(after.iter().all(|name| !matches!(*name, "GenerationStarted" | "ToolIntent")), "{story:?}");
    assert_eq!(after.last(), Some(&"RunWaiting"), "{story:?}");

    // Repeated with its id a command is one; another run's command under the same id is refused.
    let request = PauseRunRequest { request_id: request_id(), name: name.clone() };
    client.resume(&name).await?;
    client.grpc.pause_run(request.clone()).await?;
    client.grpc.pause_run(request.clone()).await?;
    let other = client.session().await?;
    let other = client.start(&other, task::question("Why?")).await?;
    let reused = PauseRunRequest { name: other.name, ..request };
    let refused = client.grpc.pause_run(reused).await.err().context("a request id was used twice")?;
    assert_eq!(refused.get_details_error_info().context("no reason")?.reason, "REQUEST_ID_REUSED");
    Ok(())
}

async fn a_paused_run_can_be_cancelled(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let name = paused(&mut client).await?;
    client.grpc.cancel_run(CancelRunRequest { name: name.clone(), ..Default::default() }).await?;
    let run = client.until(&name, |run| run.seal.is_some()).await?;
    assert_eq!(run.state(), RunState::Cancelled, "{run:?}");
    Ok(())
}

/// A log that somebody broke stands still and harms no other; once it is mended the run goes on by itself.
async fn a_run_whose_log_is_broken_goes_on_when_it_is_mended(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let name = client.start(&session, task::question("When?")).await?.name;
    client.until(&name, |run| run.next_seq > 2).await?;
    system.kill(0).await?;
    let id: Uuid = name.rsplit('/').next().context("no id")?.parse()?;
    let rows = Rows::open(&system.store_url()).await?;
    let whole = rows.event(id, 1, "leaf").await?;
    rows.set_event(id, 1, "leaf", b"no leaf").await?;

    system.restart(0).await?;
    system.wait_for_tools(&["docs"]).await?;
    let mut client = system.client().await?;
    let told = || system.log().iter().any(|line| line.contains("its log does not replay"));
    for _ in 0..300 {
        if told() {
            break;
        }
        SystemClock::new().sleep(Duration::from_millis(100)).await;
    }
    assert!(told(), "{}", system.log().join("\n"));
    let other = client.run(task::question("And you?")).await?;
    assert_eq!(other.run.state(), RunState::Succeeded, "{:?}", other.run);

    rows.set_event(id, 1, "leaf", &whole).await?;
    let run = client.until(&name, |run| run.seal.is_some()).await?;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    Ok(())
}
