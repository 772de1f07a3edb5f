//! Counters that are lost between death and restart are rebuilt from the log.

use anyhow::{Context as _, ensure};
use mar_proto::session::RunState;
use mar_proto::types::HaltReason;
use mar_testkit::redis::Redis;
use mar_tests::Stores;
use mar_tests::caller::{Seen, request};
use mar_tests::client::request_id;

use crate::scene::{Scene, ask_within};

/// How far a run may go, and how it ends by that.
#[derive(Clone, Copy)]
struct Limits {
    steps: i64,
    calls: i64,
    end: (RunState, HaltReason),
}

const ENOUGH: Limits = Limits { steps: 2, calls: 3, end: (RunState::Succeeded, HaltReason::Unspecified) };
const ONE_STEP: Limits = Limits { steps: 1, calls: 3, end: (RunState::Halted, HaltReason::MaxSteps) };
const TWO_CALLS: Limits = Limits { steps: 2, calls: 2, end: (RunState::Halted, HaltReason::MaxToolCalls) };

/// Dies at `wish`, loses the counters, and goes on under the same limits.
async fn lose(scene: &mut Scene, wish: &str, limits: Limits) -> anyhow::Result<usize> {
    scene.arm(wish).await?;
    let mut caller = scene.caller().await?;
    let mark = request_id();
    let request = request(&caller.session().await?, ask_within("medley", &mark, limits.steps, limits.calls));
    let mut seen = Seen::default();
    caller.once(&request, &mut seen).await?;
    scene.system.wait_for_crash().await?;
    tokio::task::block_in_place(|| Redis::shared()?.flush())?;
    scene.system.restart(0).await?;
    caller.pursue(&mut seen).await?;
    let scars = caller.judge(&seen).await.with_context(|| scene.tail())?;
    let run = seen.ended.as_ref().context("no end")?;
    ensure!((run.state(), run.halt_reason()) == limits.end, "{:?} {:?}", run.state(), run.halt_reason());
    if run.state() == RunState::Succeeded {
        scene.judge(&scars, &mark)?;
    }
    Ok(scars.rebuilt)
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_counters_are_rebuilt() -> anyhow::Result<()> {
    let mut scene = Scene::start(Stores::Servers, "2ms").await?;
    for wish in ["advance.done@2", "commit.done@1", "commit.done@2", "commit.done@3", "turn.in_hand@2"] {
        let rebuilt = lose(&mut scene, wish, ENOUGH).await.with_context(|| wish.to_owned())?;
        ensure!(rebuilt >= 1, "{wish}: the loss does not stand in the log");
    }
    for wish in ["commit.done@1", "advance.done@2", "commit.done@2", "result.in_hand@1"] {
        lose(&mut scene, wish, ONE_STEP).await.with_context(|| format!("one step, {wish}"))?;
    }
    for wish in ["commit.done@1", "turn.in_hand@1"] {
        lose(&mut scene, wish, TWO_CALLS).await.with_context(|| format!("two calls, {wish}"))?;
    }
    Ok(())
}
