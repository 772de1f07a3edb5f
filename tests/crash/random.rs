//! `kill -9` at moments that nobody chose, with several runs in flight and a watcher on each.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_tests::Stores;
use mar_tests::caller::{Caller, Seen, request};
use mar_tests::client::request_id;
use mar_tests::oracle::Scars;
use tokio::task::JoinSet;

use crate::scene::{ONCE, SURE, Scene, ask};

/// Deaths on each pair of stores.
const DEATHS: u64 = 12;
/// Runs in flight at each death.
const RUNS: usize = 4;
/// The longest time from the first request to the death, in milliseconds: as long as an undisturbed run takes.
const LONGEST: u64 = 900;
const SEED: u64 = 0x6d61_7221;

/// The next number of a small generator, splitmix64: the moments are the same in every run of the test.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Asks, and follows over any number of deaths.
async fn ask_and_follow(mut caller: Caller, session: String, mark: String) -> anyhow::Result<(Seen, String)> {
    let request = request(&session, ask("medley", &mark));
    let mut seen = Seen::default();
    // Until the run's name is known only the same request finds it; then the cursor does.
    while seen.name.is_empty() {
        caller.once(&request, &mut seen).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    caller.pursue(&mut seen).await?;
    Ok((seen, mark))
}

async fn random_deaths(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores, "15ms").await?;
    let mut state = SEED;
    let mut sum = Scars::default();
    for death in 0..DEATHS {
        let mut runs = JoinSet::new();
        for _ in 0..RUNS {
            let mut caller = scene.caller().await?;
            let session = caller.session().await?;
            runs.spawn(ask_and_follow(caller, session, request_id()));
        }
        let moment = Duration::from_millis(next(&mut state) % LONGEST);
        tokio::time::sleep(moment).await;
        scene.system.kill(0).await?;
        scene.system.restart(0).await?;
        let mut caller = scene.caller().await?;
        while let Some(run) = runs.join_next().await {
            let what = || format!("{stores:?}, death {death} after {moment:?}\n{}", scene.tail());
            let (seen, mark) = run?.with_context(what)?;
            let scars = caller.judge_success(&seen).await.with_context(what)?;
            scene.judge(&scars, &mark).with_context(what)?;
            sum += &scars;
        }
    }
    ensure!(sum.claims > 0 && sum.lost > 0, "no death met a run: {sum:?}");
    scene.calls_hold(SURE, &sum)?;
    scene.calls_hold(ONCE, &sum)
}

#[tokio::test(flavor = "multi_thread")]
async fn random_deaths_on_embedded_stores() -> anyhow::Result<()> {
    random_deaths(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn random_deaths_on_servers() -> anyhow::Result<()> {
    random_deaths(Stores::Servers).await
}
