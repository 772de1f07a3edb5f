//! A source of tools: its state, and the two traits that every kind of it implements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mar_proto::tool::UpstreamKind;
use mar_runtime::clock::{Clock, within};
use tokio::sync::watch;

use crate::config::{Kind, UpstreamConfig};
use crate::definition::{Declared, Definition, Described};
use crate::gate::Gate;
use crate::outcome::{Answer, Call, Failure};

mod doubt;
mod supervisor;

pub use supervisor::Supervisor;

/// Tools of one upstream beyond this number are left out.
const MAX_TOOLS: usize = 1_000;
/// Tools whose names the log has, of those that are left out for one reason.
const LEFT_OUT_SHOWN: usize = 5;
/// How long a call waits for an upstream that is being started again.
const READY_WAIT: Duration = Duration::from_secs(2);

/// Opens sessions with one upstream.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Starts it or connects to it. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// Why it cannot be reached now.
    async fn connect(&self) -> Result<Arc<dyn Session>, ConnectError>;
}

/// An open session with an upstream. Dropping it ends it.
#[async_trait]
pub trait Session: Send + Sync {
    /// Every tool that it offers now.
    ///
    /// # Errors
    /// It broke off or answered with something that is not its protocol.
    async fn tools(&self) -> Result<Vec<Described>, ConnectError>;

    /// Makes one call. Dropping the future cancels the call at the upstream as well.
    ///
    /// # Errors
    /// Why no answer came.
    async fn call(&self, call: Call) -> Result<Answer, Failure>;

    /// Resolves when the session has ended by itself, with the reason for people.
    async fn ended(&self) -> String;

    /// Resolves when the upstream says that its tools have changed.
    async fn changed(&self);

    /// Ends the session and waits until it has ended.
    async fn close(&self);
}

/// An upstream cannot be reached. The text is for people and holds no secret.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct ConnectError {
    context: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ConnectError {
    /// An error with its cause, which goes to the log only.
    pub fn new(context: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { context: context.into(), source: Some(source.into()) }
    }

    /// An error without another cause.
    pub fn bare(context: impl Into<String>) -> Self {
        Self { context: context.into(), source: None }
    }
}

/// The tools of one upstream by their names at it.
pub type Catalogue = BTreeMap<String, Arc<Definition>>;

/// What is known of an upstream now.
#[derive(Clone)]
pub struct State {
    /// The session; none while it is down.
    pub session: Option<Arc<dyn Session>>,
    /// The tools that it offers, or offered when it was last up; none when it never was.
    pub catalogue: Option<Arc<Catalogue>>,
    /// Why it is down, for people.
    pub detail: String,
    /// Attempts to start it that failed since it was last up.
    pub failures: u32,
}

/// One configured upstream.
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Its table of the configuration.
    pub config: UpstreamConfig,
    /// Bounds its calls.
    pub gate: Gate,
    /// Bounds how long it is waited for.
    pub clock: Arc<dyn Clock>,
    state: watch::Sender<State>,
}

impl Upstream {
    /// An upstream that is not connected yet.
    pub fn new(name: impl Into<String>, config: UpstreamConfig, clock: Arc<dyn Clock>) -> Self {
        let state = State { session: None, catalogue: None, detail: "is being started".into(), failures: 0 };
        Self {
            name: name.into(),
            gate: Gate::new(config.max_concurrency, config.max_queue),
            clock,
            state: watch::Sender::new(state),
            config,
        }
    }

    /// What is known of it now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What is known of it, after a short wait for one that is just being started.
    pub async fn ready(&self, limit: Duration) -> State {
        let state = self.state();
        // One that has failed again and again would only make its callers slow.
        if state.session.is_some() || state.failures > 1 {
            return state;
        }
        let mut changes = self.state.subscribe();
        let settled = changes.wait_for(|state| state.session.is_some() || state.failures > 1);
        match within(&*self.clock, READY_WAIT.min(limit), settled).await {
            Ok(Ok(state)) => state.clone(),
            _ => self.state(),
        }
    }

    /// Its kind in the API's form.
    pub fn kind(&self) -> UpstreamKind {
        match self.config.kind {
            Kind::McpStdio => UpstreamKind::McpStdio,
            Kind::McpHttp => UpstreamKind::McpHttp,
            Kind::Search => UpstreamKind::Search,
        }
    }

    fn set_up(&self, session: Arc<dyn Session>, described: Vec<Described>) {
        let catalogue = Arc::new(self.define(described));
        tracing::info!(upstream.name = %self.name, upstream.tools = catalogue.len(), "upstream is up");
        let state = State { session: Some(session), catalogue: Some(catalogue), detail: String::new(), failures: 0 };
        self.state.send_replace(state);
    }

    /// Whether it is down already, for this reason: a try that changes nothing is not told again.
    fn is_down_for(&self, detail: &str) -> bool {
        let state = self.state.borrow();
        state.session.is_none() && state.failures > 0 && state.detail == detail
    }

    fn set_down(&self, detail: String, failures: u32) {
        if self.is_down_for(&detail) {
            tracing::debug!(upstream.name = %self.name, upstream.failures = failures, detail, "upstream is still down");
        } else {
            tracing::warn!(upstream.name = %self.name, upstream.failures = failures, detail, "upstream is down");
        }
        self.leave(detail, failures);
    }

    /// The gateway lets go of it because it stops itself.
    fn set_stopped(&self) {
        tracing::debug!(upstream.name = %self.name, "upstream is let go of");
        self.leave("the gateway is stopping".to_owned(), 0);
    }

    fn leave(&self, detail: String, failures: u32) {
        self.state.send_modify(|state| {
            state.session = None;
            state.detail = detail;
            state.failures = failures;
        });
    }

    fn define(&self, described: Vec<Described>) -> Catalogue {
        let mut catalogue = Catalogue::new();
        let probes = self.probes(&described);
        let mut left_out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for described in described {
            let tool = described.tool.clone();
            let mut left_out = |reason: &str| {
                left_out.entry(reason.to_owned()).or_default().push(tool.chars().take(64).collect());
            };
            if catalogue.len() >= MAX_TOOLS {
                left_out("the upstream offers too many tools");
                continue;
            }
            if catalogue.contains_key(&tool) {
                left_out("another tool of the upstream has this name");
                continue;
            }
            let declared = Declared {
                idempotent: self.config.is_idempotent(&tool),
                read_only: self.config.is_read_only(&tool),
                doubt: self.declared_doubt(&tool, &probes),
            };
            match Definition::try_new(&self.name, described, declared) {
                Ok(definition) => {
                    catalogue.insert(tool, Arc::new(definition));
                }
                Err(refusal) => left_out(&refusal.to_string()),
            }
        }
        for (reason, tools) in left_out {
            let few = tools.get(..LEFT_OUT_SHOWN).unwrap_or(&tools);
            tracing::warn!(upstream.name = %self.name, tools = tools.len(), names = ?few, reason, "tools left out");
        }
        catalogue
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Upstream").field("name", &self.name).field("kind", &self.config.kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
