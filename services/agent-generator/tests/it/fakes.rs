//! A router and a tool gateway that answer as they are told and remember what they were asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use mar_descriptor::Hash;
use mar_proto::router::router_service_server::RouterService;
use mar_proto::router::{
    Candidate, CountTokensRequest, CountTokensResponse, GenerateRequest, GenerateResponse, GetModelRequest,
    GetModelResponse, ListModelsRequest, ListModelsResponse, Price, Rejection, RejectionReason, SelectModelRequest,
    SelectModelResponse, StreamGenerateRequest, StreamGenerateResponse,
};
use mar_proto::tool::tool_gateway_service_server::ToolGatewayService;
use mar_proto::tool::{
    GetToolRequest, GetToolResponse, InvokeToolRequest, InvokeToolResponse, ListToolsRequest, ListToolsResponse,
    ReceiveResultRequest, ReceiveResultResponse, Tool, UpstreamState,
};
use mar_proto::types::{ToolDefinition, TrustTier};
use mar_runtime::status::{Fault, Resource};
use tonic::{Request, Response, Status};

/// What a fake was asked: the message, the credential, and whether a deadline came along.
#[derive(Clone, Debug)]
pub struct Asked<T> {
    pub message: T,
    pub authorization: Option<String>,
    pub has_deadline: bool,
}

impl<T> Asked<T> {
    fn of(request: Request<T>) -> Self {
        let header = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (authorization, has_deadline) = (header("authorization"), header("grpc-timeout").is_some());
        Self { message: request.into_inner(), authorization, has_deadline }
    }
}

/// A router without models of its own.
#[derive(Clone, Debug, Default)]
pub struct FakeRouter(Arc<Mutex<RouterState>>);

#[derive(Debug, Default)]
pub struct RouterState {
    pub candidates: Vec<Candidate>,
    /// Trust tiers of the catalogue; others are ALIGNED.
    pub tiers: BTreeMap<&'static str, TrustTier>,
    /// Routing policies beside the unnamed; with none every name is one.
    pub policies: Vec<&'static str>,
    pub fail: Option<Status>,
    pub asked: Vec<Asked<SelectModelRequest>>,
}

impl FakeRouter {
    pub fn state(&self) -> MutexGuard<'_, RouterState> {
        self.0.lock().unwrap()
    }
}

/// A gateway without upstreams of its own.
#[derive(Clone, Debug, Default)]
pub struct FakeGateway(Arc<Mutex<GatewayState>>);

#[derive(Debug, Default)]
pub struct GatewayState {
    pub tools: Vec<Tool>,
    pub unavailable: Vec<String>,
    pub fail: Option<Status>,
    pub asked: Vec<Asked<ListToolsRequest>>,
}

impl FakeGateway {
    pub fn state(&self) -> MutexGuard<'_, GatewayState> {
        self.0.lock().unwrap()
    }
}

pub fn hash(text: &str) -> String {
    Hash::of("fake", text.as_bytes()).to_string()
}

pub fn candidate(model: &str, price: i64) -> Candidate {
    Candidate {
        model: format!("models/{model}"),
        admitted: true,
        spec_hash: hash(model),
        price: Some(Price { input_per_million: price, cached_input_per_million: 0, output_per_million: 2 * price }),
        max_output_tokens: 4_096,
        context_tokens: 8_192,
        ..Candidate::default()
    }
}

fn known(candidate: &Candidate, tiers: &BTreeMap<&'static str, TrustTier>) -> Candidate {
    let bare = candidate.model.strip_prefix("models/").unwrap();
    Candidate {
        provider: "house".into(),
        trust_tier: tiers.get(bare).copied().unwrap_or(TrustTier::Aligned).into(),
        residency: vec!["eu".into()],
        ..candidate.clone()
    }
}

pub fn rejected(model: &str, reason: RejectionReason, detail: &str) -> Candidate {
    Candidate {
        model: format!("models/{model}"),
        rejections: vec![Rejection { reason: reason.into(), detail: detail.into() }],
        spec_hash: hash(model),
        ..Candidate::default()
    }
}

pub fn tool(name: &str) -> Tool {
    let schema = r#"{"type":"object","properties":{"query":{"type":"string"}},"required":["query"],"additionalProperties":false}"#;
    let definition = ToolDefinition {
        name: format!("tools/{name}"),
        description: format!("Does {name}."),
        input_schema_json: schema.into(),
        definition_hash: hash(name),
        read_only: true,
        ..ToolDefinition::default()
    };
    let upstream = name.split('.').next().unwrap().to_owned();
    Tool { name: format!("tools/{name}"), upstream, definition: Some(definition), ..Tool::default() }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RouterService for FakeRouter {
    type StreamGenerateStream = tokio_stream::Empty<Result<StreamGenerateResponse, Status>>;

    async fn select_model(&self, request: Request<SelectModelRequest>) -> Answer<SelectModelResponse> {
        let mut state = self.state();
        let asked = Asked::of(request);
        let policy = asked.message.routing_policy.clone();
        state.asked.push(asked);
        if let Some(status) = &state.fail {
            return Err(status.clone());
        }
        if !policy.is_empty() && !state.policies.is_empty() && !state.policies.contains(&policy.as_str()) {
            return Err(Fault::not_found(Resource::RoutingPolicy, &policy).into());
        }
        Ok(Response::new(SelectModelResponse {
            candidates: state.candidates.iter().map(|one| known(one, &state.tiers)).collect(),
            catalogue_version: hash("catalogue"),
            routing_policy: "routingPolicies/balanced".into(),
            routing_policy_version: 1,
            routing_policy_hash: hash("balanced"),
        }))
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Answer<ListModelsResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_model(&self, _: Request<GetModelRequest>) -> Answer<GetModelResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn generate(&self, _: Request<GenerateRequest>) -> Answer<GenerateResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn stream_generate(&self, _: Request<StreamGenerateRequest>) -> Answer<Self::StreamGenerateStream> {
        Err(Status::unimplemented("fake"))
    }

    async fn count_tokens(&self, _: Request<CountTokensRequest>) -> Answer<CountTokensResponse> {
        Err(Status::unimplemented("fake"))
    }
}

#[tonic::async_trait]
impl ToolGatewayService for FakeGateway {
    async fn list_tools(&self, request: Request<ListToolsRequest>) -> Answer<ListToolsResponse> {
        let mut state = self.state();
        let asked = Asked::of(request);
        let from: usize = asked.message.page_token.parse().unwrap_or(0);
        state.asked.push(asked);
        if let Some(status) = &state.fail {
            return Err(status.clone());
        }
        // Two a page, whatever was asked for, and without looking at the patterns: a page may be short.
        let to = (from + 2).min(state.tools.len());
        let down = |upstream: &String| UpstreamState { upstream: upstream.clone(), detail: "down".into() };
        Ok(Response::new(ListToolsResponse {
            tools: state.tools[from..to].to_vec(),
            next_page_token: if to < state.tools.len() { to.to_string() } else { String::new() },
            unavailable: state.unavailable.iter().map(down).collect(),
        }))
    }

    async fn get_tool(&self, _: Request<GetToolRequest>) -> Answer<GetToolResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn invoke_tool(&self, _: Request<InvokeToolRequest>) -> Answer<InvokeToolResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn receive_result(&self, _: Request<ReceiveResultRequest>) -> Answer<ReceiveResultResponse> {
        Err(Status::unimplemented("fake"))
    }
}
