//! The agent generator: what to run. It turns a task into a prompt and an agent under one sealed descriptor.
//!
//! It owns prompt recipes, agent synthesis, alignment policies and sealed descriptors. It runs nothing, and takes no part
//! while a run goes on: the signed descriptor travels with the run.
//!
//! **Invariant:** the same recipe, tools, examples, admitted models, schema, limits, policies, purpose, environment and
//! labels give the same hash, in whatever order peers list them. No id, time, price, task input, tenant or principal
//! enters a descriptor.
//!
//! **Invariant:** a caller's text is never interpreted as a template; it does not enter the template engine, parameters
//! aside, which enter as values.
//!
//! **Invariant:** the task's policy layer stands beside the platform's and can only narrow it; a tool that either denies
//! is not offered, and a tool that the task names is never left out in silence.
//!
//! Pieces: [`recipe`] (templates, examples, hash), [`prompt`] (the pipeline of steps),
//! [`tools`] and [`alias`], [`models`], [`decisions`] (policy on models and prompt), [`synthesis`] (the whole), [`store`] (descriptors, Postgres or SQLite), [`peers`]
//! (router, tool gateway), [`grpc`], [`config`], [`migrate`] (the command that brings the schema up to date).
//!
//! When a dependency is down: without the router or the tool gateway GenerateAgent answers `PEER_UNAVAILABLE` (tasks
//! without tools never ask the gateway); without the store, `STORE_UNAVAILABLE`. RenderPrompt needs none of them.

use std::sync::Arc;

use mar_proto::agent::agent_generator_service_server::AgentGeneratorServiceServer;
use mar_runtime::ServiceName;
use mar_runtime::clock::{Clock, SystemClock};
use mar_runtime::config::RuntimeConfig;
use mar_runtime::peer::Peer;
use mar_runtime::process::{Failure, Start};
use mar_runtime::server::{Server, Stack};
use tonic::service::Routes;

pub mod alias;
pub mod config;
pub mod decisions;
pub mod error;
pub mod grpc;
pub mod lineage;
pub mod migrate;
pub mod missing;
pub mod models;
pub mod order;
pub mod peers;
pub mod prompt;
pub mod recipe;
pub mod store;
pub mod synthesis;
pub mod tools;

pub use config::Config;
use mar_task::{media, schema, selector};

use config::StoreKind;
use peers::{RouterPeer, ToolGatewayPeer};
use store::postgres::SCHEMA;
use store::{PostgresStore, SqliteStore, Store};
use synthesis::Synthesis;

/// The services that synthesis asks.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Admits models.
    pub router: Peer,
    /// Lists tools.
    pub tool_gateway: Peer,
}

/// The whole service as a process: `mar_runtime::main(mar_agent_generator::start)`.
///
/// # Errors
/// The configuration is wrong, or the store cannot be reached.
pub async fn start(start: Start<Config>) -> Result<(), Failure> {
    let peer = |name| Peer::configured(name, &start.runtime);
    let peers = Peers { router: peer(ServiceName::Router)?, tool_gateway: peer(ServiceName::ToolGateway)? };
    let server = server(&start.config, &start.runtime, peers).await?;
    server.serve(start.listener, start.shutdown).await.map_err(Failure::internal)
}

/// The service, ready to be served over TCP or called in process.
///
/// # Errors
/// Like [`start`].
pub async fn server(config: &Config, runtime: &RuntimeConfig, peers: Peers) -> Result<Server, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let synthesis = Synthesis {
        recipes: config.load_recipes().map_err(|lines| wrong("recipes", &lines))?,
        platform: config.load_policy().map_err(|lines| wrong("platform_policy", &lines))?,
        key: config.load_key().map_err(|line| wrong("signing_key", &[line]))?,
        router: Arc::new(RouterPeer::new(peers.router, clock.clone())),
        registry: Arc::new(ToolGatewayPeer::new(peers.tool_gateway, clock.clone())),
        store: open_store(config).await?,
        clock,
        max_tools: config.max_tools,
    };
    let service = AgentGeneratorServiceServer::new(grpc::Service::new(Arc::new(synthesis)))
        .max_decoding_message_size(runtime.limits.max_message.as_len());
    let stack = Stack::try_new(ServiceName::AgentGenerator, runtime)?;
    Server::try_new(stack, Routes::new(service)).await.map_err(Failure::internal)
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    if let Some(postgres) = config.store.postgres() {
        let store = PostgresStore::connect(&postgres).await;
        return Ok(Arc::new(store.map_err(|error| Failure::unavailable(SCHEMA.holds, error))?));
    }
    match config.store.kind() {
        Some(StoreKind::Sqlite(path)) => {
            let store = SqliteStore::open(&path).await;
            Ok(Arc::new(store.map_err(|error| Failure::unavailable(SCHEMA.holds, error))?))
        }
        _ => Err(wrong("store.url", &["names no store".to_owned()])),
    }
}

fn wrong(key: &str, lines: &[String]) -> Failure {
    let table = ServiceName::AgentGenerator.table();
    Failure::Config(lines.iter().map(|line| format!("{table}.{key}: {line}")).collect())
}
