//! What a run needs of the other services.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use mar_proto::agent::{GenerateAgentRequest, GenerateAgentResponse};
use mar_proto::router::StreamGenerateResponse;
use mar_proto::session::Agent;
use mar_proto::tool::{InvokeToolRequest, InvokeToolResponse, ReceiveResultRequest, ReceiveResultResponse};
use mar_proto::types::{SealedDescriptor, Usage};
use mar_runtime::auth::Caller;
use uuid::Uuid;

pub mod grpc;
mod turn;

pub use turn::TurnRequest;

/// For which run a peer is called.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// Who admitted the run.
    pub caller: Arc<Caller>,
    /// Its session.
    pub session: Uuid,
    /// The run.
    pub run: Uuid,
    /// The ownership that calls.
    pub epoch: i64,
    /// The sealed agent; `None` while it is being synthesised.
    pub agent: Option<Arc<Agent>>,
    /// To which peers the descriptor has been sent in this epoch.
    pub introduced: Arc<Introduced>,
}

impl RunContext {
    /// The sealed descriptor; `None` while the agent is being synthesised.
    pub fn descriptor(&self) -> Option<&SealedDescriptor> {
        self.agent.as_ref()?.descriptor.as_ref()
    }
}

/// Peers that have been sent the descriptor in this epoch. The first call to each carries it unasked.
#[derive(Debug, Default)]
pub struct Introduced {
    router: AtomicBool,
    tool_gateway: AtomicBool,
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Name of an `ErrorReason`.
    pub reason: String,
    /// The peer's sentence.
    pub message: String,
    /// Whether the same call may succeed later.
    pub transient: bool,
    /// Whether the call is known not to have reached the peer.
    pub never_sent: bool,
    /// When the peer asks to be tried again.
    pub retry_after: Option<Duration>,
    /// What the call used all the same, where the peer says so.
    pub spent: Option<Box<Usage>>,
    /// `models/{model}` that failed, where the peer is the router and says so.
    pub failed_models: Vec<String>,
    /// Every attempt of the router's: model and what happened.
    pub attempts: Box<[String]>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.reason, self.message)
    }
}

/// A stream of a turn in the making.
pub type TurnStream = BoxStream<'static, Result<StreamGenerateResponse, Refusal>>;

/// The other services, as a run needs them.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Has an agent synthesised.
    async fn generate_agent(
        &self,
        context: &RunContext,
        request: GenerateAgentRequest,
    ) -> Result<GenerateAgentResponse, Refusal>;

    /// Has a turn generated. Dropping the stream stops the generation.
    async fn stream_generate(
        &self,
        context: &RunContext,
        request: TurnRequest,
        deadline: Duration,
    ) -> Result<TurnStream, Refusal>;

    /// Has a tool call decided on and made. Dropping the future stops the call.
    async fn invoke_tool(
        &self,
        context: &RunContext,
        request: InvokeToolRequest,
        deadline: Duration,
    ) -> Result<InvokeToolResponse, Refusal>;

    /// Has the result of a call that was handed over decided on.
    async fn receive_result(
        &self,
        context: &RunContext,
        request: ReceiveResultRequest,
        deadline: Duration,
    ) -> Result<ReceiveResultResponse, Refusal>;

    /// Drops what is kept for a run that has ended.
    fn forget(&self, context: &RunContext);
}
