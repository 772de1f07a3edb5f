//! The two services that synthesis asks, each behind a small trait.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::router::{SelectModelRequest, SelectModelResponse};
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_proto::tool::{ListToolsRequest, ListToolsResponse};
use mar_proto::types::ErrorReason;
use mar_runtime::auth::Identity;
use mar_runtime::clock::Clock;
use mar_runtime::peer::Peer;
use mar_runtime::server::Deadline;
use mar_runtime::status::{Reason, Resource};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// On whose behalf a peer is called, and until when.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls; its credential goes along.
    pub identity: Identity,
    /// When the caller stops waiting.
    pub deadline: Option<Deadline>,
}

/// The router's part in synthesis.
#[async_trait]
pub trait Router: Send + Sync + 'static {
    /// Every model of the catalogue with its score or its rejections.
    async fn select_model(&self, call: &Call, request: SelectModelRequest) -> Result<SelectModelResponse, Status>;
}

/// The tool gateway's part in synthesis.
#[async_trait]
pub trait ToolRegistry: Send + Sync + 'static {
    /// A page of the catalogue.
    async fn list_tools(&self, call: &Call, request: ListToolsRequest) -> Result<ListToolsResponse, Status>;
}

/// The router, wherever it runs.
#[derive(Clone, Debug)]
pub struct RouterPeer {
    client: RouterServiceClient<Peer>,
    clock: Arc<dyn Clock>,
}

impl RouterPeer {
    /// The router behind `peer`.
    #[must_use]
    pub fn new(peer: Peer, clock: Arc<dyn Clock>) -> Self {
        let limit = peer.max_message();
        Self { client: RouterServiceClient::new(peer).max_decoding_message_size(limit), clock }
    }
}

#[async_trait]
impl Router for RouterPeer {
    async fn select_model(&self, call: &Call, request: SelectModelRequest) -> Result<SelectModelResponse, Status> {
        let request = call.request(request, &*self.clock);
        Ok(self.client.clone().select_model(request).await?.into_inner())
    }
}

/// The tool gateway, wherever it runs.
#[derive(Clone, Debug)]
pub struct ToolGatewayPeer {
    client: ToolGatewayServiceClient<Peer>,
    clock: Arc<dyn Clock>,
}

impl ToolGatewayPeer {
    /// The gateway behind `peer`.
    #[must_use]
    pub fn new(peer: Peer, clock: Arc<dyn Clock>) -> Self {
        let limit = peer.max_message();
        Self { client: ToolGatewayServiceClient::new(peer).max_decoding_message_size(limit), clock }
    }
}

#[async_trait]
impl ToolRegistry for ToolGatewayPeer {
    async fn list_tools(&self, call: &Call, request: ListToolsRequest) -> Result<ListToolsResponse, Status> {
        let request = call.request(request, &*self.clock);
        Ok(self.client.clone().list_tools(request).await?.into_inner())
    }
}

/// Whether the router refuses a question for its routing policy.
#[must_use]
pub fn is_unknown_policy(status: &Status) -> bool {
    Reason::of(status) == Some(ErrorReason::NotFound)
        && status
            .get_details_resource_info()
            .is_some_and(|found| found.resource_type == Resource::RoutingPolicy.type_name())
}

impl Call {
    fn request<T>(&self, message: T, clock: &dyn Clock) -> Request<T> {
        let mut request = Request::new(message);
        self.identity.forward(&mut request);
        if let Some(deadline) = self.deadline {
            // A timeout of nothing would be read as none.
            request.set_timeout(deadline.remaining(clock).max(Duration::from_millis(1)));
        }
        request
    }
}
