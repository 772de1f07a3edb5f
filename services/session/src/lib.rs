//! Sessions and the runs in them: the service that callers talk to.
//!
//! It owns session lifecycle, the agent loop, the event log, halting, and seals. It talks to no provider and no tool
//! itself: it has the agent generator synthesise, the router generate and the tool gateway call.
//!
//! **Invariant:** no provider or tool is called unless its intent is committed and its budget reserved.
//!
//! **Invariant:** a run has one writer, fenced by the log itself: an append is one statement whose key is (run, seq).
//!
//! **Invariant:** a committed step is never executed again; a call without a result is repeated only under its own key
//! and only if it is declared idempotent, else the model is told that its outcome is unknown.
//!
//! Pieces: [`run`] (the pure state machine), [`executor`] (the one place of effects), [`log`] (leaves, commitments,
//! chain), [`verify`] and [`audit`] (recompute all of it), [`store`] (Postgres or SQLite) and [`counters`] (Redis or in
//! process) behind their contracts, [`runs`]
//! (admission, takeover, following), [`sessions`], [`erasure`] and [`upkeep`] (what goes of them, and what happens by
//! itself), [`hooks`] (who is told), [`tenants`] (what holds for each), [`clients`] (the other services), [`grpc`].
//!
//! When a dependency is down: without the store nothing is acknowledged, runs stand still and go on when it is back;
//! without the counters runs wait with nothing in flight; without the generator new runs stay PENDING; without the router or
//! the gateway runs retry until they expire, or tell the model.

use std::path::PathBuf;
use std::sync::Arc;

use mar_proto::session::session_service_server::SessionServiceServer;
use mar_runtime::ServiceName;
use mar_runtime::auth::{RunTokenCache, RunTokenSigner};
use mar_runtime::clock::{Clock, SystemClock, SystemIds};
use mar_runtime::config::RuntimeConfig;
use mar_runtime::peer::Peer;
use mar_runtime::process::{Failure, Start};
use mar_runtime::server::{Server, Stack};
use mar_runtime::status::chain;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub mod activity;
pub mod audit;
pub mod blobs;
pub mod budgets;
pub mod caller;
pub mod clients;
pub mod command;
pub mod config;
pub mod counters;
pub mod crash;
pub mod diff;
pub mod erasure;
pub mod error;
pub mod events;
pub mod executor;
pub mod feed;
pub mod grpc;
mod guard;
pub mod hooks;
pub mod limits;
pub mod log;
pub mod migrate;
pub mod run;
pub mod runs;
pub mod sabotage;
pub mod sessions;
pub mod signals;
pub mod store;
pub mod tenants;
pub mod upkeep;
pub mod verify;
pub mod view;

pub use config::Config;

use config::{CountersKind, StoreKind};
use counters::Counters;
use counters::memory::MemoryCounters;
use counters::redis::{RedisConfig, RedisCounters};
use hooks::Hooks;
use runs::{Replicas, Runs};
use sabotage::Sabotage;
use sessions::Sessions;
use signals::{Signals, Silence, redis::RedisSignals};
use store::Store;
use store::postgres::{PostgresStore, SCHEMA};
use store::sqlite::SqliteStore;
use upkeep::Upkeep;

/// The services that a run needs.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Synthesises agents.
    pub agent_generator: Peer,
    /// Generates turns.
    pub router: Peer,
    /// Calls tools.
    pub tool_gateway: Peer,
}

/// The whole service: what answers, and the runs that it executes.
#[derive(Clone)]
pub struct Service {
    /// What answers.
    pub server: Server,
    runs: Runs,
    upkeep: Upkeep,
    hooks: Hooks,
}

