//! A running system.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use mar_proto::tool::ListToolsRequest;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_testkit::door::Door;
use mar_testkit::pgbouncer::PgBouncer;
use mar_testkit::ports;
use mar_testkit::postgres::{Database, Postgres};
use mar_testkit::process::{Process, Signal, built_binary};
use mar_testkit::redis::Redis;
use mar_testkit::rehearsal::{Rehearsal, Script};
use mar_testkit::wait;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::Code;

use crate::client::Client;

mod config;
mod options;
mod replica;
mod servers;

pub use options::{Options, Shape, Stores};
pub use replica::{Launcher, Replica};
use servers::Servers;

/// How long a process may take to serve.
const START: Duration = Duration::from_secs(30);
/// The services that have a schema in Postgres.
const STORING: [&str; 2] = ["session", "agent-generator"];
const SERVICES: [&str; 4] = ["session", "router", "agent-generator", "tool-gateway"];

/// A running system. Dropping it ends its processes.
pub struct Deployment {
    options: Options,
    folder: TempDir,
    ports: Vec<u16>,
    /// The model.
    pub rehearsal: Rehearsal,
    processes: Vec<(String, Process)>,
    urls: Option<(String, String)>,
    /// What pools connections to Postgres, where that was asked for. Dropped after the processes.
    pooler: Option<PgBouncer>,
    /// Its part of the shared Postgres. Dropped after the processes, as the servers are.
    _database: Option<Database>,
    /// Its own Postgres, where it was asked for. Dropped after the processes.
    pub postgres: Option<Postgres>,
    /// Its own Redis, where it was asked for.
    pub redis: Option<Redis>,
    /// What leads to Postgres and to Redis, where that was asked for.
    pub doors: Option<(Door, Door)>,
}

