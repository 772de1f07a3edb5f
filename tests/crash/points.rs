//! Death at every named point that a run passes which nobody commands, parks or claims, each time that it passes it.

use anyhow::{Context as _, ensure};
use mar_session::crash::Point;
use mar_tests::Stores;
use mar_tests::caller::{Seen, request};
use mar_tests::client::request_id;
use mar_tests::oracle::Scars;

use crate::occasion::{self, Occasion};
use crate::scene::{ONCE, SURE, Scene, ask};

/// A point that is passed oftener, as one in a stream is, is died at so often.
const MOST_DEATHS: usize = 5;

/// A run that is over, whose seal has to stay as it is.
struct Sealed {
    name: String,
    seal: Option<mar_proto::session::RunSeal>,
}

/// Dies at `point` for the `nth` time during a run and lets it go on; `None` when the run came to its end before.
async fn die_at(scene: &mut Scene, point: Point, nth: usize) -> anyhow::Result<Option<(Seen, Scars)>> {
    let wish = format!("{point}@{nth}");
    scene.arm(&wish).await?;
    let mut caller = scene.caller().await?;
    let mark = request_id();
    let request = request(&caller.session().await?, ask("medley", &mark));
    let mut seen = Seen::default();
    caller.once(&request, &mut seen).await?;
    if seen.ended.is_some() {
        return Ok(None);
    }
    scene.system.wait_for_crash().await.with_context(|| format!("{wish}: {:?}", seen.reasons))?;
    ensure!(scene.tail().lines().all(|line| !line.contains("panicked")), "{}", scene.tail());
    scene.system.restart(0).await?;
    caller.insist(&request, &mut seen).await?;
    let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
    scene.judge(&scars, &mark)?;
    let runs = caller.runs(&request.session).await?;
    ensure!(runs.len() == 1 && runs[0].name == seen.name, "one request admitted {} runs", runs.len());
    // A run that had ended is sealed by the next owner under the epoch of its end.
    let had_ended = seen.events.last().and_then(|end| end.body.as_ref()).is_some_and(|leaf| leaf.epoch == 1);
    match point {
        Point::EndCommitted | Point::EndSealed => ensure!(had_ended, "the run ended again"),
        Point::CommitDone => {}
        // Offered again by who asks again.
        Point::AdmitOffered => return Ok(Some((seen, scars))),
        _ => ensure!(!had_ended, "the run had ended before its death"),
    }
    ensure!(scars.claims == usize::from(!had_ended), "{} claims", scars.claims);
    Ok(Some((seen, scars)))
}

async fn every_point(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "4ms").await?;
    let mut sum = Scars::default();
    let mut ended: Vec<Sealed> = Vec::new();
    for point in occasion::points(Occasion::Run) {
        let mut deaths = 0;
        for nth in 1..=MOST_DEATHS {
            let died = die_at(&mut scene, point, nth).await.with_context(|| format!("{point}@{nth} {stores:?}"))?;
            let Some((seen, scars)) = died else { break };
            deaths += 1;
            sum += &scars;
            ended.push(Sealed { name: seen.name, seal: seen.ended.and_then(|run| run.seal) });
        }
        ensure!(deaths > 0, "no run passes {point}");
    }
    // Another restart changes no seal.
    scene.system.kill(0).await?;
    scene.system.restart(0).await?;
    let mut client = scene.system.client().await?;
    for before in &ended {
        let run = client.get(&before.name).await?;
        ensure!(run.seal.is_some() && run.seal == before.seal, "{} is sealed anew", before.name);
    }
    ensure!(sum.lost > 0 && sum.repeated > 0 && sum.unknown > 0, "deaths at the points leave no scars: {sum:?}");
    ensure!(sum.repeated >= 4, "idempotent calls are hardly ever repeated: {}", sum.repeated);
    scene.calls_hold(SURE, &sum)?;
    scene.calls_hold(ONCE, &sum)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_on_embedded_stores() -> anyhow::Result<()> {
    every_point(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_on_servers() -> anyhow::Result<()> {
    every_point(Stores::Servers).await
}
