//! What the parts of a step cost alone, on the same servers.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::router::{GetModelRequest, ListModelsRequest};
use mar_proto::tool::GetToolRequest;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_testkit::postgres::Postgres;
use mar_tests::Deployment;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;

/// A leaf and a small content, as a step's event has them.
const ROW_BYTES: usize = 600;
const PGBENCH_SECONDS: u32 = 5;
const TRIES: u32 = 500;

/// Commits per second and mean time of a single insert at a time of so many clients.
pub struct Commits {
    pub rate: f64,
    pub each: Duration,
}

/// Single inserts into a table like the log's, in a database of its own.
pub fn commits(postgres: &Postgres, clients: u32) -> anyhow::Result<Commits> {
    let database = postgres.database()?;
    let table = "CREATE TABLE floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, leaf bytea NOT NULL)";
    let made = Command::new(postgres.binaries().join("psql")).args(["-q", "-c", table, &*database]).output()?;
    ensure!(made.status.success(), "no table for the floor: {}", String::from_utf8_lossy(&made.stderr));
    let script = tempfile::NamedTempFile::new()?;
    writeln!(script.as_file(), "INSERT INTO floor (leaf) VALUES (decode(repeat('ab', {ROW_BYTES}), 'hex'));")?;
    let output = Command::new(postgres.binaries().join("pgbench"))
        .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients.to_string(), "-T", &PGBENCH_SECONDS.to_string(), "-f"])
        .arg(script.path())
        .arg(&*database)
        .output()
        .context("pgbench cannot be started")?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse::<f64>().ok());
    let rate = rate.with_context(|| format!("pgbench says no tps:\n{text}"))?;
    Ok(Commits { rate, each: Duration::from_secs_f64(f64::from(clients) / rate) })
}

/// Mean time of an empty script in Redis.
pub async fn trip(url: &str) -> anyhow::Result<Duration> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let script = redis::Script::new("return 1");
    let _: i64 = script.invoke_async(&mut connection).await?;
    let began = Instant::now();
    for _ in 0..TRIES {
        let _: i64 = script.invoke_async(&mut connection).await?;
    }
    Ok(began.elapsed() / TRIES)
}

/// Mean time of one small call to the router and one to the tool gateway, over TCP.
pub async fn calls(system: &Deployment) -> anyhow::Result<Duration> {
    let mut router: RouterServiceClient<Channel> = RouterServiceClient::connect(system.endpoint(1)).await?;
    let mut gateway: ToolGatewayServiceClient<Channel> = ToolGatewayServiceClient::connect(system.endpoint(3)).await?;
    router.list_models(ListModelsRequest::default()).await?;
    let began = Instant::now();
    for _ in 0..TRIES {
        router.get_model(GetModelRequest { name: "models/rehearsal".into() }).await?;
        gateway.get_tool(GetToolRequest { name: "tools/docs.search".into() }).await?;
    }
    Ok(began.elapsed() / TRIES)
}

/// Mean time of a request of this body to the model's server, whose answer is streamed, over one connection.
pub async fn exchange(system: &Deployment, body: &str) -> anyhow::Result<Duration> {
    let address = system.rehearsal.address();
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = head + body;
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let began = Instant::now();
    for _ in 0..TRIES {
        stream.write_all(request.as_bytes()).await?;
        answer.clear();
        // The last chunk of a chunked body.
        while !answer.ends_with(b"0\r\n\r\n") {
            let read = stream.read(&mut piece).await?;
            ensure!(read > 0, "the model's server hangs up: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    Ok(began.elapsed() / TRIES)
}
