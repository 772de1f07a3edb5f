//! What replicas tell each other of runs, where nothing is lost: who follows a run that another replica executes sees what is
//! committed when it is, and not only when it looks by itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use mar_proto::session::{Event, RunFrame, Session, Task, run_frame::Frame};
use mar_proto::types::HaltingPolicy;
use mar_session::runs::{Admit, Follow, Runs};
use mar_session::sessions::Sessions;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::story::{Kind, caller, key};
use crate::time::Time;
use crate::world::{World, in_its_time};

/// Worlds that are looked at: what is told too late shows in few.
const SEEDS: u64 = 100;
/// The longest that a signal is on its way, in microseconds: long enough for a commit to come while a delta is told.
const SLOWEST: u64 = 20_000;
/// Some signals in a row, and the trips to the store; well before a follower looks by itself, which is every 500 ms.
const AT_ONCE: Duration = Duration::from_millis(200);
/// Where the run is admitted, and where it is followed.
const HERE: usize = 0;
const AFAR: usize = 1;

/// A run that goes on for some seconds, and a follower of it.
struct Scene {
    world: Arc<World>,
    session: Uuid,
    run: Uuid,
    afar: Runs,
}

/// Something that the follower was shown.
struct Sight {
    at: Duration,
    frame: RunFrame,
}

impl Scene {
    async fn set(seed: u64, time: Arc<Time>) -> anyhow::Result<Self> {
        let world = World::quiet(seed, time, SLOWEST).await;
        let (here, afar) = (world.at(HERE).context("nobody here")?, world.at(AFAR).context("nobody there")?);
        let session = Sessions::new(here.clone());
        let session = session.start(&caller(), key("/start-session", "s".into()), Session::default()).await?;
        let session: Uuid = session.name.trim_start_matches("sessions/").parse()?;
        let limits =
            HaltingPolicy { max_steps: Some(40), max_tool_calls: Some(100), ..Kind::Chain.limits(&world.chance) };
        let task = Task { r#type: Kind::Chain.word().to_owned(), ..Task::default() };
        let admit = Admit { key: key("/start-run", "r".into()), session, task, limits, parallel: true, fork: None };
        let run = here.admit(&caller(), admit).await?;
        let run = run.name.rsplit('/').next().unwrap_or_default().parse()?;
        Ok(Self { world, session, run, afar })
    }

    /// Follows to the end of the run, which the replica here may not see: it dies after this time.
    async fn follow(&self, dies: Option<Duration>) -> anyhow::Result<Vec<Sight>> {
        let (tenant, session, run) = ("t".into(), self.session, self.run);
        let follow = Follow { tenant, session, run, from_seq: 0, after: None, deltas: true };
        let mut frames = self.afar.follow(follow).await?;
        if let Some(span) = dies {
            let world = Arc::clone(&self.world);
            tokio::spawn(async move {
                world.time.sleep(span).await;
                world.kill(HERE);
            });
        }
        let mut seen = Vec::new();
        while let Some(frame) = frames.next().await {
            seen.push(Sight { at: self.world.time.now(), frame: frame? });
        }
        Ok(seen)
    }

    /// When each event was stored, in their order, to a millisecond, as it happens.
    fn watch(&self) -> mpsc::UnboundedReceiver<Duration> {
        let (stored, times) = mpsc::unbounded_channel();
        let (world, run) = (Arc::clone(&self.world), self.run);
        tokio::spawn(async move {
            let mut known = 0;
            loop {
                let now = world.truth.tables().events.get(&run).map_or(0, Vec::len);
                for _ in known..now {
                    let _ = stored.send(world.time.now());
                }
                known = now;
                world.time.sleep(Duration::from_millis(1)).await;
            }
        });
        times
    }
}

fn event(sight: &Sight) -> Option<&Event> {
    match &sight.frame.frame {
        Some(Frame::Event(event)) => Some(event),
        _ => None,
    }
}

fn epoch(event: &Event) -> i64 {
    event.body.as_ref().map_or(0, |leaf| leaf.epoch)
}

/// How late events were seen that were stored after the replica that stores them had been told who follows: those of an owner
/// since a frame of it was seen that no store keeps.
async fn late(seed: u64, time: Arc<Time>, dies: bool) -> anyhow::Result<Vec<(Duration, Event)>> {
    let scene = Scene::set(seed, time).await?;
    let mut times = scene.watch();
    let span = scene.world.chance.span(100_000, 1_500_000);
    let seen = scene.follow(dies.then_some(span)).await?;
    let mut lags = Vec::new();
    let (mut owner, mut told) = (0, None);
    for sight in &seen {
        let Some(event) = event(sight) else { continue };
        let stored = times.recv().await.context("it was not stored")?;
        if epoch(event) != owner {
            // From the first sight of an owner on, which is by the store, it is told at once.
            (owner, told) = (epoch(event), Some(sight.at + AT_ONCE));
        }
        // The end is shown with its seal.
        let ends = matches!(
            event.body.as_ref().and_then(|leaf| leaf.body.as_ref()),
            Some(mar_proto::session::event_leaf::Body::RunEnded(_))
        );
        if told.is_some_and(|told| stored > told) && !ends && (!dies || owner > 1) {
            lags.push((sight.at.saturating_sub(stored), event.clone()));
        }
    }
    Ok(lags)
}

/// In many worlds nothing comes late.
fn comes_at_once(dies: bool) -> anyhow::Result<()> {
    let mut looked_at = 0;
    for seed in 1..=SEEDS {
        let lags = in_its_time(|time| late(seed, time, dies)).with_context(|| format!("world {seed}"))?;
        looked_at += lags.len();
        for (lag, event) in lags {
            ensure!(lag <= AT_ONCE, "world {seed}: {lag:?} after it was stored came {event:?}");
        }
    }
    ensure!(looked_at > 1_000, "only {looked_at} events were looked at");
    Ok(())
}

#[test]
fn what_another_replica_commits_is_seen_at_once() -> anyhow::Result<()> {
    comes_at_once(false)
}

#[test]
fn the_next_owner_is_told_at_once_who_follows() -> anyhow::Result<()> {
    comes_at_once(true)
}
