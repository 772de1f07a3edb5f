//! Death in the middle of a fork: it goes on from what it shares, and what was recorded is never made again.

use anyhow::{Context as _, ensure};
use mar_proto::session::{Concurrency, DiffRunsRequest, Event, ForkRunRequest, Run, RunState};
use mar_session::crash::Point;
use mar_testkit::wait;
use mar_tests::Stores;
use mar_tests::caller::{Caller, Seen, request};
use mar_tests::client::{name_of, request_id};
use mar_tests::oracle::Scars;

use crate::occasion::{self, Occasion};
use crate::scene::{ONCE, SURE, Scene, ask};

/// How often each point is died at.
const DEATHS: usize = 2;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(40);

/// A run that has called all tools, to be forked.
struct Origin {
    run: Run,
    events: Vec<Event>,
    /// Calls that the tools remember.
    made: usize,
}

fn made(scene: &Scene) -> anyhow::Result<usize> {
    Ok(scene.journal(SURE)?.values().sum::<usize>() + scene.journal(ONCE)?.values().sum::<usize>())
}

impl Origin {
    async fn new(scene: &Scene) -> anyhow::Result<Self> {
        let mut caller = scene.caller().await?;
        let request = request(&caller.session().await?, ask("medley", &request_id()));
        let mut seen = Seen::default();
        caller.insist(&request, &mut seen).await?;
        caller.judge_success(&seen).await?;
        let run = seen.ended.context("no end")?;
        let events = caller.client.events(&run.name).await?;
        Ok(Self { run, events, made: made(scene)? })
    }

    fn fork(&self, through_seq: i64) -> ForkRunRequest {
        ForkRunRequest {
            request_id: request_id(),
            name: self.run.name.clone(),
            through_seq,
            concurrency: Concurrency::Parallel.into(),
            ..ForkRunRequest::default()
        }
    }

    fn place(&self, name: &str) -> anyhow::Result<i64> {
        let found = self.events.iter().find(|event| name_of(event) == name);
        Ok(found.context("no such event")?.seq)
    }
}

/// Asks for a fork until it is there; the same request is the same fork.
async fn insist(caller: &Caller, request: &ForkRunRequest) -> anyhow::Result<String> {
    let ask = || async {
        let answer = caller.client.grpc.clone().fork_run(request.clone()).await.ok()?;
        answer.into_inner().run.map(|run| run.name)
    };
    Ok(wait::until_some(PATIENCE, ask).await?)
}

/// Dies at `point` for the `nth` time during a fork; `None` when it came to its end before.
async fn die_at(
    scene: &mut Scene,
    origin: &Origin,
    through: i64,
    (point, nth): (Point, usize),
) -> anyhow::Result<Option<Scars>> {
    scene.arm(&format!("{point}@{nth}")).await?;
    let mut caller = scene.caller().await?;
    let request = origin.fork(through);
    let mut seen = Seen::default();
    if let Ok(answer) = caller.client.grpc.fork_run(request.clone()).await {
        seen.name = answer.into_inner().run.context("no fork")?.name;
        caller.watch(&mut seen).await?;
        if seen.ended.is_some() {
            return Ok(None);
        }
    }
    scene.system.wait_for_crash().await?;
    scene.system.restart(0).await?;
    let name = insist(&caller, &request).await?;
    ensure!(seen.name.is_empty() || seen.name == name, "{} became {name}", seen.name);
    seen.name = name;
    caller.pursue(&mut seen).await?;
    let scars = caller.judge_fork(&seen, &origin.events).await.with_context(|| scene.tail())?;
    let run = seen.ended.context("no end")?;
    ensure!(run.state() == RunState::Succeeded, "{:?} {:?}", run.state(), run.failure);
    ensure!(scars.recorded.len() == 3 && scars.keys.is_empty(), "{scars:?}");
    ensure!(made(scene)? == origin.made, "a recorded call was made");
    let pair = DiffRunsRequest { name: run.name, base: String::new() };
    let diff = caller.client.grpc.diff_runs(pair).await?.into_inner();
    for found in diff.comparisons {
        ensure!(found.differences.is_empty(), "{found:?}");
    }
    Ok(Some(scars))
}

async fn every_point(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "2ms").await?;
    let origin = Origin::new(&scene).await?;
    let turn = origin.place("TurnCommitted")?;
    let mut sum = Scars::default();
    for point in occasion::points(Occasion::Run) {
        let mut deaths = 0;
        // What is shared is a turn whose calls are all replayed, or nothing but the question.
        for (nth, through) in (1..=DEATHS).zip([turn, 0]) {
            let died = die_at(&mut scene, &origin, through, (point, nth)).await;
            let Some(scars) = died.with_context(|| format!("{point}@{nth} {stores:?}"))? else { continue };
            sum += &scars;
            deaths += 1;
        }
        ensure!(deaths > 0, "no fork passes {point}");
    }
    ensure!(sum.claims > 0 && sum.lost > 0 && sum.repeated > 0, "deaths leave no scars: {sum:?}");
    ensure!(sum.unknown == 0, "nobody doubts a recorded call: {sum:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_of_a_fork_on_embedded_stores() -> anyhow::Result<()> {
    every_point(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_of_a_fork_on_servers() -> anyhow::Result<()> {
    every_point(Stores::Servers).await
}
