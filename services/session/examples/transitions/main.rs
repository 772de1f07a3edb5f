//! Benchmark A: the cost of a transition (decide, counters, commit) with peers in the same process, beside its floors
//! measured in the same run. `make bench` builds it optimised and runs it; it starts its own Postgres and Redis and takes
//! about a minute. Whatever else uses the machine meanwhile takes its share from both sides unevenly: measure on a quiet one.
//!
//! Floors: single-insert commits per second of pgbench on the same Postgres, and one trip of an empty script to the same
//! Redis. Peers: durable steps per second of Restate and DBOS.

use std::fmt::Display;
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use futures::StreamExt as _;
use mar_descriptor::SigningKey;
use mar_proto::agent::{GenerateAgentRequest, GenerateAgentResponse};
use mar_proto::router::{StreamGenerateResponse, Turn, stream_generate_response::Frame};
use mar_proto::session::{Agent, RunState, Session, Task};
use mar_proto::tool::{
    InvokeToolRequest, InvokeToolResponse, ReceiveResultRequest, ReceiveResultResponse, invoke_tool_response::Outcome,
    receive_result_response,
};
use mar_proto::types::{
    HaltingPolicy, Message, Part, Role, SealedDescriptor, ToolCall, ToolDefinition, ToolResult, Usage, part::Content,
};
use mar_runtime::auth::Caller;
use mar_runtime::clock::{Clock, SystemClock, SystemIds};
use mar_session::clients::{Peers, Refusal, RunContext, TurnRequest, TurnStream};
use mar_session::counters::redis::{RedisConfig, RedisCounters};
use mar_session::crash::CrashPoints;
use mar_session::executor::Shared;
use mar_session::runs::{Admit, Follow, Limits, Replicas, Runs};
use mar_session::sabotage::Sabotage;
use mar_session::sessions::Sessions;
use mar_session::signals::Silence;
use mar_session::store::RequestKey;
use mar_session::store::postgres::{PostgresConfig, PostgresStore};
use mar_session::tenants::Tenants;
use mar_testkit::postgres::Postgres;
use mar_testkit::redis::Redis;
use mar_testkit::usage;
use tokio::task::JoinSet;

mod peers;

use peers::{Job, Peer};

const CLIENTS: usize = 16;
/// Runs at a time.
const WIDTHS: [usize; 3] = [1, CLIENTS, 64];
const STEPS: i64 = 60;
/// Of so many runs one after another: what a service does when it has just begun weighs little in them.
const ROUNDS: usize = 16;
/// Workflows of a peer, at each width: the slower one takes half a minute for their steps.
const WORKFLOWS: usize = 64;
const PGBENCH_SECONDS: u32 = 6;
/// A leaf and a small content, as a step's event has them.
const ROW_BYTES: usize = 600;

/// Peers that answer at once: a call of one tool in every turn, and an answer in the last.
struct Instant;

fn text(text: &str) -> Part {
    Part { content: Some(Content::Text(text.into())), ..Part::default() }
}

#[async_trait]
impl Peers for Instant {
    async fn generate_agent(&self, _: &RunContext, _: GenerateAgentRequest) -> Result<GenerateAgentResponse, Refusal> {
        let tool = ToolDefinition {
            name: "tools/bench.tool".into(),
            alias: "bench_tool".into(),
            input_schema_json: "{}".into(),
            idempotent: true,
            ..ToolDefinition::default()
        };
        let agent = Agent {
            descriptor: Some(SealedDescriptor { hash: format!("sha256:{}", "0".repeat(64)), ..Default::default() }),
            prompt: vec![Message { role: Role::User.into(), parts: vec![text("go")] }],
            tools: vec![tool],
            price: None,
            context_tokens: 0,
        };
        Ok(GenerateAgentResponse { name: String::new(), agent: Some(agent) })
    }

