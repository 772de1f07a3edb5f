//! The other services over generated clients, in this process or over TCP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use mar_proto::agent::agent_generator_service_client::AgentGeneratorServiceClient;
use mar_proto::agent::{GenerateAgentRequest, GenerateAgentResponse};
use mar_proto::router::StreamGenerateResponse;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_proto::tool::{InvokeToolRequest, InvokeToolResponse, ReceiveResultRequest, ReceiveResultResponse};
use mar_proto::types::{ErrorReason, SealedDescriptor, Usage};
use mar_runtime::ServiceName;
use mar_runtime::auth::{RunGrant, RunTokenCache};
use mar_runtime::peer::Peer;
use mar_runtime::status::{self, Reason};
use tonic::{Code, Request, Status};

use super::{Peers, Refusal, RunContext, TurnRequest, TurnStream};

/// Peers over gRPC.
#[derive(Debug)]
pub struct GrpcPeers {
    generator: AgentGeneratorServiceClient<Peer>,
    router: RouterServiceClient<Peer>,
    tools: ToolGatewayServiceClient<Peer>,
    tokens: RunTokenCache,
}

impl GrpcPeers {
    /// Clients over three peers, with tokens signed by session. What is too large to be sent is for the peer to refuse: a
    /// client that refuses it breaks its stream, which looks as if the peer had gone.
    pub fn new(generator: Peer, router: Peer, tools: Peer, tokens: RunTokenCache) -> Self {
        let [to_generator, to_router, to_tools] = [&generator, &router, &tools].map(Peer::max_message);
        Self {
            generator: AgentGeneratorServiceClient::new(generator).max_decoding_message_size(to_generator),
            router: RouterServiceClient::new(router).max_decoding_message_size(to_router),
            tools: ToolGatewayServiceClient::new(tools).max_decoding_message_size(to_tools),
            tokens,
        }
    }

    /// A request with the run's token and a deadline.
    fn request<T>(
        &self,
        context: &RunContext,
        message: T,
        audience: &[ServiceName],
        deadline: Duration,
    ) -> Result<Request<T>, Refusal> {
        let grant = RunGrant {
            session: context.session.to_string(),
            run: context.run.to_string(),
            descriptor_hash: context.descriptor().map(|sealed| sealed.hash.clone()),
            epoch: u64::try_from(context.epoch).unwrap_or_default(),
        };
        let mut request = Request::new(message);
        request.set_timeout(deadline);
        self.tokens.authorize(&mut request, &context.caller, &grant, audience).map_err(|error| Refusal {
            reason: "INTERNAL".to_owned(),
            message: error.to_string(),
            transient: false,
            never_sent: false,
            retry_after: None,
            spent: None,
            failed_models: Vec::new(),
            attempts: Box::default(),
        })?;
        Ok(request)
    }
}

/// The descriptor, where the peer may not hold it yet.
fn introduce(context: &RunContext, introduced: &AtomicBool) -> Option<SealedDescriptor> {
    if introduced.load(Ordering::Relaxed) { None } else { context.descriptor().cloned() }
}

/// For what a call has been repeated: for each reason once, and only where the peer has done nothing yet.
#[derive(Debug, Default)]
struct Repeats {
    descriptor: bool,
    token: bool,
}

impl Repeats {
    /// Whether the peer asks for the descriptor that the call left out.
    fn wants_descriptor(&mut self, status: &Status) -> bool {
        Reason::of(status) == Some(ErrorReason::DescriptorRequired) && !std::mem::replace(&mut self.descriptor, true)
    }

    /// Whether the peer refuses the run's token, which may be older than the cache believes: its renewal is timed by a
    /// clock that stands still while the machine sleeps.
    fn wants_token(&mut self, status: &Status) -> bool {
        Reason::of(status) == Some(ErrorReason::RunTokenInvalid) && !std::mem::replace(&mut self.token, true)
    }
}

/// A status as a refusal.
fn refusal(status: &Status) -> Refusal {
    let reason = Reason::of(status).map_or_else(|| code_reason(status.code()), status::reason_name);
    let transient =
        matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unknown)
            && !matches!(reason, "BUDGET_EXCEEDED" | "MESSAGE_TOO_LARGE");
    Refusal {
        reason: reason.to_owned(),
        message: told(status),
        transient,
        never_sent: reason == "DRAINING" || mar_runtime::peer::never_sent(status),
        retry_after: status::retry_after(status),
        spent: spent(status).map(Box::new),
        failed_models: failed_models(status),
        attempts: attempts(status),
    }
}

/// The peer's sentence, with the names of upstreams that are down.
fn told(status: &Status) -> String {
    match status::metadata(status).get("upstreams") {
        Some(names) => format!("{}: {names}", status.message()),
        None => status.message().to_owned(),
    }
}

