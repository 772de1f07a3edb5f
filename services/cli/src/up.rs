//! `mar up`: all four services in this process, calling each other without a wire between.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mar_runtime::ServiceName;
use mar_runtime::clock::{Clock as _, SystemClock};
use mar_runtime::config::{Loaded, RuntimeConfig, ServiceConfig, Sources, load};
use mar_runtime::peer::{LocalMesh, Peer};
use mar_runtime::process::on_signal;
use mar_runtime::server::{Server, Stack, Together};
use mar_runtime::telemetry;
use mar_testkit::rehearsal::Rehearsal;
use mar_tool_gateway::Gateway;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::UpArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::keys::{ServiceKeys, make_private_folder};
use crate::out::Out;
use crate::rehearse;

pub mod banner;
pub mod models;
pub mod settings;

use models::Models;

/// `mar up`.
///
/// # Errors
/// The configuration is wrong, the address is taken, or a store cannot be reached.
pub async fn up(args: UpArgs, out: Out) -> Result<Exit, Failure> {
    let clock = SystemClock::new();
    let data = data_folder(args.data.as_deref())?;
    let listen = settings::check(&args, &data)?;
    make_private_folder(&data)?;
    let keys = ServiceKeys::ensure(&data.join("keys"))?;
    let rehearsal = rehearsal(&args).await?;
    let models = Models::find(&args, rehearsal.as_ref().map(Rehearsal::api_url)).await?;
    let sources = settings::sources(&args, &data, &keys, &models)?;
    let configs = Configs::load(&sources)?;
    // Later than the configuration, which says what is logged; earlier than everything that logs.
    let telemetry = telemetry::install("mar", &configs.runtime().telemetry).map_err(mar_runtime::Failure::from)?;
    let result = host(listen, configs, |host| {
        let banner = banner::Banner { host, data: &data, models: &models, took: clock.monotonic() };
        out.lines(banner.lines(out.result));
    })
    .await;
    if let Some(rehearsal) = rehearsal {
        rehearsal.shutdown().await;
    }
    telemetry.shutdown().await;
    result.map(|()| Exit::Done)
}

/// What is being served, as far as the banner tells.
#[derive(Debug)]
pub struct Host {
    /// Where.
    pub address: SocketAddr,
    /// The configuration of each service.
    pub configs: Configs,
}

async fn host(listen: SocketAddr, configs: Configs, ready: impl FnOnce(&Host)) -> Result<(), Failure> {
    let signals = TaskTracker::new();
    let shutdown = on_signal(&signals)?;
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::new(crate::exit::Exit::Unavailable, format!("the address {listen} is not available: {error}"))
            .hint("Another `mar up` may be running; choose another address with --listen.")
    })?;
    let address = listener.local_addr().map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let services = Services::start(&configs).await?;
    services.session.begin().await;
    ready(&Host { address, configs });
    services.serve(listener, shutdown).await
}

/// The tables of all services.
#[derive(Debug)]
pub struct Configs {
    /// `[session]` and `[runtime]`.
    pub session: Loaded<mar_session::Config>,
    /// `[router]`.
    pub router: mar_router::RouterConfig,
    /// `[agent_generator]`.
    pub agent_generator: mar_agent_generator::Config,
    /// `[tool_gateway]`.
    pub tool_gateway: mar_tool_gateway::Config,
}

impl Configs {
    /// Reads and checks all tables, and names everything that is wrong with any.
    fn load(sources: &Sources) -> Result<Self, Failure> {
        let mut wrong = Vec::new();
        let session = one::<mar_session::Config>(sources, &mut wrong);
        let router = one::<mar_router::RouterConfig>(sources, &mut wrong);
        let agent_generator = one::<mar_agent_generator::Config>(sources, &mut wrong);
        let tool_gateway = one::<mar_tool_gateway::Config>(sources, &mut wrong);
        match (session, router, agent_generator, tool_gateway) {
            (Some(session), Some(router), Some(generator), Some(gateway)) => Ok(Self {
                session,
                router: router.service,
                agent_generator: generator.service,
                tool_gateway: gateway.service,
            }),
            _ => Err(mar_runtime::Failure::Config(wrong).into()),
        }
    }