impl Service {
    /// Takes over the runs that nobody executes, then serves until `shutdown`, then drains. Runs stop where they stand; the
    /// log has everything.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
        self.begin().await;
        // Followers are told to come back before the drain waits for them.
        let (runs, stop) = (self.runs.clone(), shutdown.clone());
        let closing = async move {
            stop.cancelled().await;
            runs.close().await;
        };
        let (served, ()) = tokio::join!(self.server.serve(listener, shutdown), closing);
        served
    }

    /// Takes over the runs that nobody executes. For a host that serves in process only.
    pub async fn begin(&self) {
        self.runs.beat().await;
        match self.runs.claim_all().await {
            Ok(0) => {}
            Ok(claimed) => tracing::info!(runs = claimed, "runs claimed"),
            Err(error) => tracing::warn!(error = %chain(&error), "claims wait for the store"),
        }
        self.runs.keep_claiming();
        self.upkeep.begin();
        self.hooks.begin();
    }

    /// Stops executing runs, where each stands.
    pub async fn close(&self) {
        self.runs.close().await;
    }
}

/// The whole service as a process: `mar_runtime::main(mar_session::start)`.
///
/// # Errors
/// The configuration is wrong, or the store cannot be reached.
pub async fn start(start: Start<Config>) -> Result<(), Failure> {
    start_with(start, Sabotage::default()).await
}

/// Like [`start`], with a fault in a test build.
///
/// # Errors
/// Like [`start`].
pub async fn start_with(start: Start<Config>, sabotage: Sabotage) -> Result<(), Failure> {
    let peer = |name| Peer::configured(name, &start.runtime);
    let peers = Peers {
        agent_generator: peer(ServiceName::AgentGenerator)?,
        router: peer(ServiceName::Router)?,
        tool_gateway: peer(ServiceName::ToolGateway)?,
    };
    let service = assemble(&start.config, &start.runtime, peers, sabotage).await?;
    service.serve(start.listener, start.shutdown).await.map_err(Failure::internal)
}

/// The service, ready to be served over TCP or called in process.
///
/// # Errors
/// Like [`start`].
pub async fn server(config: &Config, runtime: &RuntimeConfig, peers: Peers) -> Result<Service, Failure> {
    assemble(config, runtime, peers, Sabotage::default()).await
}

async fn assemble(
    config: &Config,
    runtime: &RuntimeConfig,
    peers: Peers,
    sabotage: Sabotage,
) -> Result<Service, Failure> {
    let clock = clock();
    let pem = config.key_pem().map_err(|line| wrong("signing_key", line))?;
    let signer = RunTokenSigner::try_new(pem.expose_secret(), clock.clone())
        .map_err(|error| wrong("signing_key", error.to_string()))?;
    let shared = executor::Shared {
        store: open_store(config).await?,
        counters: open_counters(config, sabotage).await?,
        peers: Arc::new(clients::grpc::GrpcPeers::new(
            peers.agent_generator,
            peers.router,
            peers.tool_gateway,
            RunTokenCache::new(signer),
        )),
        clock,
        seal_key: config.seal_key().map_err(|line| wrong("signing_key", line))?,
        crash: crash::CrashPoints::from_env(),
        tenants: config.tenants(),
        sabotage,
        signals: open_signals(config)?,
    };
    let keys = config.verifying_keys(&shared.seal_key).map_err(|line| wrong("seal_key_files", line))?;
    let config::ReplicasConfig { heartbeat, patience } = config.replicas;
    let replicas = Replicas { heartbeat, patience };
    let mut limits = config.limits();
    let room = i64::try_from(runtime.limits.prompt_room().bytes()).unwrap_or(i64::MAX);
    limits.blobs.max_prompt_bytes = limits.blobs.max_prompt_bytes.min(room);
    let runs = Runs::new(shared, Arc::new(SystemIds), limits, replicas);
    let hooks = config.hooks().and_then(|hooks| Hooks::try_new(runs.clone(), hooks));
    let hooks = hooks.map_err(|line| wrong("tenants", line))?;
    let service = SessionServiceServer::new(grpc::Service::new(runs.clone(), keys, hooks.clone()))
        .max_decoding_message_size(runtime.limits.max_message.as_len());
    let stack = Stack::try_new(ServiceName::Session, runtime)?;
    let server = Server::try_new(stack, Routes::new(service)).await.map_err(Failure::internal)?;
    let upkeep = Upkeep::new(Sessions::new(runs.clone()));
    Ok(Service { server, runs, upkeep, hooks })
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    if let Some(postgres) = config.store.postgres() {
        let store = PostgresStore::connect_with_hooks(&postgres, config.hooked()).await;
        return Ok(Arc::new(store.map_err(|error| Failure::unavailable(SCHEMA.holds, error))?));
    }
    match config.store.kind() {
        Some(StoreKind::Sqlite(path)) => {
            let store = SqliteStore::open(&path).await.map_err(|error| Failure::unavailable(SCHEMA.holds, error))?;
            store.hook(&config.hooked()).await.map_err(|error| Failure::unavailable(SCHEMA.holds, error))?;
            Ok(Arc::new(store))
        }
        _ => Err(wrong("store.url", "names no store".to_owned())),
    }
}