/// What the router says that its attempts used. A count of its own, not the provider's.
fn spent(status: &Status) -> Option<Usage> {
    let found = status::metadata(status);
    let amount = |key: &str| found.get(key)?.parse::<i64>().ok().filter(|amount| *amount >= 0);
    let (input_tokens, output_tokens) = (amount("spent_input_tokens")?, amount("spent_output_tokens")?);
    let cost_nano_usd = amount("spent_cost_nano_usd")?;
    let estimated = input_tokens > 0 || output_tokens > 0 || cost_nano_usd > 0;
    Some(Usage { input_tokens, output_tokens, cost_nano_usd, estimated, ..Usage::default() })
}

/// The models that the router has tried.
fn failed_models(status: &Status) -> Vec<String> {
    let found = status::metadata(status);
    let named = found.get("failed_models").map_or("", String::as_str);
    named.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// What came of each attempt of the router's.
fn attempts(status: &Status) -> Box<[String]> {
    let found = status::metadata(status);
    let told = found.get("attempts").map_or("", String::as_str);
    told.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The reason of a status without details: only a proxy between the services makes one.
fn code_reason(code: Code) -> &'static str {
    match code {
        Code::Unavailable | Code::Unknown => "PEER_UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Cancelled => "CANCELLED",
        _ => "INTERNAL",
    }
}

/// For how long an agent may take to be synthesised.
const SYNTHESIS_DEADLINE: Duration = Duration::from_secs(20);

#[async_trait]
impl Peers for GrpcPeers {
    async fn generate_agent(
        &self,
        context: &RunContext,
        request: GenerateAgentRequest,
    ) -> Result<GenerateAgentResponse, Refusal> {
        // The generator passes the token on to the two peers that it asks.
        let audience = [ServiceName::AgentGenerator, ServiceName::Router, ServiceName::ToolGateway];
        let mut repeats = Repeats::default();
        loop {
            let call = self.request(context, request.clone(), &audience, SYNTHESIS_DEADLINE)?;
            match self.generator.clone().generate_agent(call).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if repeats.wants_token(&status) => self.forget(context),
                Err(status) => return Err(refusal(&status)),
            }
        }
    }

    async fn stream_generate(
        &self,
        context: &RunContext,
        request: TurnRequest,
        deadline: Duration,
    ) -> Result<TurnStream, Refusal> {
        let introduced = &context.introduced.router;
        let mut descriptor = introduce(context, introduced);
        let mut repeats = Repeats::default();
        let stream = loop {
            let wire = request.to_wire(descriptor.take());
            let call = self.request(context, wire, &[ServiceName::Router], deadline)?;
            match self.router.clone().stream_generate(call).await {
                Ok(response) => break response.into_inner(),
                Err(status) if repeats.wants_descriptor(&status) => descriptor = context.descriptor().cloned(),
                Err(status) if repeats.wants_token(&status) => self.forget(context),
                Err(status) => return Err(refusal(&status)),
            }
        };
        introduced.store(true, Ordering::Relaxed);
        Ok(stream.map(|frame: Result<StreamGenerateResponse, Status>| frame.map_err(|status| refusal(&status))).boxed())
    }

    async fn invoke_tool(
        &self,
        context: &RunContext,
        mut request: InvokeToolRequest,
        deadline: Duration,
    ) -> Result<InvokeToolResponse, Refusal> {
        let introduced = &context.introduced.tool_gateway;
        request.descriptor = introduce(context, introduced);
        let mut repeats = Repeats::default();
        let response = loop {
            let call = self.request(context, request.clone(), &[ServiceName::ToolGateway], deadline)?;
            match self.tools.clone().invoke_tool(call).await {
                Ok(response) => break response.into_inner(),
                Err(status) if repeats.wants_descriptor(&status) => request.descriptor = context.descriptor().cloned(),
                Err(status) if repeats.wants_token(&status) => self.forget(context),
                Err(status) => return Err(refusal(&status)),
            }
        };
        introduced.store(true, Ordering::Relaxed);
        Ok(response)
    }

    async fn receive_result(
        &self,
        context: &RunContext,
        mut request: ReceiveResultRequest,
        deadline: Duration,
    ) -> Result<ReceiveResultResponse, Refusal> {
        let introduced = &context.introduced.tool_gateway;
        request.descriptor = introduce(context, introduced);
        let mut repeats = Repeats::default();
        let response = loop {
            let call = self.request(context, request.clone(), &[ServiceName::ToolGateway], deadline)?;
            match self.tools.clone().receive_result(call).await {
                Ok(response) => break response.into_inner(),
                Err(status) if repeats.wants_descriptor(&status) => request.descriptor = context.descriptor().cloned(),
                Err(status) if repeats.wants_token(&status) => self.forget(context),
                Err(status) => return Err(refusal(&status)),
            }
        };
        introduced.store(true, Ordering::Relaxed);
        Ok(response)
    }

    fn forget(&self, context: &RunContext) {
        self.tokens.forget(&context.caller.tenant, &context.run.to_string());
    }
}

#[cfg(test)]
mod tests;
