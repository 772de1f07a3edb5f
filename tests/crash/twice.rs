//! Death, and death again while the run is being taken over.

use anyhow::{Context as _, ensure};
use mar_tests::Stores;
use mar_tests::caller::{Seen, request};
use mar_tests::client::request_id;

use crate::scene::{Scene, ask};

/// Where the first process dies.
const FIRST: [&str; 3] = ["commit.done@1", "commit.done@2", "result.in_hand@3"];
/// Where the one that takes over dies.
const SECOND: [&str; 4] = ["advance.before@1", "advance.done@1", "commit.done@1", "generation.streaming@1"];

async fn die_twice(scene: &mut Scene, first: &str, second: &str) -> anyhow::Result<()> {
    scene.arm(first).await?;
    let mut caller = scene.caller().await?;
    let mark = request_id();
    let request = request(&caller.session().await?, ask("medley", &mark));
    let mut seen = Seen::default();
    caller.once(&request, &mut seen).await?;
    ensure!(seen.ended.is_none(), "the run came to its end");
    // It may die before its listener is bound, because runs are taken over before that.
    let rearmed = scene.rearm(second).await;
    if rearmed.is_ok() {
        scene.system.wait_for_crash().await?;
    }
    scene.system.restart(0).await?;
    caller.pursue(&mut seen).await?;
    let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
    scene.judge(&scars, &mark)?;
    let epoch = seen.ended.as_ref().map_or(0, |run| run.epoch);
    ensure!(epoch == 3, "the run ended in epoch {epoch}");
    // A claim whose commit waited for the counters when it died leaves a gap in the epochs and no event.
    let least = if second.starts_with("advance") { 1 } else { 2 };
    ensure!((least..=2).contains(&scars.claims), "{} claims", scars.claims);
    Ok(())
}

async fn deaths_in_takeovers(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "4ms").await?;
    for first in FIRST {
        for second in SECOND {
            let died = die_twice(&mut scene, first, second).await;
            died.with_context(|| format!("{first}, then {second}, {stores:?}"))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_in_a_takeover_on_embedded_stores() -> anyhow::Result<()> {
    deaths_in_takeovers(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_in_a_takeover_on_servers() -> anyhow::Result<()> {
    deaths_in_takeovers(Stores::Servers).await
}
