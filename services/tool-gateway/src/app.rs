//! The gateway's components.

use std::sync::Arc;
use std::time::Duration;

use mar_descriptor::VerifyingKeys;
use mar_proto::tool::tool_gateway_service_server::ToolGatewayServiceServer;
use mar_runtime::clock::{Clock, Ids, SystemClock, SystemIds, within};
use mar_runtime::violations::Violations;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::call::Dispatcher;
use crate::config::{Config, Kind, UpstreamConfig};
use crate::descriptors::Descriptors;
use crate::mcp::http::HttpServer;
use crate::mcp::stdio::StdioServer;
use crate::registry::Registry;
use crate::search::FolderSearch;
use crate::upstream::{Connector, Supervisor, Upstream};

const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// What the gateway gets from its host.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The time. It has to be the clock of the layers around the gateway, which date deadlines by it.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
    /// Keys whose descriptors are accepted besides those of `tool_gateway.descriptor_key_files`.
    pub descriptor_keys: VerifyingKeys,
}

impl Default for Deps {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock::new()), ids: Arc::new(SystemIds), descriptor_keys: VerifyingKeys::new() }
    }
}

/// The tool gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway(Arc<App>);

/// The components.
#[derive(Debug)]
pub(crate) struct App {
    /// Which tools there are.
    pub registry: Registry,
    /// Which descriptors are known.
    pub descriptors: Descriptors,
    /// What decides on calls and makes them.
    pub dispatcher: Dispatcher,
    /// Measures deadlines.
    pub clock: Arc<dyn Clock>,
    /// Everything that runs by itself.
    tasks: TaskTracker,
    /// Ends it.
    shutdown: CancellationToken,
}

impl Gateway {
    /// Reads keys and policy and begins to connect to every upstream, without waiting for any. Inside a tokio runtime.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration, relative to `tool_gateway`.
    pub fn try_new(config: Config, deps: Deps) -> Result<Self, Violations> {
        let mut found = Violations::new();
        let mut keys = config.load_keys(&mut found);
        keys.extend(deps.descriptor_keys);
        let platform = config.load_policy(&mut found);
        found.into_result(())?;
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let mut upstreams = Vec::new();
        for (name, config) in config.upstreams {
            let connector = connector(&name, &config, &deps.clock, &tasks);
            let upstream = Arc::new(Upstream::new(name, config, Arc::clone(&deps.clock)));
            let supervisor = Supervisor { upstream: Arc::clone(&upstream), connector, ids: Arc::clone(&deps.ids) };
            tasks.spawn(supervisor.run(shutdown.clone()));
            upstreams.push(upstream);
        }
        let registry = Registry::new(upstreams);
        let dispatcher = Dispatcher { registry: registry.clone(), platform };
        let descriptors = Descriptors::new(keys);
        Ok(Self(Arc::new(App { registry, descriptors, dispatcher, clock: deps.clock, tasks, shutdown })))
    }

    /// The generated service. Messages are bounded by the layers around it.
    pub fn service(&self) -> ToolGatewayServiceServer<Self> {
        ToolGatewayServiceServer::new(self.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// The routes, for the layers of `mar_runtime`.
    pub fn routes(&self) -> Routes {
        Routes::new(self.service())
    }

    /// Ends every session and every child, and returns when they have ended, after 15 s at the latest.
    pub async fn close(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        if within(&*self.0.clock, CLOSE_TIMEOUT, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.0.tasks.len(), "some upstreams did not end in time");
        }
    }

    pub(crate) fn app(&self) -> &App {
        &self.0
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn connector(name: &str, config: &UpstreamConfig, clock: &Arc<dyn Clock>, tasks: &TaskTracker) -> Box<dyn Connector> {
    match config.kind {
        Kind::McpStdio => Box::new(StdioServer::new(name, config.clone(), tasks.clone())),
        Kind::McpHttp => Box::new(HttpServer::new(config.clone(), tasks.clone())),
        Kind::Search => Box::new(FolderSearch::new(config, Arc::clone(clock))),
    }
}
