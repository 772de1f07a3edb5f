//! Death right after a command was stored: it takes effect all the same, once, and asking again says so.

use anyhow::{Context as _, ensure};
use mar_proto::session::{CancelRunRequest, Event, PauseRunRequest, RunState, WaitReason, event_leaf::Body};
use mar_session::crash::Point;
use mar_tests::Stores;
use mar_tests::caller::request;
use mar_tests::client::request_id;

use crate::occasion::{self, Occasion};
use crate::scene::{Scene, ask};

fn pauses(events: &[Event]) -> usize {
    let bodies = events.iter().filter_map(|event| event.body.as_ref()?.body.as_ref());
    bodies.filter(|body| matches!(body, Body::PauseRequested(_))).count()
}

/// A run that would go on for ever is paused, then cancelled; the process dies with the nth of the two.
async fn die_at(scene: &mut Scene, point: Point, nth: usize) -> anyhow::Result<()> {
    scene.arm(&format!("{point}@{nth}")).await?;
    let mut caller = scene.caller().await?;
    let session = caller.session().await?;
    let mut seen = caller.start(&request(&session, ask("linger", &request_id()))).await?;
    let name = seen.name.clone();
    let reserved = |run: &mar_proto::session::Run| run.totals.is_some_and(|totals| totals.steps == 1);
    caller.client.until(&name, reserved).await?;
    let pause = PauseRunRequest { request_id: request_id(), name: name.clone() };
    let cancel = CancelRunRequest { request_id: request_id(), name: name.clone() };
    let paused = caller.client.grpc.pause_run(pause.clone()).await;
    ensure!(paused.is_err() == (nth == 1), "{paused:?}");
    if nth == 2 {
        let cancelled = caller.client.grpc.cancel_run(cancel.clone()).await;
        ensure!(cancelled.is_err(), "{cancelled:?}");
    }
    scene.system.wait_for_crash().await?;
    scene.system.restart(0).await?;
    let mut caller = scene.caller().await?;
    if nth == 1 {
        // Nobody asked again, and the generation died with its process.
        caller.client.until(&name, |run| run.wait_reason() == WaitReason::Paused).await?;
    }
    let again = caller.client.grpc.pause_run(pause).await?.into_inner().run.context("no run")?;
    ensure!(again.name == name, "{again:?}");
    if nth == 1 {
        caller.client.grpc.cancel_run(cancel).await?;
    }
    caller.pursue(&mut seen).await?;
    caller.judge(&seen).await.with_context(|| scene.tail())?;
    let run = seen.ended.as_ref().context("no end")?;
    ensure!(run.state() == RunState::Cancelled, "{run:?}");
    ensure!(pauses(&seen.events) == 1, "paused {} times", pauses(&seen.events));
    Ok(())
}

async fn every_point(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "4ms").await?;
    for point in occasion::points(Occasion::Command) {
        for nth in 1..=2 {
            die_at(&mut scene, point, nth)
                .await
                .with_context(|| format!("{point}@{nth} {stores:?}\n{}", scene.tail()))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_command_outlives_its_process_on_embedded_stores() -> anyhow::Result<()> {
    every_point(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_command_outlives_its_process_on_servers() -> anyhow::Result<()> {
    every_point(Stores::Servers).await
}
