//! One tool call, cut at each of its edges: what the log, the tool and the model make of it.

use anyhow::{Context as _, ensure};
use mar_proto::session::{Event, ToolOutcome, event_leaf::Body};
use mar_tests::Stores;
use mar_tests::caller::{Seen, names, request};
use mar_tests::client::request_id;

use crate::scene::{ONCE, SURE, Scene, ask};

/// Where the call is cut, and how often its tool had been reached by then.
const EDGES: [(&str, usize); 3] = [("commit.done@2", 0), ("call.sent@1", 0), ("result.in_hand@1", 1)];

/// The story of a run whose call was in flight when its process died.
fn story(resolution: &[&'static str]) -> Vec<&'static str> {
    let before = ["RunAdmitted", "AgentSealed", "GenerationStarted", "TurnCommitted", "ToolIntent", "RunClaimed"];
    let after = ["GenerationStarted", "TurnCommitted", "RunEnded"];
    [&before, resolution, &after].concat()
}

fn outcomes(events: &[Event]) -> Vec<ToolOutcome> {
    let bodies = events.iter().filter_map(|event| event.body.as_ref()?.body.as_ref());
    let returned = bodies.filter_map(|body| match body {
        Body::ToolReturned(returned) => Some(returned.outcome()),
        _ => None,
    });
    returned.collect()
}

async fn cut(scene: &mut Scene, tool: &str, wish: &str, reached: usize) -> anyhow::Result<()> {
    scene.arm(wish).await?;
    let mut caller = scene.caller().await?;
    let mark = request_id();
    let request = request(&caller.session().await?, ask(tool, &mark));
    let mut seen = Seen::default();
    caller.once(&request, &mut seen).await?;
    ensure!(seen.ended.is_none(), "the run came to its end");
    scene.system.wait_for_crash().await?;
    let before: usize = scene.journal(SURE)?.values().sum::<usize>() + scene.journal(ONCE)?.values().sum::<usize>();
    scene.system.restart(0).await?;
    caller.pursue(&mut seen).await?;
    let scars = caller.judge_success(&seen).await.with_context(|| scene.tail())?;
    scene.judge(&scars, &mark)?;
    // Counters of one process die with it: what is rebuilt stands in the log, and nothing else differs.
    let told: Vec<_> = names(&seen.events).into_iter().filter(|name| *name != "CountersRebuilt").collect();
    let key = scars.keys.keys().next().context("no intent")?.1.clone();
    if tool == ONCE {
        ensure!(told == story(&["ToolReturned"]), "{told:?}");
        ensure!(outcomes(&seen.events) == [ToolOutcome::Unknown], "{:?}", outcomes(&seen.events));
        let calls = scene.journal(ONCE)?.get(&key).copied().unwrap_or(0);
        ensure!(calls == reached, "the tool was called {calls} times");
    } else {
        ensure!(told == story(&["ToolIntent", "ToolReturned"]), "{told:?}");
        ensure!(outcomes(&seen.events) == [ToolOutcome::Ok], "{:?}: {}", outcomes(&seen.events), scene.tail());
        let calls = scene.journal(SURE)?.get(&key).copied().unwrap_or(0);
        ensure!(tool != SURE || calls == reached + 1, "the tool was called {calls} times");
    }
    ensure!(before >= usize::from(tool != "search") * reached, "the tool was not reached before the death");
    Ok(())
}

async fn every_edge(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "2ms").await?;
    for tool in [SURE, ONCE, "search"] {
        for (wish, reached) in EDGES {
            cut(&mut scene, tool, wish, reached).await.with_context(|| format!("{tool} {wish} {stores:?}"))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_call_on_embedded_stores() -> anyhow::Result<()> {
    every_edge(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_call_on_servers() -> anyhow::Result<()> {
    every_edge(Stores::Servers).await
}
