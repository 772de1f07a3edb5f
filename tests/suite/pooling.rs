//! Behind a proxy that gives each transaction another connection: pgbouncer in transaction mode, with its default settings.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time for real processes")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::{RunState, RunTaskRequest, Session, StartSessionRequest, Task};
use mar_proto::types::HaltingPolicy;
use mar_testkit::pgbouncer::PgBouncer;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Followed, Options, Shape, Stores, task};
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// Far more than the connections that they share.
const RUNS: i64 = 60;
/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a caller waits before it repeats what a busy store did not take.
const RETRY: Duration = Duration::from_millis(200);

/// Runs a task in a new session, as a caller does: a request that the store was too busy for is repeated, and works once.
async fn run(mut client: Client, task: Task) -> anyhow::Result<Followed> {
    let session = Session { purpose: "test".into(), ..Session::default() };
    let request = StartSessionRequest { request_id: request_id(), session: Some(session) };
    let session = loop {
        match client.grpc.start_session(request.clone()).await {
            Ok(started) => break started.into_inner().session.context("no session")?,
            Err(status) if status.code() == Code::Unavailable => tokio::time::sleep(RETRY).await,
            Err(status) => return Err(status.into()),
        }
    };
    let request =
        RunTaskRequest { request_id: request_id(), session: session.name, task: Some(task), ..Default::default() };
    loop {
        match client.run_request(request.clone()).await {
            Err(error) if error.downcast_ref::<Status>().is_some_and(|status| status.code() == Code::Unavailable) => {
                tokio::time::sleep(RETRY).await;
            }
            answer => return answer,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_runs_at_a_time_end_in_four_processes() -> anyhow::Result<()> {
    if !PgBouncer::is_installed() {
        let required = std::env::var("MAR_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
        ensure!(!required, "pgbouncer is not installed (scripts/install-tools.sh)");
        eprintln!("skipped: pgbouncer is not installed (scripts/install-tools.sh)");
        return Ok(());
    }
    let system = Deployment::start(Options::new(Shape::Four, Stores::Servers).behind_a_pooler()).await?;
    let client = system.client().await?;
    let mut runs = JoinSet::new();
    for number in 0..RUNS {
        // Limits are sealed: each run has a descriptor of its own, which the generator stores.
        let limits = HaltingPolicy { max_steps: Some(4 + number), ..HaltingPolicy::default() };
        let task = task::limited(task::with_sources("When does the harbour of Marel flood?"), limits);
        runs.spawn(tokio::time::timeout(PATIENCE, run(client.clone(), task)));
    }
    while let Some(followed) = runs.join_next().await {
        let log = || system.log_of(0).join("\n");
        let run = followed?.with_context(log)?.with_context(log)?.run;
        ensure!(run.state() == RunState::Succeeded, "{run:#?}\n{}", system.log_of(2).join("\n"));
    }
    for service in [0, 2] {
        let log = system.log_of(service).join("\n");
        ensure!(!log.contains("prepared statement"), "{log}");
    }
    let postgres = system.postgres.as_ref().context("no Postgres")?;
    let asked = |sql: &str| tokio::task::block_in_place(|| postgres.execute(sql));
    assert_eq!(asked("SELECT count(DISTINCT hash) FROM agent.descriptors")?, RUNS.to_string());
    let shared: i64 = asked("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")?.parse()?;
    ensure!((1..=4).contains(&shared), "{shared} connections came through the pooler");
    let others = "SELECT count(*) FROM pg_stat_activity \
                  WHERE application_name IN ('mar-session', 'mar-agent-generator') AND usename <> 'app'";
    assert_eq!(asked(others)?, "0", "connections past the pooler");
    Ok(())
}
