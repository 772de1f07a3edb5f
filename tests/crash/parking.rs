//! Death of who has just let go of a run that waits: what it waits for wakes it anywhere.

use anyhow::{Context as _, ensure};
use mar_proto::session::{CallerTool, SubmitToolResultRequest, Task, WaitReason};
use mar_proto::types::{Part, ToolResult, part::Content};
use mar_session::crash::Point;
use mar_tests::Stores;
use mar_tests::caller::request;
use mar_tests::client::request_id;

use crate::occasion::{self, Occasion};
use crate::scene::{Scene, ask};

/// A task whose caller makes the one call.
fn asking() -> Task {
    let look = CallerTool {
        name: "look".into(),
        description: "Looks out of the window.".into(),
        input_schema_json: r#"{"type":"object"}"#.into(),
        ..CallerTool::default()
    };
    Task { caller_tools: vec![look], ..ask("window", &request_id()) }
}

async fn die_at(scene: &mut Scene, point: Point) -> anyhow::Result<()> {
    scene.arm(point.name()).await?;
    let mut caller = scene.caller().await?;
    let session = caller.session().await?;
    let mut seen = caller.start(&request(&session, asking())).await?;
    scene.system.wait_for_crash().await?;
    scene.system.restart(0).await?;
    let mut caller = scene.caller().await?;
    let waits = |run: &mar_proto::session::Run| run.wait_reason() == WaitReason::ToolResult;
    let waiting = caller.client.until(&seen.name, waits).await?;
    let held = waiting.held_calls.first().context("it waits for nothing")?;
    let said = Part { content: Some(Content::Text("It rains.".into())), ..Part::default() };
    let result = ToolResult { call_id: held.call_id.clone(), content: vec![said], ..ToolResult::default() };
    let submit = SubmitToolResultRequest { request_id: request_id(), run: seen.name.clone(), result: Some(result) };
    caller.client.grpc.submit_tool_result(submit).await?;
    caller.pursue(&mut seen).await?;
    let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
    ensure!(scars.claims == 1 && scars.lost == 0, "nothing was in flight: {scars:?}");
    Ok(())
}

async fn every_point(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "4ms").await?;
    for point in occasion::points(Occasion::Parking) {
        for time in 0..2 {
            die_at(&mut scene, point).await.with_context(|| format!("{point} {time} {stores:?}\n{}", scene.tail()))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_parking_on_embedded_stores() -> anyhow::Result<()> {
    every_point(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_parking_on_servers() -> anyhow::Result<()> {
    every_point(Stores::Servers).await
}
