//! Benchmark B: a whole step with one tool, in four processes over TCP.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use mar_testkit::usage;
use mar_tests::steps::{run, script};
use mar_tests::{Client, Deployment, Options, Shape, Stores};

use crate::{floor, median, millis, say, title};

const STEPS: u32 = 60;
const LANES: u32 = 16;
/// Names of the processes, in the order of their numbers.
const SERVICES: [&str; 4] = ["session", "router", "agent-generator", "tool-gateway"];

/// Processor time of every process.
struct Spent(Vec<(&'static str, Duration)>);

impl Spent {
    fn now(system: &Deployment) -> anyhow::Result<Self> {
        let mut spent = Vec::new();
        for (index, name) in SERVICES.into_iter().enumerate() {
            spent.push((name, usage::processor(system.pid(index).context("it does not run")?)?));
        }
        spent.push(("Postgres", usage::processor(system.postgres.as_ref().context("no Postgres")?.pid()?)?));
        spent.push(("Redis", system.redis.as_ref().context("no Redis")?.processor()?));
        spent.push(("this process: the model's server and the callers", usage::processor(std::process::id())?));
        Ok(Self(spent))
    }
}

pub async fn measure() -> anyhow::Result<()> {
    title(&format!("B, whole step with one tool, four processes over TCP, {STEPS} steps a run"))?;
    let options = Options::new(Shape::Four, Stores::Servers).durable().script(script(STEPS));
    let system = Deployment::start(options).await?;
    let postgres = system.postgres.as_ref().context("no Postgres")?;
    let redis = system.redis.as_ref().context("no Redis")?;
    let mut client = system.client().await?;
    run(&mut client, STEPS).await?;
    let request = system.rehearsal.requests().into_iter().nth(STEPS as usize / 2).context("no request")?;

    let one = tokio::task::block_in_place(|| floor::commits(postgres, 1))?;
    let trip = floor::trip(&redis.url()).await?;
    let calls = floor::calls(&system).await?;
    let exchange = floor::exchange(&system, &request.body.to_string()).await?;
    let floor = one.each * 2 + trip * 2 + calls + exchange;

    let mut alone = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        run(&mut client, STEPS).await?;
        alone.push(began.elapsed() / STEPS);
    }
    let each = median(&mut alone);
    say("commit, one at a time (twice in a step)", millis(one.each), "floor")?;
    say("Redis, empty script (twice in a step)", millis(trip), "floor")?;
    say("gRPC call to the router and one to the tool gateway", millis(calls), "floor")?;
    say("request to the model's server, streamed", millis(exchange), "floor")?;
    let ratio = each.as_secs_f64() / floor.as_secs_f64();
    say("step, one run at a time", millis(each), format!("ratio {ratio:.2} (wanted: 1.50 or less)"))?;
    many(&system, &client).await
}

/// Several runs at a time.
async fn many(system: &Deployment, client: &Client) -> anyhow::Result<()> {
    let postgres = system.postgres.as_ref().context("no Postgres")?;
    let lanes = || (0..LANES).map(|_| client.clone());
    let before = tokio::task::block_in_place(|| floor::commits(postgres, LANES))?;
    let (spent, began) = (Spent::now(system)?, Instant::now());
    futures::future::try_join_all(lanes().map(|mut client| async move { run(&mut client, STEPS).await })).await?;
    let (took, after) = (began.elapsed(), Spent::now(system)?);
    let steps = f64::from(LANES * STEPS);
    let rate = steps / took.as_secs_f64();
    say(format!("commits, {LANES} clients"), format!("{:.0} /s", before.rate), "floor")?;
    let ratio = rate / before.rate;
    say(
        format!("steps, {LANES} runs at a time"),
        format!("{rate:.0} /s"),
        format!("ratio {ratio:.2} (wanted: 0.10 or more)"),
    )?;
    for ((name, after), (_, before)) in after.0.iter().zip(&spent.0) {
        let micros = after.saturating_sub(*before).as_secs_f64() * 1e6 / steps;
        say(format!("CPU per step, {name}"), format!("{micros:.0} µs"), "")?;
    }
    Ok(())
}
