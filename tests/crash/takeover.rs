//! Death of who has taken a lease over and has not said so in the log.

use anyhow::{Context as _, ensure};
use mar_session::crash::Point;
use mar_tests::Stores;
use mar_tests::caller::{Seen, request};
use mar_tests::client::request_id;

use crate::occasion::{self, Occasion};
use crate::scene::{Scene, ask};

/// So many replicas die one after the other with the same lease in hand.
const MOST_DEATHS: usize = 2;

async fn die_at(scene: &mut Scene, point: Point, deaths: usize) -> anyhow::Result<()> {
    scene.arm("commit.done@2").await?;
    let mut caller = scene.caller().await?;
    let mark = request_id();
    let request = request(&caller.session().await?, ask("medley", &mark));
    let mut seen = Seen::default();
    caller.once(&request, &mut seen).await?;
    ensure!(seen.ended.is_none(), "the run came to its end");
    for _ in 0..deaths {
        // It may die before its listener is bound, because runs are taken over before that.
        if scene.rearm(point.name()).await.is_ok() {
            scene.system.wait_for_crash().await.with_context(|| format!("nobody passes {point}"))?;
        }
    }
    scene.system.restart(0).await?;
    caller.pursue(&mut seen).await?;
    let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
    scene.judge(&scars, &mark)?;
    // Who died with the lease in hand left an epoch without an event.
    let epoch = seen.ended.as_ref().map_or(0, |run| run.epoch);
    ensure!(usize::try_from(epoch)? == 2 + deaths, "the run ended in epoch {epoch}");
    ensure!(scars.claims == 1, "{} claims", scars.claims);
    Ok(())
}

async fn every_point(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "4ms").await?;
    for point in occasion::points(Occasion::Takeover) {
        for deaths in 1..=MOST_DEATHS {
            die_at(&mut scene, point, deaths).await.with_context(|| format!("{point} {deaths} times, {stores:?}"))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_with_a_lease_in_hand_on_embedded_stores() -> anyhow::Result<()> {
    every_point(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_with_a_lease_in_hand_on_servers() -> anyhow::Result<()> {
    every_point(Stores::Servers).await
}
