//! A cancel that was answered outlives the process that answered it.

use anyhow::{Context as _, ensure};
use mar_proto::session::{CancelRunRequest, RunState};
use mar_tests::Stores;
use mar_tests::caller::request;
use mar_tests::client::request_id;

use crate::scene::{Scene, ask};

/// Deaths right after the answer.
const TIMES: usize = 5;

async fn cancelled(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "60ms").await?;
    for time in 0..TIMES {
        let mut caller = scene.caller().await?;
        let session = caller.session().await?;
        let mut seen = caller.start(&request(&session, ask("medley", &request_id()))).await?;
        let (mut client, name) = (caller.client.clone(), seen.name.clone());
        client.until(&name, |run| run.state() == RunState::Running).await?;
        client.grpc.cancel_run(CancelRunRequest { name, ..Default::default() }).await?;
        scene.system.kill(0).await?;
        scene.system.restart(0).await?;
        let mut caller = scene.caller().await?;
        caller.pursue(&mut seen).await?;
        let run = seen.ended.with_context(|| scene.tail())?;
        ensure!(run.state() == RunState::Cancelled && run.seal.is_some(), "{time}: {run:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_outlives_its_process_on_embedded_stores() -> anyhow::Result<()> {
    cancelled(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_outlives_its_process_on_servers() -> anyhow::Result<()> {
    cancelled(Stores::Servers).await
}
