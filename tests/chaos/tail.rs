//! A standby that had not heard the last of its primary takes its place: what was acknowledged is gone, and that is found out.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::{Event, Run, RunState, WatchRunRequest, run_frame::Frame};
use mar_proto::types::ErrorReason;
use mar_runtime::status::Reason;
use mar_testkit::{ports, wait};
use mar_tests::caller::{Caller, request};
use mar_tests::client::Client;
use mar_tests::{Deployment, Replica};
use tokio::task::{JoinSet, block_in_place};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::scene;
use crate::storm::say;
use crate::story::Kind;

/// Runs that are on their way when the primary dies.
const RUNS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a follower has seen, on all of its streams.
#[derive(Debug, Default, Clone)]
struct Witness {
    name: String,
    events: Vec<Event>,
    ended: Option<Run>,
    /// It was told that the log is not the one that it has seen.
    warned: bool,
}

impl Witness {
    /// Follows to the end, or until it is warned, through whichever replica answers.
    async fn follow(&mut self, endpoints: &[String]) -> anyhow::Result<()> {
        for endpoint in endpoints.iter().cycle() {
            let followed = tokio::time::timeout(Duration::from_secs(5), self.once(endpoint)).await;
            if let Ok(Err(error)) = followed {
                return Err(error);
            }
            if self.ended.is_some() || self.warned {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn once(&mut self, endpoint: &str) -> anyhow::Result<()> {
        let Ok(mut client) = Client::connect(endpoint.to_owned()).await else { return Ok(()) };
        let request = WatchRunRequest {
            name: self.name.clone(),
            from_seq: i64::try_from(self.events.len())?,
            without_deltas: true,
            after_hash: self.events.last().map(|last| last.hash.clone()).unwrap_or_default(),
        };
        let mut frames = match client.grpc.watch_run(request).await {
            Ok(frames) => frames.into_inner(),
            Err(status) => return self.told(&status),
        };
        while let Some(frame) = frames.next().await {
            match frame {
                Ok(frame) => match frame.frame.and_then(|frame| frame.frame) {
                    Some(Frame::Event(event)) => {
                        let next = i64::try_from(self.events.len())?;
                        ensure!(event.seq == next, "{}: event {} after {next}", self.name, event.seq);
                        let follows = self.events.last().is_none_or(|last| last.hash == event.prev_hash);
                        ensure!(follows, "{}: event {} is of another log, and nobody said so", self.name, event.seq);
                        self.events.push(event);
                    }
                    Some(Frame::End(end)) => self.ended = end.run,
                    _ => {}
                },
                Err(status) => return self.told(&status),
            }
        }
        Ok(())
    }

    fn told(&mut self, status: &tonic::Status) -> anyhow::Result<()> {
        let lost = status.code() == Code::DataLoss && Reason::of(status) == Some(ErrorReason::LogTailLost);
        // One whose very admission is gone.
        let gone = status.code() == Code::NotFound;
        let away = status.code() == Code::Unavailable || Reason::of(status).is_none();
        ensure!(lost || gone || away, "{}: {status:?}", self.name);
        self.warned |= lost || gone;
        Ok(())
    }
}

async fn replica(system: &Deployment, port: u16) -> anyhow::Result<Replica> {
    system.launcher()?.start(port, &[], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tail_is_found_out_and_never_written_over_in_silence() -> anyhow::Result<()> {
    let system = scene::start().await?;
    let standby = block_in_place(|| system.postgres.as_ref().context("no postgres")?.standby())?;
    let ports = ports::free_many(2)?;
    let endpoints: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let (mut dies, lives) = (replica(&system, ports[0]).await?, replica(&system, ports[1]).await?);

    let (mut followers, mut names) = (JoinSet::new(), Vec::new());
    for number in 0..RUNS {
        let mut client = Client::connect(endpoints[number % 2].clone()).await?;
        let session = client.session().await?;
        let asked = request(&session, Kind::Cancelled.task());
        let started = Caller { client, gateway: String::new() }.start(&asked).await?;
        names.push(started.name.clone());
        let mut witness = Witness { name: started.name, ..Witness::default() };
        let endpoints = endpoints.clone();
        followers.spawn(async move { witness.follow(&endpoints).await.map(|()| witness) });
    }
    let mut looker = Client::connect(endpoints[1].clone()).await?;
    grow(&mut looker, &names).await?;
    block_in_place(|| standby.stop_following())?;
    // What comes now is acknowledged, and will be lost.
    grow(&mut looker, &names).await?;
    // One replica dies with the primary, so that nobody remembers its runs; the other one knows more than is left.
    dies.process.kill().await?;
    block_in_place(|| system.postgres.as_ref().context("no postgres")?.crash())?;
    block_in_place(|| standby.promote())?;
    let (door, _) = system.doors.as_ref().context("no doors")?;
    door.lead_to(standby.port());
    let successor = replica(&system, ports[0]).await?;

    let mut witnesses = Vec::new();
    while let Some(followed) = tokio::time::timeout(PATIENCE, followers.join_next()).await? {
        witnesses.push(followed??);
    }
    let warned = witnesses.iter().filter(|witness| witness.warned).count();
    say(&format!("{warned} of {RUNS} followers were told that the log which they have seen is gone"));
    ensure!(warned > 0, "nothing was lost, or nobody was told");
    for witness in &witnesses {
        let said = || [&lives, &successor].map(|replica| replica.process.log().join("\n")).join("\n--\n");
        let Some(run) = ends(&mut looker, &witness.name).await.with_context(said)? else {
            ensure!(witness.warned, "{} is gone, and its follower was not told", witness.name);
            continue;
        };
        let events = looker.events(&run.name).await?;
        let same = events.iter().zip(&witness.events).all(|(stored, seen)| stored.hash == seen.hash);
        let whole = same && events.len() >= witness.events.len();
        let reason = run.failure.clone().unwrap_or_default().reason;
        say(&format!(
            "{} seen {}, stored {}, {:?} {reason}",
            run.name,
            witness.events.len(),
            events.len(),
            run.state()
        ));
        ensure!(whole || witness.warned, "{} has other events than were seen, and nobody was told", run.name);
        let stopped = run.state() == RunState::Cancelled && reason == "LOG_TAIL_LOST";
        ensure!(whole || stopped, "{} went on from what was left as if nothing were lost", run.name);
    }
    Ok(())
}

/// Waits until every log has some more events.
async fn grow(client: &mut Client, names: &[String]) -> anyhow::Result<()> {
    let mut goals = Vec::new();
    for name in names {
        goals.push((name, client.events(name).await?.len() + 8));
    }
    for (name, goal) in goals {
        let grown = || {
            let mut client = client.clone();
            async move { client.events(name).await.is_ok_and(|events| events.len() >= goal) }
        };
        wait::until(PATIENCE, grown).await.with_context(|| format!("{name} stands still"))?;
    }
    Ok(())
}

/// The run when it is sealed; `None` for one that is not there.
async fn ends(client: &mut Client, name: &str) -> anyhow::Result<Option<Run>> {
    let gone = |error: &anyhow::Error| {
        error.downcast_ref::<tonic::Status>().is_some_and(|status| status.code() == Code::NotFound)
    };
    match client.get(name).await {
        Err(error) if gone(&error) => return Ok(None),
        _ => {}
    }
    let sealed = || {
        let mut client = client.clone();
        async move { client.get(name).await.ok().filter(|run| run.seal.is_some()) }
    };
    wait::until_some(PATIENCE, sealed).await.with_context(|| format!("{name} does not end")).map(Some)
}