    async fn stream_generate(&self, _: &RunContext, request: TurnRequest, _: Duration) -> Result<TurnStream, Refusal> {
        let step: i64 = request.generation_id.split('/').nth(1).and_then(|step| step.parse().ok()).unwrap_or(0);
        let part = if step < STEPS {
            let call = ToolCall {
                tool: "tools/bench.tool".into(),
                provider_call_id: format!("call_{step}"),
                // An agent that asked the same again and again would be halted.
                arguments_json: format!(r#"{{"query":"question {step} of middling length"}}"#),
                ..ToolCall::default()
            };
            Part { content: Some(Content::ToolCall(call)), ..Part::default() }
        } else {
            text("done")
        };
        let turn = Turn {
            message: Some(Message { role: Role::Assistant.into(), parts: vec![part] }),
            model: "models/bench".into(),
            usage: Some(Usage { input_tokens: 100, output_tokens: 20, ..Usage::default() }),
            ..Turn::default()
        };
        let frame = StreamGenerateResponse { frame: Some(Frame::Turn(turn)) };
        Ok(futures::stream::iter([Ok(frame)]).boxed())
    }

    async fn invoke_tool(
        &self,
        _: &RunContext,
        _: InvokeToolRequest,
        _: Duration,
    ) -> Result<InvokeToolResponse, Refusal> {
        let result =
            ToolResult { content: vec![text("a result of middling length, as tools give them")], ..Default::default() };
        Ok(InvokeToolResponse { outcome: Some(Outcome::Result(result)), ..InvokeToolResponse::default() })
    }

    async fn receive_result(
        &self,
        _: &RunContext,
        request: ReceiveResultRequest,
        _: Duration,
    ) -> Result<ReceiveResultResponse, Refusal> {
        let outcome = request.result.map(receive_result_response::Outcome::Result);
        Ok(ReceiveResultResponse { outcome, ..ReceiveResultResponse::default() })
    }

    fn forget(&self, _: &RunContext) {}
}

fn limits() -> HaltingPolicy {
    let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    HaltingPolicy {
        max_steps: Some(STEPS + 1),
        max_tool_calls: Some(STEPS + 1),
        max_active_time: span(600),
        expire_after: span(3_600),
        max_depth: Some(0),
        max_input_tokens: Some(1_000_000_000),
        max_output_tokens: Some(1_000_000_000),
        max_cost_nano_usd: Some(0),
        on_budget: 1,
    }
}

fn key(method: &'static str, id: usize) -> RequestKey {
    RequestKey { principal: "bench".into(), method, request_id: id.to_string(), digest: [0; 32] }
}

/// Runs whole runs, `width` at a time; answers commits and the time they took.
async fn transitions(
    runs: &Runs,
    clock: &SystemClock,
    width: usize,
    rounds: usize,
    base: usize,
) -> anyhow::Result<(u64, Duration)> {
    let caller = Caller { tenant: "bench".into(), principal: "bench".into(), ..Caller::dev() };
    let sessions = Sessions::new(runs.clone());
    let began = clock.monotonic();
    let one = |lane: usize| {
        let (runs, caller, sessions) = (runs.clone(), caller.clone(), sessions.clone());
        async move {
            for round in 0..rounds {
                let id = base + lane * rounds + round;
                let session = sessions.start(&caller, key("/bench/session", id), Session::default()).await?;
                let session = session.name.trim_start_matches("sessions/").parse()?;
                let task = Task { r#type: "bench".into(), input: vec![text("go")], ..Task::default() };
                let admit =
                    Admit { key: key("/bench/run", id), session, task, limits: limits(), parallel: false, fork: None };
                let run = runs.admit(&caller, admit).await?;
                let id = run.name.rsplit('/').next().unwrap_or_default().parse()?;
                let follow =
                    Follow { tenant: caller.tenant.clone(), session, run: id, from_seq: 0, after: None, deltas: false };
                let mut frames = runs.follow(follow).await?;
                let mut last = None;
                while let Some(frame) = frames.next().await {
                    last = frame?.frame;
                }
                let Some(mar_proto::session::run_frame::Frame::End(end)) = last else { anyhow::bail!("no end") };
                let run = end.run.context("no run")?;
                ensure!(run.state() == RunState::Succeeded, "{run:?}");
            }
            anyhow::Ok(())
        }
    };
    // Each a task, as a caller's call is one: on the thread that waits for all of them every event would wake it.
    let mut lanes: JoinSet<anyhow::Result<()>> = (0..width).map(one).collect();
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    let took = clock.monotonic().saturating_sub(began);
    // Admission, the first commit A with the agent, two commits a step but for the last, which ends the run in its B.
    let commits = (width * rounds) as u64 * (1 + 1 + 2 * STEPS as u64);
    Ok((commits, took))
}

/// Commits per second and mean latency of pgbench inserting one row at a time.
fn pgbench(postgres: &Postgres, url: &str, clients: usize) -> anyhow::Result<(f64, Duration)> {
    let script = tempfile::NamedTempFile::new()?;
    writeln!(script.as_file(), "INSERT INTO floor (leaf) VALUES (decode(repeat('ab', {ROW_BYTES}), 'hex'));")?;
    let output = Command::new(postgres.binaries().join("pgbench"))
        .args(["-n", "-M", "prepared", "-j", "2"])
        .args(["-c", &clients.to_string(), "-T", &PGBENCH_SECONDS.to_string()])
        .arg("-f")
        .arg(script.path())
        .arg(url)
        .output()
        .context("pgbench cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse::<f64>().ok());
    let tps = tps.with_context(|| format!("pgbench says no tps:\n{text}"))?;
    Ok((tps, Duration::from_secs_f64(clients as f64 / tps)))
}

/// Mean time of a trip of an empty script, one at a time.
async fn redis_trip(url: &str, clock: &SystemClock) -> anyhow::Result<Duration> {
    const TRIPS: u32 = 5_000;
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let script = redis::Script::new("return 1");
    let _: i64 = script.invoke_async(&mut connection).await?;
    let began = clock.monotonic();
    for _ in 0..TRIPS {
        let _: i64 = script.invoke_async(&mut connection).await?;
    }
    Ok(clock.monotonic().saturating_sub(began) / TRIPS)
}

/// Scripts that a Redis has run so far.
async fn calls(url: &str) -> anyhow::Result<u64> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await?;
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    Ok(line.and_then(|line| line.split(',').next()).context("no scripts ran")?.parse()?)
}

fn micros(span: Duration) -> String {
    format!("{:.0} µs", span.as_secs_f64() * 1e6)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let postgres = tokio::task::block_in_place(|| Postgres::builder().durable().start())?;
    let redis = tokio::task::block_in_place(Redis::start)?;
    let (store_url, floor_url) = (postgres.database()?, postgres.database()?);
    create_floor(&postgres, &floor_url)?;

    let (floor_rate, _) = tokio::task::block_in_place(|| pgbench(&postgres, &floor_url, CLIENTS))?;
    let (_, floor_commit) = tokio::task::block_in_place(|| pgbench(&postgres, &floor_url, 1))?;
    let trip = redis_trip(&redis.url(), &clock).await?;

    let runs = runs(&store_url, &redis.url()).await?;
    transitions(&runs, &clock, 2, 1, 0).await?;
    let mut loads = Vec::new();
    for (at, width) in WIDTHS.into_iter().enumerate() {
        let (cpu, stored) = (Cpu::now(&postgres, &redis)?, Stored::now(&postgres, &store_url)?);
        let counted = calls(&redis.url()).await?;
        let (commits, took) = transitions(&runs, &clock, width, ROUNDS, (at + 1) * 100_000).await?;
        loads.push(Load {
            width,
            commits: commits as f64,
            took,
            cpu: Cpu::now(&postgres, &redis)?.since(cpu),
            calls: calls(&redis.url()).await? - counted,
            stored: Stored::now(&postgres, &store_url)?.since(stored),
        });
    }
    runs.close().await;
    let peers = tokio::task::block_in_place(|| peers(&postgres))?;
    let (again, _) = tokio::task::block_in_place(|| pgbench(&postgres, &floor_url, CLIENTS))?;

    let floor_rate = f64::midpoint(floor_rate, again);
    say(format!("A, transition: decide + counters + commit, peers in process, {STEPS} steps a run"))?;
    let floor = format!("pgbench, single insert, {CLIENTS} clients");
    line(floor, format!("{floor_rate:.0} /s"), "floor, before and after")?;
    line("pgbench, single insert, 1 client", micros(floor_commit), "floor")?;
    line("redis, empty script, one at a time", micros(trip), "floor")?;
    for load in &loads {
        load.report(floor_rate, floor_commit + trip)?;
        for peer in peers.iter().filter(|peer| peer.width == load.width) {
            let ratio = format!("ratio {:.1} (wanted of the better one: 3.0 or more)", load.rate() / peer.rate);
            line(format!("  {}, as many workflows", peer.name), format!("{:.0} steps/s", peer.rate), ratio)?;
        }
    }
    Ok(())
}

async fn runs(store_url: &str, redis_url: &str) -> anyhow::Result<Runs> {
    let store = PostgresStore::connect(&PostgresConfig::new(store_url.to_owned().into())).await?;
    let shared = Shared {
        store: Arc::new(store),
        counters: Arc::new(RedisCounters::new(&RedisConfig::new(redis_url.to_owned().into()))?),
        peers: Arc::new(Instant),
        clock: Arc::new(SystemClock::new()),
        seal_key: SigningKey::from_seed(&[7; 32]),
        crash: CrashPoints::default(),
        tenants: Tenants::default(),
        sabotage: Sabotage::default(),
        signals: Arc::new(Silence),
    };
    let runs = Runs::new(shared, Arc::new(SystemIds), Limits::default(), Replicas::default());
    // One that gives no sign of life does not trust itself, and reads everything from the store.
    runs.beat().await;
    runs.keep_claiming();
    Ok(runs)
}

/// The engines beside us, where they are installed.
fn peers(postgres: &Postgres) -> anyhow::Result<Vec<Peer>> {
    let Some(installed) = std::env::var_os("MAR_BENCH_PEERS") else {
        say("Restate and DBOS are not measured: MAR_BENCH_PEERS names no directory where they are installed")?;
        return Ok(Vec::new());
    };
    let mut peers = Vec::new();
    for workflows in WIDTHS.into_iter().filter(|width| *width > 1) {
        let job = Job { workflows, steps: 2 * STEPS, rounds: WORKFLOWS / workflows };
        peers.extend(peers::measure(installed.as_ref(), postgres, job)?);
    }
    Ok(peers)
}

fn say(text: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// A line of the report.
fn line(what: impl Display, figure: impl Display, beside: impl Display) -> anyhow::Result<()> {
    say(format!("  {what:<44} {figure:>14}   {beside}"))
}

/// What so many runs at a time came to.
struct Load {
    width: usize,
    commits: f64,
    took: Duration,
    cpu: Cpu,
    stored: Stored,
    /// Scripts that Redis ran.
    calls: u64,
}

impl Load {
    fn rate(&self) -> f64 {
        self.commits / self.took.as_secs_f64()
    }

    fn report(&self, floor: f64, alone: Duration) -> anyhow::Result<()> {
        let each = |spent: Duration| format!("{:.0} µs", spent.as_secs_f64() * 1e6 / self.commits);
        if self.width == 1 {
            let each = self.took.div_f64(self.commits);
            let ratio = each.as_secs_f64() / alone.as_secs_f64();
            line("transition, one run at a time", micros(each), format!("ratio {ratio:.2} (wanted: 1.50 or less)"))?;
        } else {
            let ratio = format!("ratio {:.2} (wanted: 0.60 or more)", self.rate() / floor);
            line(format!("transitions, {} runs at a time", self.width), format!("{:.0} /s", self.rate()), ratio)?;
        }
        for (who, spent) in [("this process", self.cpu.own), ("Postgres", self.cpu.postgres), ("Redis", self.cpu.redis)]
        {
            line(format!("  CPU per transition, {who}"), each(spent), "")?;
        }
        let per_event = self.cpu.postgres.as_secs_f64() * 1e6 / self.stored.events as f64;
        let wanted = format!("(wanted: 100 or less; {} events)", self.stored.events);
        line("  CPU per event, Postgres", format!("{per_event:.0} µs"), wanted)?;
        let trips = self.calls as f64 / self.commits;
        line("  trips to Redis per transition", format!("{trips:.2}"), "(1.00 but for admissions and ends)")?;
        let batch = self.commits / self.stored.transactions as f64;
        let shared = "(group commit)";
        line("  transitions per transaction of Postgres", format!("{batch:.2}"), shared)
    }
}

/// Processor time spent so far.
#[derive(Clone, Copy)]
struct Cpu {
    own: Duration,
    postgres: Duration,
    redis: Duration,
}

impl Cpu {
    fn now(postgres: &Postgres, redis: &Redis) -> anyhow::Result<Self> {
        let own = usage::processor(std::process::id())?;
        Ok(Self { own, postgres: usage::processor(postgres.pid()?)?, redis: redis.processor()? })
    }

    fn since(self, before: Self) -> Self {
        Self {
            own: self.own.saturating_sub(before.own),
            postgres: self.postgres.saturating_sub(before.postgres),
            redis: self.redis.saturating_sub(before.redis),
        }
    }
}

/// What Postgres has stored so far.
#[derive(Clone, Copy)]
struct Stored {
    events: u64,
    transactions: u64,
}

impl Stored {
    fn now(postgres: &Postgres, url: &str) -> anyhow::Result<Self> {
        // A server process tells of its transactions now and then only.
        let count = "SELECT count(*) || ' ' || count(DISTINCT xmin::text) FROM session.events";
        let output = Command::new(postgres.binaries().join("psql")).args(["-Atq", "-c", count, url]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let (events, transactions) = text.trim().split_once(' ').context("two counts")?;
        Ok(Self { events: events.parse()?, transactions: transactions.parse()? })
    }

    const fn since(self, before: Self) -> Self {
        Self { events: self.events - before.events, transactions: self.transactions - before.transactions }
    }
}

/// A table like the log's: a key and a leaf.
fn create_floor(postgres: &Postgres, url: &str) -> anyhow::Result<()> {
    let table = "CREATE TABLE floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, leaf bytea NOT NULL)";
    let output = Command::new(postgres.binaries().join("psql")).args(["-q", "-c", table, url]).output()?;
    ensure!(output.status.success(), "no table for the floor: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
