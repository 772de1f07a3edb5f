//! What retention and legal hold leave of a session, and what is still proven by it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::*;
use mar_session::crash::Point;
use mar_testkit::process::built_binary;
use mar_testkit::wait;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};
use tokio::process::Command;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::seals::verify_seal;
use crate::uploading::{blob, header, put, read};
use crate::verifying::rows::Rows;

both_ways! {
    what_was_pruned_is_proven_by_what_is_left
    what_is_held_stays_until_the_hold_goes
    a_pruning_that_was_cut_off_is_completed
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: &str = "[session.tenants.dev]\nretention = '1s'\n";
const HELD: &str = "[session.tenants.dev]\nretention = '1s'\nlegal_hold = true\n";

/// A word of the task and of what was streamed in, which nothing else holds.
const PRIVATE: &str = "Quetzalcoatlus";

/// An ended session with a run that has read what was streamed in, and something that no run has named.
struct Ended {
    session: String,
    run: Run,
    named: String,
    unnamed: String,
}

impl Ended {
    async fn new(client: &mut Client) -> anyhow::Result<Self> {
        let session = client.session().await?;
        let upload =
            async |bytes: String| put(client, header(&session, "text/plain", bytes.as_bytes()), bytes.as_bytes()).await;
        let named = upload(format!("About {}.", PRIVATE.repeat(100))).await?;
        let unnamed = upload(format!("More about {PRIVATE}.")).await?;
        let mut task = task::with_sources(&format!("When is the lighthouse lit? {}", PRIVATE.repeat(2_000)));
        task.input.push(blob("text/plain", &named));
        let run = client.run_in(&session, task).await?.run;
        ensure!(run.state() == RunState::Succeeded, "{run:?}");
        client.grpc.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await?;
        Ok(Self { session, run, named, unnamed })
    }

    fn id(&self) -> anyhow::Result<Uuid> {
        Ok(self.session.trim_start_matches("sessions/").parse()?)
    }

    async fn erase(&self, client: &Client) -> Result<Session, Status> {
        let request = EraseSessionRequest { name: self.session.clone(), ..Default::default() };
        Ok(client.grpc.clone().erase_session(request).await?.into_inner().session.unwrap_or_default())
    }

    async fn read(&self, client: &Client) -> anyhow::Result<Session> {
        let request = GetSessionRequest { name: self.session.clone() };
        client.grpc.clone().get_session(request).await?.into_inner().session.context("no session")
    }

    async fn verify(&self, client: &Client) -> anyhow::Result<VerifyRunResponse> {
        let request = VerifyRunRequest { name: self.run.name.clone() };
        Ok(client.grpc.clone().verify_run(request).await?.into_inner())
    }

    /// Waits until its payloads are gone, by the log that says so and by the rows.
    async fn pruned(&self, rows: &Rows) -> anyhow::Result<()> {
        let id = self.id()?;
        let gone = || async {
            rows.uploads(id).await.is_ok_and(|uploads| uploads == 0)
                && rows.holds(PRIVATE, id).await.is_ok_and(|holds| !holds)
        };
        wait::until(LONG, gone).await.context("payloads stay")?;
        let log = rows.session_log(id).await?;
        ensure!(log.iter().filter(|kind| *kind == "pruned").count() == 1, "{log:?}");
        Ok(())
    }

    /// Nothing that was said is there any more, and all that was recorded of it is proven.
    async fn is_proven(&self, system: &Deployment, client: &mut Client) -> anyhow::Result<()> {
        for name in [&self.named, &self.unnamed] {
            let refused = read(client, name, 0).await.err().context("a pruned blob is read")?;
            let reason = refused.get_details_error_info().map(|found| found.reason);
            ensure!((refused.code(), reason.as_deref()) == (Code::NotFound, Some("NOT_FOUND")), "{refused:?}");
        }
        let run = client.get(&self.run.name).await?;
        ensure!(run.seal == self.run.seal && run.answer.is_none(), "{run:?}");
        ensure!(run.task.clone().unwrap_or_default().input.is_empty(), "{run:?}");
        let events = client.events(&self.run.name).await?;
        ensure!(events.iter().all(|event| event.content.is_none()), "contents stay");
        verify_seal(system, &run, &events)?;
        let watched = client.watch(&self.run.name, 0).await?;
        let hashes = |events: Vec<&Event>| events.into_iter().map(|event| event.hash.clone()).collect::<Vec<_>>();
        ensure!(hashes(watched.events()) == hashes(events.iter().collect()), "followers see another log");
        let found = self.verify(client).await?;
        ensure!(found.valid && found.sealed && found.payloads_erased && found.events_without_payload > 0, "{found:?}");
        let (code, said) = mar(system, &["runs", "verify", &self.run.name]).await?;
        ensure!(code == Some(0) && said.contains("VERIFIED") && said.contains("unchecked"), "{code:?}: {said}");
        Ok(())
    }
}

/// The exit code of `mar`, and what it says.
async fn mar(system: &Deployment, words: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(built_binary("mar")?);
    command.args(words).args(["--endpoint", &system.endpoint(0)]).env_remove("MAR_CONFIG");
    let output = command.output().await?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

async fn what_was_pruned_is_proven_by_what_is_left(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.extra(SHORT)).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let ended = Ended::new(&mut client).await?;
    ended.pruned(&rows).await?;
    ended.is_proven(&system, &mut client).await?;
    let before = ended.read(&client).await?;
    ensure!((before.state(), before.purpose.as_str()) == (SessionState::Ended, "test"), "its names stay: {before:?}");
    for aspect in [None, Some(task::question("Still there?"))] {
        let fork = ForkRunRequest {
            request_id: request_id(),
            name: ended.run.name.clone(),
            task: aspect,
            ..Default::default()
        };
        let refused = client.grpc.fork_run(fork).await.err().context("it was forked")?;
        ensure!(refused.get_details_error_info().is_some_and(|found| found.reason == "PAYLOADS_GONE"), "{refused:?}");
    }
    let (code, said) = mar(&system, &["runs", "repeat", &ended.run.name]).await?;
    ensure!(code != Some(0) && said.contains("PAYLOADS_GONE"), "{code:?}: {said}");

    // What is pruned can still be erased: its names and keys go, too, and what was proven is.
    let erased = ended.erase(&client).await?;
    ensure!((erased.state(), erased.purpose.as_str(), &erased.seal) == (SessionState::Erased, "", &before.seal));
    ended.is_proven(&system, &mut client).await?;
    let log = rows.session_log(ended.id()?).await?;
    ensure!(log.ends_with(&["ended".to_owned(), "pruned".to_owned(), "erased".to_owned()]), "{log:?}");
    Ok(())
}

async fn what_is_held_stays_until_the_hold_goes(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::start(options.extra(format!("{HELD}[session.blobs]\nkeep = '1s'\n"))).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let ended = Ended::new(&mut client).await?;
    // By now it is past retention, and what no run has named past its time.
    let told = || async { system.log().iter().any(|line| line.contains("under legal hold")) };
    wait::until(LONG, told).await?;
    rows.make_uploads_due(ended.id()?).await?;
    let refused = ended.erase(&client).await.err().context("what is held was erased")?;
    let reason = refused.get_details_error_info().map(|found| found.reason);
    ensure!((refused.code(), reason.as_deref()) == (Code::FailedPrecondition, Some("LEGAL_HOLD")), "{refused:?}");
    let session = ended.read(&client).await?;
    ensure!(session.legal_hold && session.state() == SessionState::Ended, "{session:?}");
    let (code, said) = mar(&system, &["sessions", "show", &ended.session]).await?;
    ensure!(code == Some(0) && said.contains("ENDED, held"), "{code:?}: {said}");
    let found = ended.verify(&client).await?;
    ensure!(found.valid && !found.payloads_erased && found.events_without_payload == 0, "{found:?}");
    ensure!(rows.uploads(ended.id()?).await? == 2, "what no run has named is held, too");
    ensure!(!read(&client, &ended.named, 0).await?.is_empty());
    ensure!(!rows.session_log(ended.id()?).await?.iter().any(|kind| kind == "pruned" || kind == "erased"));

    // The hold goes with the configuration; what it kept goes at once.
    let config = std::fs::read_to_string(system.config_file())?;
    std::fs::write(system.config_file(), config.replace("legal_hold = true", "legal_hold = false"))?;
    system.kill(0).await?;
    system.restart(0).await?;
    let mut client = system.client().await?;
    ended.pruned(&rows).await?;
    ended.is_proven(&system, &mut client).await?;
    ensure!(!ended.read(&client).await?.legal_hold);
    ensure!(ended.erase(&client).await?.state() == SessionState::Erased);
    Ok(())
}

/// The process dies at each point of a pruning; the one that follows it completes it.
async fn a_pruning_that_was_cut_off_is_completed(options: Options) -> anyhow::Result<()> {
    for point in Point::BESIDE.iter().filter(|point| point.name().starts_with("erasure")) {
        let options = options.clone().extra(SHORT).env("MAR_CRASH_AT", point.name());
        let mut system = Deployment::start(options).await?;
        let mut client = system.client().await?;
        let rows = Rows::open(&system.store_url()).await?;
        let ended = Ended::new(&mut client).await?;
        system.wait_for_crash().await.with_context(|| format!("{point} is not passed"))?;
        rows.make_timers_due().await?;
        system.restart(0).await?;
        let mut client = system.client().await?;
        // What stands there now is explained by the log, however far it came.
        ensure!(ended.verify(&client).await?.valid, "{point}");
        ended.pruned(&rows).await.with_context(|| point.name())?;
        ended.is_proven(&system, &mut client).await.with_context(|| point.name())?;
    }
    Ok(())
}

/// Several replicas prune at a time, and one of them dies: each session once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_replicas_prune_each_session_once() -> anyhow::Result<()> {
    let mut system = Deployment::start(Options::new(Shape::Four, Stores::Servers).extra(SHORT)).await?;
    let (second, third) = (system.replica().await?, system.replica().await?);
    let rows = Rows::open(&system.store_url()).await?;
    let mut all = Vec::new();
    for client in [system.client().await?, second.client().await?, third.client().await?] {
        let mut client = client;
        for _ in 0..3 {
            all.push(Ended::new(&mut client).await?);
        }
    }
    system.kill(0).await?;
    rows.make_timers_due().await?;
    for ended in &all {
        ended.pruned(&rows).await?;
    }
    system.restart(0).await?;
    for ended in &all {
        ended.is_proven(&system, &mut second.client().await?).await?;
    }
    Ok(())
}