async fn open_counters(config: &Config, sabotage: Sabotage) -> Result<Arc<dyn Counters>, Failure> {
    match config.counters.kind() {
        Some(CountersKind::Redis(url)) => {
            let config = redis_config(config, url)?;
            let counters = connect(&config, sabotage).map_err(|error| wrong("counters.url", chain(&error)))?;
            warn_of_eviction(&counters).await;
            Ok(Arc::new(counters))
        }
        Some(CountersKind::Memory) => Ok(Arc::new(MemoryCounters::of(sabotage))),
        None => Err(wrong("counters.url", "names no counters".to_owned())),
    }
}

/// Replicas share their signals where they share their counters.
fn open_signals(config: &Config) -> Result<Arc<dyn Signals>, Failure> {
    match config.counters.kind() {
        Some(CountersKind::Redis(url)) => {
            let signals = RedisSignals::new(&redis_config(config, url)?);
            Ok(Arc::new(signals.map_err(|error| wrong("counters.url", chain(&error)))?))
        }
        _ => Ok(Arc::new(Silence)),
    }
}

fn redis_config(config: &Config, url: SecretString) -> Result<RedisConfig, Failure> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| wrong("counters.ca_file", error.to_string()));
    let ca_pem = config.counters.ca_file.as_ref().map(read).transpose()?;
    Ok(RedisConfig { ca_pem, ..RedisConfig::new(url) })
}

fn connect(config: &RedisConfig, sabotage: Sabotage) -> Result<RedisCounters, counters::Error> {
    #[cfg(debug_assertions)]
    if sabotage.is(sabotage::Fault::StaleCounter) {
        return RedisCounters::believed(config);
    }
    let _ = sabotage;
    RedisCounters::new(config)
}

/// The system's clock; that of a test build is off by `MAR_CLOCK_SKEW_MS`, which may be negative.
fn clock() -> Arc<dyn Clock> {
    #[cfg(debug_assertions)]
    if let Some(skew) = std::env::var("MAR_CLOCK_SKEW_MS").ok().and_then(|skew| skew.parse().ok()) {
        return Arc::new(SystemClock::skewed(time::Duration::milliseconds(skew)));
    }
    Arc::new(SystemClock::new())
}

/// Counters that are evicted are rebuilt, each time at the cost of a read of the log.
async fn warn_of_eviction(counters: &RedisCounters) {
    match counters.eviction().await {
        Ok(None) => {}
        Ok(Some(policy)) => {
            tracing::warn!(redis.maxmemory_policy = policy, "redis evicts halting counters; noeviction is recommended");
        }
        Err(error) => tracing::warn!(error = %chain(&error), "redis does not answer yet; runs wait for it"),
    }
}

fn wrong(key: &str, line: String) -> Failure {
    Failure::Config(vec![format!("{}.{key}: {line}", ServiceName::Session.table())])
}