    /// `[runtime]`.
    pub fn runtime(&self) -> &RuntimeConfig {
        &self.session.runtime
    }
}

fn one<C: ServiceConfig>(sources: &Sources, wrong: &mut Vec<String>) -> Option<Loaded<C>> {
    match load::<C>(sources) {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            for line in error.lines() {
                // What is wrong with the shared table is found four times.
                if !wrong.contains(&line) {
                    wrong.push(line);
                }
            }
            None
        }
    }
}

struct Services {
    together: Together,
    session: mar_session::Service,
    gateway: Gateway,
}

impl Services {
    async fn start(configs: &Configs) -> Result<Self, Failure> {
        let runtime = configs.runtime();
        let mesh = LocalMesh::new();
        let peer = |name| -> Peer { mesh.peer(name, &runtime.limits) };
        let (gateway, gateway_server) = gateway(configs).await?;
        let router = mar_router::server(configs.router.clone(), runtime, mar_router::Deps::default()).await?;
        let peers = mar_agent_generator::Peers {
            router: peer(ServiceName::Router),
            tool_gateway: peer(ServiceName::ToolGateway),
        };
        let generator = mar_agent_generator::server(&configs.agent_generator, runtime, peers).await?;
        let peers = mar_session::Peers {
            agent_generator: peer(ServiceName::AgentGenerator),
            router: peer(ServiceName::Router),
            tool_gateway: peer(ServiceName::ToolGateway),
        };
        let session = mar_session::server(&configs.session.service, runtime, peers).await?;
        let servers = [generator, router, gateway_server];
        for server in servers.iter().chain([&session.server]) {
            mesh.bind(server.routed());
        }
        let together = Together::try_new(session.server.clone(), servers)
            .await
            .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        Ok(Self { together, session, gateway })
    }

    async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), Failure> {
        let stop = shutdown.clone();
        let session = self.session.clone();
        // Runs stop where they stand before what they call is drained.
        let closing = async move {
            stop.cancelled().await;
            session.close().await;
        };
        let (served, ()) = tokio::join!(self.together.serve(listener, shutdown), closing);
        self.gateway.close().await;
        served.map_err(|error| Failure::new(Exit::Internal, error.to_string()))
    }
}

async fn gateway(configs: &Configs) -> Result<(Gateway, Server), Failure> {
    let wrong = |found: mar_runtime::violations::Violations| {
        let lines = found.iter().map(|one| format!("tool_gateway.{}: {}", one.field, one.description));
        Failure::from(mar_runtime::Failure::Config(lines.collect()))
    };
    let deps = mar_tool_gateway::Deps::default();
    let (clock, ids) = (deps.clock.clone(), deps.ids.clone());
    let stack = Stack::with_clock(ServiceName::ToolGateway, configs.runtime(), clock, ids)
        .map_err(mar_runtime::Failure::from)?;
    let gateway = Gateway::try_new(configs.tool_gateway.clone(), deps).map_err(wrong)?;
    let server = Server::try_new(stack, gateway.routes()).await;
    Ok((gateway, server.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?))
}

async fn rehearsal(args: &UpArgs) -> Result<Option<Rehearsal>, Failure> {
    let Some(script) = &args.rehearse else { return Ok(None) };
    let script = rehearse::script(script.as_deref())?;
    let started = Rehearsal::start(script).await;
    started.map(Some).map_err(|error| Failure::new(Exit::Unavailable, format!("the rehearsal has no port: {error}")))
}

/// `--data`, else the user's data folder.
fn data_folder(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(folder) = named {
        return std::path::absolute(folder)
            .map_err(|error| Failure::usage(format!("--data {} cannot be used: {error}", folder.display())));
    }
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = var("XDG_DATA_HOME").or_else(|| var("HOME").map(|home| home.join(".local/share")));
    base.map(|base| base.join("mar"))
        .ok_or_else(|| Failure::usage("there is no home folder for keys and data").hint("Name a folder with --data."))
}

/// How long calls may go on after Ctrl-C.
pub(crate) const DRAIN: Duration = Duration::from_secs(3);
