//! Counters that are lost between death and restart are rebuilt from the log.

use anyhow::{Context as _, ensure};
use mar_testkit::redis::Redis;
use mar_tests::Stores;
use mar_tests::client::request_id;

use crate::caller::{Seen, request};
use crate::scene::{Scene, ask};

/// Dies with a call in flight, loses the counters, and goes on under the same limits.
async fn lose(scene: &mut Scene, wish: &str) -> anyhow::Result<usize> {
    scene.arm(wish).await?;
    let mut caller = scene.caller().await?;
    let mark = request_id();
    let request = request(&caller.session().await?, ask("medley", &mark));
    let mut seen = Seen::default();
    caller.once(&request, &mut seen).await?;
    scene.system.wait_for_crash().await?;
    tokio::task::block_in_place(|| Redis::shared()?.flush())?;
    scene.system.restart(0).await?;
    caller.pursue(&mut seen).await?;
    let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
    scene.judge(&scars, &mark)?;
    Ok(scars.rebuilt)
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_counters_are_rebuilt() -> anyhow::Result<()> {
    let mut scene = Scene::start(Stores::Servers, "2ms").await?;
    for wish in ["advance.done@2", "commit.done@1", "commit.done@2", "commit.done@3", "turn.in_hand@2"] {
        let rebuilt = lose(&mut scene, wish).await.with_context(|| wish.to_owned())?;
        ensure!(rebuilt >= 1, "{wish}: the loss does not stand in the log");
    }
    Ok(())
}
