//! EndSession, cut by a death: calling it again finishes it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::{RunState, SessionState, VerifyRunRequest};
use mar_proto::types::ErrorReason;
use mar_runtime::status::Reason;
use mar_tests::Stores;
use mar_tests::caller::request;
use mar_tests::client::request_id;

use crate::scene::{Scene, ask};

/// Moments of death after the request, in milliseconds, and points of it: the run's end is what it waits for.
async fn cut_ending(scene: &mut Scene, wish: Option<&str>, moment: u64) -> anyhow::Result<()> {
    if let Some(wish) = wish {
        scene.arm(wish).await?;
    }
    let mut caller = scene.caller().await?;
    let session = caller.session().await?;
    let mut runs = Vec::new();
    for _ in 0..2 {
        runs.push(caller.start(&request(&session, ask("medley", &request_id()))).await?);
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    let mut ender = caller.clone();
    {
        let ending = ender.end(&session);
        tokio::pin!(ending);
        tokio::select! {
            ended = &mut ending => { ended?; ensure!(wish.is_none(), "it ended before the death"); }
            () = tokio::time::sleep(Duration::from_millis(moment)) => {}
        }
    }
    match wish {
        Some(_) => scene.system.wait_for_crash().await?,
        None => scene.system.kill(0).await?,
    }
    scene.system.restart(0).await?;
    let mut caller = scene.caller().await?;
    let ended = caller.end(&session).await?;
    ensure!(ended.state() == SessionState::Ended, "{ended:?}");
    let seal = ended.seal.clone().context("the session has ended without its seal")?;
    ensure!(seal.runs == 2, "a seal over {} runs", seal.runs);
    for seen in &mut runs {
        let run = caller.client.get(&seen.name).await?;
        ensure!(run.seal.is_some(), "{} is not sealed when its session has ended", run.name);
        caller.pursue(seen).await?;
        ensure!(matches!(run.state(), RunState::Cancelled | RunState::Succeeded), "{run:?}");
        caller.judge(seen).await?;
        // With its entries in the session's log, and the session's seal.
        let name = seen.name.clone();
        let found = caller.client.grpc.verify_run(VerifyRunRequest { name }).await?.into_inner();
        ensure!(found.valid && found.sealed && found.unchecked.is_empty(), "{found:?}");
    }
    ensure!(caller.end(&session).await? == ended, "ending twice is not ending once");
    let refused = caller.start(&request(&session, ask("medley", &request_id()))).await.err();
    let reason = refused.as_ref().and_then(|error| error.downcast_ref()).and_then(Reason::of);
    ensure!(reason == Some(ErrorReason::SessionEnded), "{reason:?}");
    Ok(())
}

async fn cut_endings(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "40ms").await?;
    for moment in [0, 3, 10, 30] {
        cut_ending(&mut scene, None, moment)
            .await
            .with_context(|| format!("{moment} ms {stores:?}\n{}", scene.tail()))?;
    }
    // The first run is sealed, the second is not yet.
    for wish in ["end.committed@1", "end.committed@2"] {
        cut_ending(&mut scene, Some(wish), 20_000)
            .await
            .with_context(|| format!("{wish} {stores:?}\n{}", scene.tail()))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_ending_on_embedded_stores() -> anyhow::Result<()> {
    cut_endings(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_ending_on_servers() -> anyhow::Result<()> {
    cut_endings(Stores::Servers).await
}
