//! A running system.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use mar_proto::tool::ListToolsRequest;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_runtime::auth::keys;
use mar_runtime::clock::SystemIds;
use mar_testkit::door::Door;
use mar_testkit::ports;
use mar_testkit::postgres::{Database, Postgres, standby};
use mar_testkit::process::{Process, Signal, built_binary};
use mar_testkit::redis::Redis;
use mar_testkit::rehearsal::{Rehearsal, Script};
use mar_testkit::wait;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::Code;

use crate::client::Client;

/// How long a process may take to serve.
const START: Duration = Duration::from_secs(30);
const SERVICES: [&str; 4] = ["session", "router", "agent-generator", "tool-gateway"];

/// In how many processes the services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `mar up`: client on server in one process.
    One,
    /// The four binaries over TCP.
    Four,
}

/// Where sessions and counters are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// SQLite files and counters of the process.
    Embedded,
    /// Postgres and Redis, shared by the tests of a process, with a database of its own.
    Servers,
}

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// In how many processes.
    pub shape: Shape,
    /// On which stores.
    pub stores: Stores,
    /// What the model does, in the rehearsal's language; empty for its built-in agent.
    pub script: String,
    /// Documents of the searched folder.
    pub documents: Vec<(&'static str, &'static str)>,
    /// Further configuration, in TOML.
    pub extra: String,
    /// Environment of the process that hosts session.
    pub env: Vec<(&'static str, String)>,
    /// The router's catalogue, in TOML; empty for the one that is shipped.
    pub catalogue: String,
    /// With [`Stores::Servers`]: servers of its own, which a test may stop, instead of the shared ones.
    pub own_servers: bool,
    /// With servers of its own: they are reached through doors, so that others can take their place.
    pub doors: bool,
    /// Its own Postgres writes to disk before a commit returns, as in production.
    pub durable: bool,
    /// The table `[session.replicas]`.
    pub replicas: String,
}

impl Options {
    /// One process on embedded stores, with two documents and the built-in agent.
    pub fn new(shape: Shape, stores: Stores) -> Self {
        Self {
            shape,
            stores,
            script: String::new(),
            documents: vec![
                ("tides.md", "# Tides\n\nThe harbour of Marel floods at spring tide, twice a month.\n"),
                ("lamps.md", "# Lamps\n\nThe lighthouse of Marel burns whale oil and is lit at dusk.\n"),
            ],
            extra: String::new(),
            env: Vec::new(),
            catalogue: String::new(),
            own_servers: false,
            doors: false,
            durable: false,
            replicas: "heartbeat = \"50ms\"\npatience = \"300ms\"".to_owned(),
        }
    }

    /// With a Postgres and a Redis that nobody else uses.
    #[must_use]
    pub fn own_servers(mut self) -> Self {
        self.own_servers = true;
        self
    }

    /// With a Postgres and a Redis that nobody else uses, behind doors that can lead to others.
    #[must_use]
    pub fn behind_doors(mut self) -> Self {
        self.doors = true;
        self.own_servers()
    }

    /// With a Postgres and a Redis of its own, of which the first writes to disk before a commit returns.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self.own_servers()
    }

    /// With these lines in the table `[session.replicas]`, instead of short spans for tests.
    #[must_use]
    pub fn replicas(mut self, toml: impl Into<String>) -> Self {
        self.replicas = toml.into();
        self
    }

    /// With this script.
    #[must_use]
    pub fn script(mut self, script: impl Into<String>) -> Self {
        self.script = script.into();
        self
    }

    /// With this configuration besides.
    #[must_use]
    pub fn extra(mut self, toml: impl Into<String>) -> Self {
        self.extra = toml.into();
        self
    }

    /// With these models.
    #[must_use]
    pub fn catalogue(mut self, toml: impl Into<String>) -> Self {
        self.catalogue = toml.into();
        self
    }

    /// With this variable in session's environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }
}

/// Another replica of session. Dropping it ends its process.
pub struct Replica {
    /// Its process.
    pub process: Process,
    /// Its URL.
    pub endpoint: String,
}

impl Replica {
    /// A client of it.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.endpoint.clone()).await
    }
}

/// Starts replicas of session beside a deployment of processes of their own on servers.
#[derive(Debug, Clone)]
pub struct Launcher {
    binary: PathBuf,
    config: PathBuf,
    folder: PathBuf,
}

