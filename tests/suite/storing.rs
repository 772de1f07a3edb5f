//! What a step takes in the store, and of the counters.

use anyhow::Context as _;
use mar_tests::steps::{self, MOST_BESIDE};
use mar_tests::{Deployment, Options, Shape, Stores};

/// More than enough for numbers to have grown by two digits, and for anything that is copied from step to step to show.
const STEPS: u32 = 120;
/// Bytes by which a late step may be larger than an early one: its leaves tell larger numbers (positions, steps, what is used
/// and left), each of which grows by a byte for two digits or so. What is copied from step to step is far more.
const MOST_GROWTH: i64 = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_takes_little_over_its_content_and_later_ones_take_the_same() -> anyhow::Result<()> {
    let options = Options::new(Shape::Four, Stores::Servers).own_servers().script(steps::script(STEPS + 1));
    let system = Deployment::start(options).await?;
    let run = steps::run(&mut system.client().await?, STEPS + 1).await?;
    let postgres = system.postgres.as_ref().context("no Postgres")?;
    let of = |step| tokio::task::block_in_place(|| steps::beside_content(postgres, &run, step));
    let (early, rows) = of(4)?;
    assert_eq!(rows, 4, "a step has four events");
    assert!((1..=MOST_BESIDE).contains(&early), "step 4 takes {early} B over its content");
    for step in (8..=STEPS).step_by(16) {
        let (late, rows) = of(step)?;
        assert_eq!(rows, 4, "a step has four events");
        assert!(late <= MOST_BESIDE, "step {step} takes {late} B over its content");
        assert!(late - early <= MOST_GROWTH, "step {step} takes {late} B over its content, and step 4 {early} B");
    }
    Ok(())
}

/// Scripts that the counters have run so far.
fn scripts(system: &Deployment) -> anyhow::Result<u32> {
    let redis = system.redis.as_ref().context("no Redis")?;
    let told = tokio::task::block_in_place(|| redis.text("INFO commandstats"))?;
    let line = told.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    Ok(line.and_then(|line| line.split(',').next()).map_or(Ok(0), str::parse)?)
}

/// Each change is one trip: its answer is taken the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_asks_the_counters_twice() -> anyhow::Result<()> {
    /// An admission and an end ask for themselves.
    const BESIDE: u32 = 8;
    let options = Options::new(Shape::Four, Stores::Servers).own_servers().script(steps::script(STEPS));
    let system = Deployment::start(options).await?;
    let before = scripts(&system)?;
    steps::run(&mut system.client().await?, STEPS).await?;
    let asked = scripts(&system)? - before;
    assert!((STEPS * 2 - 2..=STEPS * 2 + BESIDE).contains(&asked), "{STEPS} steps asked {asked} times");
    Ok(())
}
