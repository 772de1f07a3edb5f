//! Several replicas of session on the same stores.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time for real processes")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::run_frame::Frame;
use mar_proto::session::{CancelRunRequest, EndSessionRequest, Run, RunState, SessionState, Task, WaitReason};
use mar_proto::types::{HaltReason, HaltingPolicy};
use mar_testkit::process::Signal;
use mar_testkit::wait;
use mar_tests::{Client, Deployment, Followed, Options, Shape, Stores, task};
use tokio::task::JoinSet;

/// A turn takes seconds.
const SCRIPT: &str = r#"
[defaults]
chunk_size = 2
chunk_delay = "60ms"
[[rule]]
reply = { text = "The lighthouse of Marel burns whale oil and is lit at dusk, as it always was." }
"#;

/// A run of many short steps, which goes on until its limit binds.
const STEPS: &str = r#"
[defaults]
delay = "400ms"
[[rule]]
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour {{turn}}" } }] }
"#;

async fn system() -> anyhow::Result<Deployment> {
    Deployment::start(Options::new(Shape::Four, Stores::Servers).script(SCRIPT)).await
}

async fn running(client: &mut Client) -> anyhow::Result<Run> {
    let session = client.session().await?;
    let run = client.start(&session, task::question("When is it lit?")).await?;
    client.until(&run.name, |run| run.totals.as_ref().is_some_and(|totals| totals.steps == 1)).await
}

fn follow(client: &Client, name: &str) -> JoinSet<anyhow::Result<Followed>> {
    let (mut client, name) = (client.clone(), name.to_owned());
    let mut watching = JoinSet::new();
    watching.spawn(async move { client.watch(&name, 0).await });
    watching
}

async fn end_of(mut watching: JoinSet<anyhow::Result<Followed>>) -> anyhow::Result<Followed> {
    watching.join_next().await.context("nobody watches")??
}

