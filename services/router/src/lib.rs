//! The model router: catalogue, selection and dispatch to providers (concept: `ModelRouter`).
//!
//! It owns which models there are, what they can do and cost, which of them fit a requirement, in which order they are
//! tried, and the translation between the API's messages and what providers speak. It knows nothing of sessions.
//!
//! **Invariant:** a generation needs a run token, and a descriptor that was verified here by hash and signature; fallback
//! and retry never leave the models that the descriptor admits and the catalogue still holds as they were sealed.
//! **Invariant:** all attempts of one logical call share one deadline and one budget, checked before each attempt.
//! **Invariant:** after the first token no other model takes over. **Invariant:** prompts, answers and keys are neither
//! logged nor part of a status; a provider's error body is never read.
//!
//! Pieces: [`catalogue`], [`policy`], [`admission`], [`score`] and [`select`] are pure; [`dispatch`] tries the models,
//! [`provider`] reaches them, [`reach`] looks which answer, [`tokens`] and [`counting`] count, [`descriptors`] verifies, `grpc` serves.
//!
//! When a provider is down, models of other providers come first; when its credential is missing or refused, its models
//! are passed over. **Invariant:** what SelectModel admits follows from requirement, catalogue and routing policy alone.
//! The router depends on no other service and no store.

pub mod admission;
pub mod app;
pub mod catalogue;
pub mod config;
pub mod counting;
pub mod descriptors;
pub mod dispatch;
pub mod error;
mod grpc;
pub mod policy;
pub mod price;
pub mod prompt;
pub mod provider;
pub mod reach;
pub mod score;
pub mod select;
pub mod tokens;

#[cfg(test)]
mod samples;

use std::sync::Arc;

use mar_runtime::ServiceName;
use mar_runtime::config::RuntimeConfig;
use mar_runtime::process::{Failure, Start};
use mar_runtime::server::{Server, Stack};
use mar_runtime::violations::Violations;

pub use app::{Deps, Router};
pub use config::{ProviderConfig, RouterConfig};

/// Serves the router until shutdown: what the binary does.
///
/// # Errors
/// The configuration is wrong, or the listener fails.
pub async fn start(start: Start<RouterConfig>) -> Result<(), Failure> {
    let server = server(start.config, &start.runtime, Deps::default()).await?;
    server.serve(start.listener, start.shutdown).await.map_err(Failure::internal)
}

/// The router with the layers around it: [`Server::serve`] answers over TCP, [`Server::routed`] in the same process.
/// The layers take the clock and ids of `deps`.
///
/// # Errors
/// The configuration is wrong.
pub async fn server(config: RouterConfig, runtime: &RuntimeConfig, deps: Deps) -> Result<Server, Failure> {
    let (clock, ids) = (Arc::clone(&deps.clock), Arc::clone(&deps.ids));
    let stack = Stack::with_clock(ServiceName::Router, runtime, clock, ids)?;
    let router = Router::try_new(config, deps).map_err(|found| wrong(&found))?;
    Server::try_new(stack, router.routes()).await.map_err(Failure::internal)
}

fn wrong(found: &Violations) -> Failure {
    let lines = found.iter().map(|one| format!("router.{}: {}", one.field, one.description));
    Failure::Config(lines.collect())
}
