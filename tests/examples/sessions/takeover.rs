//! How soon a run goes on when its replica is killed.

use std::time::{Duration, Instant};

use mar_testkit::wait;
use mar_tests::{Deployment, Options, Shape, Stores, task};

use crate::{median, millis, say, title};

const ROUNDS: usize = 7;
const RUNS: u64 = 8;
/// As the product has it where nothing is configured.
const BEATS: &str = "heartbeat = \"500ms\"\npatience = \"2s\"\n";
const PATIENCE: Duration = Duration::from_secs(2);
const SCRIPT: &str = "[[rule]]\nreply = { hang = true }\n";

pub async fn measure() -> anyhow::Result<()> {
    title(&format!("Takeover, {RUNS} runs of a replica that is killed while the model answers"))?;
    let mut spans = Vec::new();
    for _ in 0..ROUNDS {
        spans.push(round().await?);
    }
    let most = spans.iter().max().copied().unwrap_or_default();
    let bound = "beyond the 2 s after which a replica counts as dead (wanted: 1 s or less)";
    say(format!("first effect, median of {ROUNDS}"), millis(median(&mut spans)), bound)?;
    say(format!("first effect, longest of {ROUNDS}"), millis(most), bound)
}

/// From the kill to the first call of a model by another replica, without the time for which a replica is waited for.
async fn round() -> anyhow::Result<Duration> {
    let options = Options::new(Shape::Four, Stores::Servers).script(SCRIPT).replicas(BEATS);
    let mut system = Deployment::start(options).await?;
    let _other = system.replica().await?;
    let mut client = system.client().await?;
    for _ in 0..RUNS {
        let session = client.session().await?;
        client.start(&session, task::question("Wait.")).await?;
    }
    let model = &system.rehearsal;
    wait::until(Duration::from_secs(30), || async { model.in_flight() == RUNS }).await?;
    let before = system.rehearsal.request_count();
    system.kill(0).await?;
    let killed = Instant::now();
    let model = &system.rehearsal;
    while model.request_count() == before {
        anyhow::ensure!(killed.elapsed() < Duration::from_secs(60), "no run goes on");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(killed.elapsed().saturating_sub(PATIENCE))
}
