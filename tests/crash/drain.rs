//! SIGTERM in the middle of runs: followers are told to come back, and the next process goes on.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::types::ErrorReason;
use mar_testkit::process::Signal;
use mar_tests::Stores;
use mar_tests::client::request_id;

use crate::caller::{Seen, request};
use crate::scene::{Scene, ask};

async fn drains(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "25ms").await?;
    let mut caller = scene.caller().await?;
    for after in [120, 350, 700] {
        let mark = request_id();
        let request = request(&caller.session().await?, ask("medley", &mark));
        let mut seen = Seen::default();
        let mut follower = caller.clone();
        let following = follower.once(&request, &mut seen);
        let signalled = async {
            tokio::time::sleep(Duration::from_millis(after)).await;
            scene.system.signal(0, Signal::Term).await
        };
        let (followed, signalled) = tokio::join!(following, signalled);
        followed?;
        signalled?;
        ensure!(seen.ended.is_none(), "{after} ms: the run came to its end before the signal");
        ensure!(seen.reasons == [ErrorReason::Draining], "{after} ms: {:?}, {}", seen.reasons, scene.tail());
        scene.system.wait_for_end(0).await?;
        scene.system.restart(0).await?;
        let cursor = seen.events.len();
        caller.pursue(&mut seen).await?;
        ensure!(seen.events.len() > cursor, "{after} ms: nothing came after the restart");
        let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
        scene.judge(&scars, &mark)?;
        ensure!(scars.claims == 1, "{after} ms: {} claims", scars.claims);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_on_embedded_stores() -> anyhow::Result<()> {
    drains(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_on_servers() -> anyhow::Result<()> {
    drains(Stores::Servers).await
}
