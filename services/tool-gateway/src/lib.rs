//! The tool gateway: the catalogue of tools, decisions on calls, and the calls themselves (concept: `ToolRegistry`).
//!
//! It owns upstream connections, tool definitions with their pins, the checks that a call passes and the size of what
//! comes back. It does not decide what an agent should do and writes no events of a run; it keeps nothing on disk.
//!
//! **Invariant:** a call is made only for a run token, under the descriptor that was verified here by hash and signature,
//! for a tool that it holds with the definition that the upstream has now, with arguments that fit its schema, when the
//! sealed policies and the platform's current one allow it. Every decision leaves a record.
//! **Invariant:** idempotency and read-only come from the operator, never from a server's annotations.
//! **Invariant:** one upstream never slows another: each has its own supervisor, queue, bounds and child.
//! **Invariant:** what is held of an upstream is bounded: 16 MiB a message (long texts are cut while it is read, one that is
//! larger even so is refused whole), then cut to what the model may see.
//!
//! Pieces: [`registry`] lists, [`definition`] checks and pins tools, [`upstream`] keeps one source connected, [`mcp`] and
//! [`search`] are the kinds of sources, [`descriptors`] verifies, [`call`] decides and calls, [`gate`] and [`cap`] bound.
//!
//! When an upstream is down, its calls fail with `UPSTREAM_UNAVAILABLE`, its last tools are listed as stale, and it is
//! started again after a pause. The gateway depends on no other service and no store.

pub mod app;
pub mod call;
pub mod cap;
pub mod config;
pub mod definition;
pub mod descriptors;
pub mod error;
pub mod gate;
mod grpc;
pub mod mcp;
pub mod outcome;
pub mod registry;
pub mod search;
pub mod upstream;

use std::sync::Arc;

use mar_runtime::ServiceName;
use mar_runtime::process::{Failure, Start};
use mar_runtime::server::{Server, Stack};
use mar_runtime::violations::Violations;

pub use app::{Deps, Gateway};
pub use config::{Config, UpstreamConfig};

/// Serves the gateway until shutdown: what the binary does.
///
/// # Errors
/// The configuration is wrong, or the listener fails.
pub async fn start(start: Start<Config>) -> Result<(), Failure> {
    let deps = Deps::default();
    let (clock, ids) = (Arc::clone(&deps.clock), Arc::clone(&deps.ids));
    let stack = Stack::with_clock(ServiceName::ToolGateway, &start.runtime, clock, ids)?;
    let gateway = Gateway::try_new(start.config, deps).map_err(|found| wrong(&found))?;
    let server = Server::try_new(stack, gateway.routes()).await.map_err(Failure::internal)?;
    let served = server.serve(start.listener, start.shutdown).await.map_err(Failure::internal);
    gateway.close().await;
    served
}

fn wrong(found: &Violations) -> Failure {
    let lines = found.iter().map(|one| format!("tool_gateway.{}: {}", one.field, one.description));
    Failure::Config(lines.collect())
}
