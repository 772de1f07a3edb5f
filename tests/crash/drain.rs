//! SIGTERM in the middle of runs: followers are told to come back, and the next process goes on.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::{GenerationFailed, event_leaf::Body};
use mar_proto::types::{ErrorReason, Usage};
use mar_testkit::process::Signal;
use mar_tests::Stores;
use mar_tests::caller::request;
use mar_tests::client::request_id;

use crate::scene::{Scene, ask};

/// Events that a run has when the signal comes: while it is synthesised, in its first generation, in its second. The
/// pace of the model leaves half a second for the signal.
const MOMENTS: [i64; 3] = [1, 3, 11];

async fn drains(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "60ms").await?;
    for moment in MOMENTS {
        let mut caller = scene.caller().await?;
        let mark = request_id();
        let session = caller.session().await?;
        let mut seen = caller.start(&request(&session, ask("medley", &mark))).await?;
        let (name, mut reader, mut follower) = (seen.name.clone(), caller.client.clone(), caller.clone());
        let signalled = async {
            while reader.get(&name).await?.next_seq < moment {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            scene.system.signal(0, Signal::Term).await
        };
        let (followed, signalled) = tokio::join!(follower.watch(&mut seen), signalled);
        followed?;
        signalled?;
        ensure!(seen.ended.is_none(), "{moment}: the run came to its end before the signal");
        ensure!(seen.reasons == [ErrorReason::Draining], "{moment}: {:?}, {}", seen.reasons, scene.tail());
        scene.system.wait_for_end(0).await?;
        scene.system.restart(0).await?;
        let cursor = seen.events.len();
        caller.pursue(&mut seen).await?;
        ensure!(seen.events.len() > cursor, "{moment}: nothing came after the restart");
        let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
        scene.judge(&scars, &mark)?;
        ensure!(scars.claims == 1, "{moment}: {} claims", scars.claims);
    }
    Ok(())
}

/// Restarts in good order, however many, are no deaths: a turn that they interrupt is tried again.
async fn drains_again_and_again(stores: Stores) -> anyhow::Result<()> {
    const TIMES: usize = 4;
    // Each turn takes seconds, so that the signal meets one however slow the machine.
    let mut scene = Scene::start(stores, "200ms").await?;
    let mut caller = scene.caller().await?;
    let mark = request_id();
    let session = caller.session().await?;
    let mut seen = caller.start(&request(&session, ask("medley", &mark))).await?;
    for _ in 0..TIMES {
        let mut reader = scene.system.client().await?;
        reader
            .until(&seen.name, |run| run.totals.unwrap_or_default().reserved.unwrap_or_default().output_tokens > 0)
            .await?;
        scene.system.signal(0, Signal::Term).await?;
        scene.system.wait_for_end(0).await?;
        scene.system.restart(0).await?;
    }
    let mut caller = scene.caller().await?;
    caller.pursue(&mut seen).await?;
    let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
    let given_up = seen.events.iter().filter_map(|event| match event.body.as_ref()?.body.as_ref()? {
        Body::GenerationFailed(failed) => Some(failed),
        _ => None,
    });
    let given_up: Vec<_> = given_up.collect();
    ensure!(given_up.len() == TIMES && scars.lost == 0, "{given_up:?}");
    let sent = |failed: &&GenerationFailed| failed.usage.is_some_and(|usage| usage.estimated);
    ensure!(given_up.iter().any(sent), "each turn takes seconds, and none was met: {given_up:?}");
    for failed in given_up {
        let usage = failed.usage.unwrap_or_default();
        // What the signal met before it was sent has used nothing.
        let told = usage.estimated || usage == Usage::default();
        ensure!(failed.reason == "DRAINING" && failed.retried && told, "{failed:?}");
        ensure!(usage.output_tokens < 512, "settled as if it had said all it might: {failed:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_on_embedded_stores_are_no_deaths() -> anyhow::Result<()> {
    drains_again_and_again(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_on_servers_are_no_deaths() -> anyhow::Result<()> {
    drains_again_and_again(Stores::Servers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_on_embedded_stores() -> anyhow::Result<()> {
    drains(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_on_servers() -> anyhow::Result<()> {
    drains(Stores::Servers).await
}