impl Deployment {
    /// Starts everything and waits until it serves.
    ///
    /// # Errors
    /// What did not start, with its last lines.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut system = Self::prepare(options).await?;
        system.start_processes().await?;
        system.wait_for_tools(&["docs"]).await?;
        Ok(system)
    }

    /// Waits until the gateway offers tools of each of these upstreams: what a task picks by `upstream.*` before that is
    /// nothing. A gateway that asks for a credential is not waited for.
    ///
    /// # Errors
    /// They are not offered in time.
    pub async fn wait_for_tools(&self, upstreams: &[&str]) -> anyhow::Result<()> {
        let client = ToolGatewayServiceClient::connect(self.endpoint(3)).await?;
        for upstream in upstreams {
            let offered = || async {
                let request = ListToolsRequest { patterns: vec![format!("{upstream}.*")], ..Default::default() };
                match client.clone().list_tools(request).await {
                    Ok(list) => list.into_inner().tools.iter().any(|tool| !tool.stale),
                    Err(status) => status.code() == Code::Unauthenticated,
                }
            };
            let log = || self.log_of(3).join("\n");
            wait::until(START, offered).await.with_context(|| format!("{upstream} offers no tools:\n{}", log()))?;
        }
        Ok(())
    }

    /// Like [`Deployment::start`], but starts the model and the stores only.
    ///
    /// # Errors
    /// What did not start.
    pub async fn prepare(options: Options) -> anyhow::Result<Self> {
        let script = if options.script.is_empty() { Script::default() } else { Script::parse(&options.script)? };
        let rehearsal = Rehearsal::start(script).await?;
        let folder = tempfile::tempdir()?;
        let Servers { urls, database, postgres, redis, doors, pooler } = Servers::of(&options).await?;
        let ports = ports::free_many(4)?;
        let system = Self {
            options,
            folder,
            ports,
            rehearsal,
            processes: Vec::new(),
            urls,
            pooler,
            _database: database,
            postgres,
            redis,
            doors,
        };
        system.write_files()?;
        if system.pooler.is_some() {
            system.migrate().await?;
        }
        Ok(system)
    }

    /// Brings the schemas up to date as their owner, as an operator does before a version is rolled out.
    async fn migrate(&self) -> anyhow::Result<()> {
        for service in STORING {
            let mut command = Command::new(built_binary(service)?);
            let output = command.arg("migrate").arg("--config").arg(self.config_file()).output().await?;
            let said = || String::from_utf8_lossy(&output.stderr).into_owned();
            anyhow::ensure!(output.status.success(), "{service} does not migrate: {}", said());
        }
        Ok(())
    }

    /// Starts every process of a system that was prepared.
    ///
    /// # Errors
    /// What does not serve, with its last lines.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        self.start_processes().await
    }

    /// Starts the process of one service, in a system that was prepared.
    ///
    /// # Errors
    /// It does not serve, with its last lines.
    pub async fn start_one(&mut self, service: usize) -> anyhow::Result<()> {
        let started = self.start_process(SERVICES[service]).await?;
        self.processes.push(started);
        Ok(())
    }

    /// The configuration of all services.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("runtime.toml")
    }

    /// A client of session.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.endpoint(0)).await
    }

    /// The URL of a service: session, router, agent-generator, tool-gateway. In one process they are the same.
    pub fn endpoint(&self, service: usize) -> String {
        let port = match self.options.shape {
            Shape::One => self.ports[0],
            Shape::Four => self.ports[service],
        };
        format!("{}://127.0.0.1:{port}", self.options.scheme())
    }

    /// The URL of session's store, as its owner or the superuser reaches it.
    pub fn store_url(&self) -> String {
        let file = || format!("sqlite:{}", self.folder.path().join("session.db").display());
        self.urls.as_ref().map_or_else(file, |(postgres, _)| postgres.clone())
    }

    /// The folder of documents.
    pub fn documents(&self) -> PathBuf {
        self.folder.path().join("documents")
    }

    /// The folder that scripted upstreams keep their journal in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The lines of the process that hosts session.
    pub fn log(&self) -> Vec<String> {
        self.processes.first().map(|(_, process)| process.log()).unwrap_or_default()
    }

    /// The process id of a service; none once it was killed.
    pub fn pid(&self, service: usize) -> Option<u32> {
        self.processes.get(self.process_of(service)).and_then(|(_, process)| process.pid())
    }

    /// The lines of the process of a service.
    pub fn log_of(&self, service: usize) -> Vec<String> {
        self.processes.get(self.process_of(service)).map(|(_, process)| process.log()).unwrap_or_default()
    }

    /// Waits until the process that hosts session has ended by itself.
    pub async fn wait_for_crash(&mut self) -> anyhow::Result<()> {
        let (name, process) = self.processes.first_mut().context("nothing runs")?;
        process.wait(START).await.with_context(|| format!("{name} did not crash"))?;
        Ok(())
    }

    /// Ends the process of a service as `kill -9` does.
    pub async fn kill(&mut self, service: usize) -> anyhow::Result<()> {
        let index = self.process_of(service);
        let (_, process) = self.processes.get_mut(index).context("nothing runs")?;
        process.kill().await?;
        Ok(())
    }

    /// Sends a signal to the process of a service.
    pub async fn signal(&mut self, service: usize, signal: Signal) -> anyhow::Result<()> {
        let index = self.process_of(service);
        let (_, process) = self.processes.get_mut(index).context("nothing runs")?;
        process.signal(signal)?;
        Ok(())
    }

    /// Waits until the process of a service has ended, as after a signal.
    pub async fn wait_for_end(&mut self, service: usize) -> anyhow::Result<()> {
        let index = self.process_of(service);
        let (name, process) = self.processes.get_mut(index).context("nothing runs")?;
        process.wait(START).await.with_context(|| format!("{name} did not end"))?;
        Ok(())
    }

    /// Starts the process of a service again, without the environment that the first one had.
    pub async fn restart(&mut self, service: usize) -> anyhow::Result<()> {
        self.restart_with(service, Vec::new()).await
    }

    /// Starts the process of a service again, in this environment if it hosts session.
    pub async fn restart_with(&mut self, service: usize, env: Vec<(&'static str, String)>) -> anyhow::Result<()> {
        let index = self.process_of(service);
        let name = self.processes[index].0.clone();
        self.options.env = env;
        let started = self.start_process(&name).await?;
        self.processes[index] = started;
        Ok(())
    }

    fn process_of(&self, service: usize) -> usize {
        if self.options.shape == Shape::One { 0 } else { service }
    }

    async fn start_processes(&mut self) -> anyhow::Result<()> {
        let names: &[&str] = match self.options.shape {
            Shape::One => &["mar"],
            Shape::Four => &SERVICES,
        };
        for name in names {
            let started = self.start_process(name).await?;
            self.processes.push(started);
        }
        Ok(())
    }

    /// Starts another replica of session, on the same stores. Only with processes of their own on servers.
    ///
    /// # Errors
    /// It does not serve.
    pub async fn replica(&self) -> anyhow::Result<Replica> {
        self.launcher()?.start(ports::free()?, &[], &[]).await
    }

    /// What starts replicas of session.
    ///
    /// # Errors
    /// There is no binary.
    pub fn launcher(&self) -> anyhow::Result<Launcher> {
        Ok(Launcher {
            binary: built_binary("session")?,
            config: self.config_file(),
            folder: self.folder.path().to_owned(),
        })
    }

    async fn start_process(&self, name: &str) -> anyhow::Result<(String, Process)> {
        let folder = self.folder.path();
        let mut command = Command::new(built_binary(name)?);
        if name == "mar" {
            command.arg("up").arg("--data").arg(folder.join("data"));
            command.arg("--listen").arg(format!("127.0.0.1:{}", self.ports[0]));
        }
        command.arg("--config").arg(folder.join("runtime.toml")).current_dir(folder);
        if matches!(name, "mar" | "session") {
            command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        }
        if matches!(name, "mar" | "router") && !self.options.catalogue.is_empty() {
            command.env("MAR_ROUTER__CATALOGUE", folder.join("catalogue.toml"));
        }
        let index = SERVICES.iter().position(|service| *service == name).unwrap_or(0);
        let mut process = Process::spawn(name, command)?;
        process.wait_for_port(SocketAddr::from(([127, 0, 0, 1], self.ports[index])), START).await?;
        Ok((name.to_owned(), process))
    }
}