/// Every event once and in order, to a good end.
fn whole(followed: &Followed) -> anyhow::Result<()> {
    ensure!(followed.run.state() == RunState::Succeeded, "{:?}", followed.run);
    let seqs: Vec<i64> = followed.events().iter().map(|event| event.seq).collect();
    ensure!(seqs == (0..followed.run.next_seq).collect::<Vec<_>>(), "{seqs:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_where_another_replica_lives() -> anyhow::Result<()> {
    let mut system = system().await?;
    let other = system.replica().await?;
    let (mut here, mut there) = (system.client().await?, other.client().await?);
    let run = running(&mut here).await?;
    let watching = follow(&there, &run.name);
    assert_eq!(there.get(&run.name).await?.state(), RunState::Running, "seen from the other replica");
    system.kill(0).await?;
    let followed = end_of(watching).await?;
    whole(&followed)?;
    assert_eq!(followed.story().iter().filter(|name| **name == "RunClaimed").count(), 1);
    assert!(followed.story().contains(&"GenerationFailed"), "the turn in flight died: {:?}", followed.story());
    assert_eq!(there.get(&run.name).await?.epoch, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_commanded_from_any_replica() -> anyhow::Result<()> {
    let system = system().await?;
    let other = system.replica().await?;
    let (mut here, mut there) = (system.client().await?, other.client().await?);
    let run = running(&mut here).await?;
    there.pause(&run.name).await?;
    // The turn in flight ends the run, or the pause holds it: both are what the log says everywhere.
    let held = running(&mut here).await?;
    there.grpc.cancel_run(CancelRunRequest { name: held.name.clone(), ..Default::default() }).await?;
    let cancelled = here.until(&held.name, |run| run.seal.is_some()).await?;
    assert_eq!(cancelled.state(), RunState::Cancelled);
    assert_eq!(there.get(&held.name).await?, cancelled);

    // Ending a session stops what other replicas execute.
    let last = running(&mut here).await?;
    let session = last.name.split("/runs/").next().unwrap_or_default().to_owned();
    let ended = there.grpc.end_session(EndSessionRequest { name: session, ..Default::default() }).await?.into_inner();
    assert_eq!(ended.session.unwrap_or_default().state(), SessionState::Ended);
    assert_eq!(here.get(&last.name).await?.state(), RunState::Cancelled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_hands_its_runs_over() -> anyhow::Result<()> {
    let mut system = system().await?;
    let other = system.replica().await?;
    let (mut here, there) = (system.client().await?, other.client().await?);
    let run = running(&mut here).await?;
    let watching = follow(&there, &run.name);
    system.signal(0, Signal::Term).await?;
    system.wait_for_end(0).await?;
    whole(&end_of(watching).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_frozen_past_its_time_is_fenced() -> anyhow::Result<()> {
    let mut system = system().await?;
    let other = system.replica().await?;
    let (mut here, mut there) = (system.client().await?, other.client().await?);
    let run = running(&mut here).await?;
    system.signal(0, Signal::Stop).await?;
    let claimed = there.until(&run.name, |run| run.epoch == 2).await?;
    assert_eq!(claimed.wait_reason(), WaitReason::Unspecified);
    system.signal(0, Signal::Cont).await?;
    let followed = there.watch(&run.name, 0).await?;
    whole(&followed)?;
    let mut again = system.client().await?;
    assert_eq!(again.get(&run.name).await?, followed.run, "both tell the same");
    assert_eq!(again.events(&run.name).await?, there.events(&run.name).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_frozen_shows_nothing_old() -> anyhow::Result<()> {
    // Its turn is still on its way when it thaws: it has nothing to write, and would not hear that it is fenced.
    let slow = "[defaults]\ndelay = \"12s\"\n[[rule]]\nreply = { text = \"At dusk.\" }\n";
    let mut system = Deployment::start(Options::new(Shape::Four, Stores::Servers).script(slow)).await?;
    let other = system.replica().await?;
    let (mut here, mut there) = (system.client().await?, other.client().await?);
    let run = running(&mut here).await?;
    let following = follow(&here, &run.name);
    system.signal(0, Signal::Stop).await?;
    let claimed = there.until(&run.name, |run| run.epoch == 2).await?;
    system.signal(0, Signal::Cont).await?;
    let mut again = system.client().await?;
    let shown = again.get(&run.name).await?;
    ensure!(shown.epoch == 2 && shown.next_seq >= claimed.next_seq, "what the run was when it froze: {shown:?}");
    whole(&end_of(following).await?)
}

/// Well before a replica of [`hearing`] looks around by itself.
const BEFORE_THE_TIMER: Duration = Duration::from_secs(30);

/// Replicas whose timers never tell them anything while a test lasts: what they hear of each other is told them.
async fn hearing(script: &str) -> anyhow::Result<Deployment> {
    let patient = "heartbeat = \"60s\"\npatience = \"600s\"";
    Deployment::start(Options::new(Shape::Four, Stores::Servers).script(script).replicas(patient)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deltas_are_seen_from_any_replica() -> anyhow::Result<()> {
    let system = hearing(SCRIPT).await?;
    let other = system.replica().await?;
    let (mut here, there) = (system.client().await?, other.client().await?);
    let run = running(&mut here).await?;
    let first = follow(&there, &run.name);
    tokio::time::sleep(Duration::from_millis(700)).await;
    // In the middle of the turn, which is under way there already.
    let second = follow(&there, &run.name);
    for following in [first, second] {
        let followed = end_of(following).await?;
        whole(&followed)?;
        let text = shown(&followed)?;
        ensure!(!text.is_empty() && followed.text().ends_with(&text), "{text:?} of {:?}", followed.text());
    }
    Ok(())
}

/// What the deltas say, each of the attempt that was told last, and none left out since the first.
fn shown(followed: &Followed) -> anyhow::Result<String> {
    let (mut attempts, mut text, mut end) = (Vec::new(), String::new(), 0);
    for frame in &followed.frames {
        let attempt = match &frame.frame {
            Some(Frame::Snapshot(snapshot)) => snapshot.attempt.as_ref(),
            Some(Frame::Attempt(attempt)) => Some(attempt),
            Some(Frame::Delta(delta)) => {
                ensure!(attempts.last() == Some(&(delta.step, delta.epoch, delta.attempt)), "{attempts:?}: {delta:?}");
                ensure!(text.is_empty() || delta.offset == end, "{text:?} up to {end}, then {delta:?}");
                end = delta.offset + i64::try_from(delta.text.len())?;
                text.push_str(&delta.text);
                None
            }
            _ => None,
        };
        attempts.extend(attempt.map(|attempt| (attempt.step, attempt.epoch, attempt.attempt)));
    }
    let told: std::collections::BTreeSet<_> = attempts.iter().collect();
    ensure!(told.len() == attempts.len(), "an attempt is told twice: {attempts:?}");
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_hears_at_once_what_is_wanted_of_its_runs() -> anyhow::Result<()> {
    let mut system = hearing(SCRIPT).await?;
    let other = system.replica().await?;
    let (mut here, mut there) = (system.client().await?, other.client().await?);
    let cancelled = running(&mut here).await?;
    there.grpc.cancel_run(CancelRunRequest { name: cancelled.name.clone(), ..Default::default() }).await?;
    let cancelled = here.until(&cancelled.name, |run| run.seal.is_some());
    assert_eq!(tokio::time::timeout(BEFORE_THE_TIMER, cancelled).await??.state(), RunState::Cancelled);

    // And what a replica that stops has let go of.
    let left = running(&mut here).await?;
    let watching = follow(&there, &left.name);
    system.signal(0, Signal::Term).await?;
    system.wait_for_end(0).await?;
    whole(&tokio::time::timeout(BEFORE_THE_TIMER, end_of(watching)).await??)
}

fn sql(system: &Deployment, text: &str) -> anyhow::Result<String> {
    let postgres = system.postgres.as_ref().context("no postgres")?;
    tokio::task::block_in_place(|| postgres.execute(text))
}

/// As when a standby that had not heard the last of its primary takes its place: the lease is the first owner's again, which
/// lives, beats, and has let go of the run long since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_a_replicas_again_goes_on() -> anyhow::Result<()> {
    let options = Options::new(Shape::Four, Stores::Servers).own_servers().script(STEPS);
    let mut system = Deployment::start(options).await?;
    let mut other = system.replica().await?;
    let (mut here, mut there) = (system.client().await?, other.client().await?);
    let session = here.session().await?;
    let tools = task::selectors(&["docs.search"]);
    let limits = HaltingPolicy { max_steps: Some(20), max_tool_calls: Some(40), ..HaltingPolicy::default() };
    let run = here.start(&session, task::limited(Task { tools, ..task::question("Search on.") }, limits)).await?;
    let first = sql(&system, "SELECT owner FROM session.leases")?;
    here.until(&run.name, |run| run.totals.as_ref().is_some_and(|totals| totals.steps == 2)).await?;
    system.signal(0, Signal::Stop).await?;
    there.until(&run.name, |run| run.epoch == 2).await?;
    system.signal(0, Signal::Cont).await?;
    let fenced = || async { system.log_of(0).iter().any(|line| line.contains("run has another owner")) };
    wait::until(Duration::from_secs(20), fenced).await.context("the first owner goes on")?;

    other.process.kill().await?;
    sql(&system, &format!("UPDATE session.leases SET owner = '{first}', epoch = 1, wake_time = NULL"))?;
    let followed = system.client().await?.watch(&run.name, 0).await?;
    assert_eq!(followed.run.halt_reason(), HaltReason::MaxSteps, "{:?}", followed.run);
    assert_eq!(followed.run.epoch, 3, "the log knew of the second ownership");
    Ok(())
}