impl Launcher {
    /// A replica at this port, with these arguments and this environment.
    ///
    /// # Errors
    /// It does not serve.
    pub async fn start(&self, port: u16, args: &[String], env: &[(&'static str, String)]) -> anyhow::Result<Replica> {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config).current_dir(&self.folder).args(args);
        command.env("MAR_SESSION__LISTEN", format!("127.0.0.1:{port}"));
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let mut process = Process::spawn("session", command)?;
        process.wait_for_port(SocketAddr::from(([127, 0, 0, 1], port)), START).await?;
        Ok(Replica { process, endpoint: format!("http://127.0.0.1:{port}") })
    }
}

/// A Postgres that can have standbys, and a Redis.
fn own_servers(durable: bool) -> anyhow::Result<(Postgres, Redis)> {
    let settings = standby::small().into_iter();
    let wanted = if durable { Postgres::builder().durable() } else { Postgres::builder() };
    let postgres = settings.fold(wanted, |builder, (name, value)| builder.setting(name, value));
    Ok((postgres.start()?, Redis::start()?))
}

/// The URL of a server by its door.
fn through(url: &str, port: u16, door: &Door) -> String {
    url.replace(&format!(":{port}/"), &format!(":{}/", door.port()))
}

/// A running system. Dropping it ends its processes.
pub struct Deployment {
    options: Options,
    folder: TempDir,
    ports: Vec<u16>,
    /// The model.
    pub rehearsal: Rehearsal,
    processes: Vec<(String, Process)>,
    urls: Option<(String, String)>,
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
        let (mut postgres, mut redis, mut database, mut doors) = (None, None, None, None);
        let urls = match options.stores {
            Stores::Embedded => None,
            Stores::Servers if options.own_servers => {
                let (own_postgres, own_redis) = tokio::task::block_in_place(|| own_servers(options.durable))?;
                let mut urls = (own_postgres.url(), own_redis.url());
                if options.doors {
                    let opened = (Door::open(own_postgres.port()).await?, Door::open(own_redis.port()).await?);
                    urls.0 = through(&urls.0, own_postgres.port(), &opened.0);
                    urls.1 = through(&urls.1, own_redis.port(), &opened.1);
                    doors = Some(opened);
                }
                (postgres, redis) = (Some(own_postgres), Some(own_redis));
                Some(urls)
            }
            Stores::Servers => {
                let servers = || anyhow::Ok((Postgres::shared()?.database()?, Redis::shared()?.database()?));
                let (own_database, redis) = tokio::task::block_in_place(servers)?;
                let urls = (own_database.to_string(), redis);
                database = Some(own_database);
                Some(urls)
            }
        };
        let ports = ports::free_many(4)?;
        let system = Self {
            options,
            folder,
            ports,
            rehearsal,
            processes: Vec::new(),
            urls,
            _database: database,
            postgres,
            redis,
            doors,
        };
        system.write_files()?;
        Ok(system)
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
        format!("http://127.0.0.1:{port}")
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

    fn write_files(&self) -> anyhow::Result<()> {
        let folder = self.folder.path();
        std::fs::create_dir_all(self.documents())?;
        for (name, text) in &self.options.documents {
            std::fs::write(self.documents().join(name), text)?;
        }
        for name in ["session", "generator"] {
            let pair = keys::generate(&SystemIds)?;
            keys::write(&pair, &folder.join(format!("{name}.pem")), &folder.join(format!("{name}.pub.pem")))?;
        }
        std::fs::write(folder.join("runtime.toml"), self.config()?)?;
        std::fs::write(folder.join("catalogue.toml"), &self.options.catalogue)?;
        Ok(())
    }

    fn config(&self) -> anyhow::Result<String> {
        let folder = self.folder.path().display();
        let sqlite = |name: &str| format!("sqlite:{folder}/{name}.db");
        let (session, agents, counters) = match &self.urls {
            None => (sqlite("session"), sqlite("agents"), "memory:".to_owned()),
            Some((postgres, redis)) => (postgres.clone(), postgres.clone(), redis.clone()),
        };
        let [p0, p1, p2, p3] = [0, 1, 2, 3].map(|index| self.ports[index]);
        let mut text = format!(
            r#"
[runtime.run_tokens]
verification_key_files = ["{folder}/session.pub.pem"]
[runtime.limits]
drain = "2s"
[session]
listen = "127.0.0.1:{p0}"
signing_key = {{ file = "{folder}/session.pem" }}
descriptor_key_files = ["{folder}/generator.pub.pem"]
store = {{ url = "{session}" }}
counters = {{ url = "{counters}" }}
[session.replicas]
{replicas}
[router]
listen = "127.0.0.1:{p1}"
descriptor_key_files = ["{folder}/generator.pub.pem"]
providers.rehearsal = {{ base_url = "{rehearsal}" }}
[agent_generator]
listen = "127.0.0.1:{p2}"
signing_key = {{ file = "{folder}/generator.pem" }}
store = {{ url = "{agents}" }}
[tool_gateway]
listen = "127.0.0.1:{p3}"
descriptor_key_files = ["{folder}/generator.pub.pem"]
upstreams.docs = {{ kind = "search", folder = "{folder}/documents", rescan = "200ms" }}
"#,
            rehearsal = self.rehearsal.api_url(),
            replicas = self.options.replicas,
        );
        if self.options.shape == Shape::Four {
            write!(
                text,
                r#"
[runtime.peers]
session = "http://127.0.0.1:{p0}"
router = "http://127.0.0.1:{p1}"
agent_generator = "http://127.0.0.1:{p2}"
tool_gateway = "http://127.0.0.1:{p3}"
"#
            )?;
        }
        text.push_str(&self.options.extra.replace("{folder}", &folder.to_string()));
        Ok(text)
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
