//! What runs that wait, and those who watch them, take of memory.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use mar_proto::session::{RunState, Task, WatchRunRequest};
use mar_testkit::usage;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};

use crate::{say, title};

const SCRIPT: &str = r#"
[[rule]]
reply = { tool_calls = [{ name = "caller_ask", arguments = { question = "Which colour?" } }] }
"#;
/// Runs before the first look, so that caches and pools are there.
const WARM: usize = 200;
const LANES: usize = 16;
const FOLLOWERS: usize = 1_000;
/// Streams that share a connection.
const STREAMS: usize = 50;

pub async fn measure(parked: bool, watched: bool) -> anyhow::Result<()> {
    let wanted = std::env::var("MAR_BENCH_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let runs = if parked { wanted } else { FOLLOWERS };
    title(&format!("Memory, {runs} parked runs, each asking its caller"))?;
    let system = Deployment::start(Options::new(Shape::Four, Stores::Servers).own_servers().script(SCRIPT)).await?;
    let client = system.client().await?;
    let pid = system.pid(0).context("no session")?;
    park(&client, WARM).await?;
    let before = settled(pid).await?;
    let names = park(&client, runs).await?;
    let after = settled(pid).await?;
    let grown = mebibytes(after) - mebibytes(before);
    say(format!("session, beside {:.0} MB before", mebibytes(before)), format!("{grown:.1} MB"), bound(runs))?;
    if watched {
        watch(&system, &names, pid).await?;
    }
    Ok(())
}

fn bound(runs: usize) -> String {
    format!("(wanted: {:.0} MB or less)", 50.0 * runs as f64 / 10_000.0)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Resident memory when nothing happens any more.
async fn settled(pid: u32) -> anyhow::Result<u64> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    usage::resident(pid)
}

/// Starts runs, each in a session of its own, until all of them wait.
async fn park(client: &Client, count: usize) -> anyhow::Result<Vec<String>> {
    let one = |mut client: Client| async move {
        let session = client.session().await?;
        let task = Task { may_ask: true, ..task::question("Ask me.") };
        Ok::<_, anyhow::Error>(client.start(&session, task).await?.name)
    };
    let started = futures::stream::iter((0..count).map(|_| one(client.clone()))).buffer_unordered(LANES);
    let names: Vec<String> = futures::TryStreamExt::try_collect(started).await?;
    let mut client = client.clone();
    for name in &names {
        client.until(name, |run| run.state() == RunState::Waiting).await?;
    }
    Ok(names)
}

/// Follows runs, each once.
async fn watch(system: &Deployment, names: &[String], pid: u32) -> anyhow::Result<()> {
    let before = settled(pid).await?;
    let mut streams = Vec::new();
    for part in names[..FOLLOWERS.min(names.len())].chunks(STREAMS) {
        let mut client = system.client().await?;
        for name in part {
            let request = WatchRunRequest { name: name.clone(), ..Default::default() };
            let mut stream = client.grpc.watch_run(request).await?.into_inner();
            stream.message().await?.context("no snapshot")?;
            streams.push((client.clone(), stream));
        }
    }
    let each = (settled(pid).await?.saturating_sub(before)) / 1024 / u64::try_from(streams.len().max(1))?;
    say(format!("a follower, of {}", streams.len()), format!("{each} KB"), "(wanted: 50 KB or less)")
}
