//! A panic in an executor, or in an effect of one, hurts nothing but its run for a moment: the process lives, and the run
//! goes on from its log in the same process.

use anyhow::{Context as _, ensure};
use mar_session::crash::Point;
use mar_tests::Stores;
use mar_tests::caller::{Seen, request};
use mar_tests::client::request_id;

use crate::scene::{Scene, ask};

/// Where the executor itself passes, and where an effect does.
const POINTS: [Point; 5] =
    [Point::AdvanceDone, Point::CommitDone, Point::GenerationStreaming, Point::CallSent, Point::EndCommitted];

async fn panics_hurt_nobody(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "4ms").await?;
    for point in POINTS {
        scene.system.kill(0).await?;
        scene.system.restart_with(0, vec![("MAR_PANIC_AT", point.to_string())]).await?;
        let mut caller = scene.caller().await?;
        caller.wait_for_tools().await?;
        let mark = request_id();
        let asked = request(&caller.session().await?, ask("medley", &mark));
        let mut seen = Seen::default();
        caller.insist(&asked, &mut seen).await.with_context(|| format!("{point}: {}", scene.tail()))?;
        let log = scene.system.log().join("\n");
        ensure!(log.contains(&format!("told to panic at {point}")), "{point}: nothing panicked");
        let scars = caller.judge_success(&seen).await.with_context(|| format!("{point}: {}", scene.tail()))?;
        scene.judge(&scars, &mark).with_context(|| point.to_string())?;
        let had_ended = point == Point::EndCommitted;
        ensure!(scars.claims == usize::from(!had_ended), "{point}: {} claims", scars.claims);
        // The process that panicked is the one that is asked next.
        let again = request_id();
        let after = request(&asked.session, ask("search", &again));
        let mut seen = Seen::default();
        caller.once(&after, &mut seen).await?;
        ensure!(seen.ended.is_some(), "{point}: the process is gone: {:?}", seen.reasons);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_hurt_nobody_on_embedded_stores() -> anyhow::Result<()> {
    panics_hurt_nobody(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_hurt_nobody_on_servers() -> anyhow::Result<()> {
    panics_hurt_nobody(Stores::Servers).await
}
