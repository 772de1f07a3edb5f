//! The gRPC face: parse, one call into the domain, convert.

use std::sync::Arc;

use mar_proto::agent::agent_generator_service_server::AgentGeneratorService;
use mar_proto::agent::{
    GenerateAgentRequest, GenerateAgentResponse, GetAgentRequest, GetAgentResponse, RenderPromptRequest,
    RenderPromptResponse,
};
use mar_runtime::auth::Identity;
use mar_runtime::server::Deadline;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::peers::Call;
use crate::synthesis::Synthesis;

pub mod convert;
mod limits;
mod task;

/// The service.
pub struct Service {
    synthesis: Arc<Synthesis>,
}

impl Service {
    /// Serves synthesis.
    #[must_use]
    pub fn new(synthesis: Arc<Synthesis>) -> Self {
        Self { synthesis }
    }
}

#[tonic::async_trait]
impl AgentGeneratorService for Service {
    async fn generate_agent(
        &self,
        request: Request<GenerateAgentRequest>,
    ) -> Result<Response<GenerateAgentResponse>, Status> {
        let call = Call { identity: Identity::of(&request)?.clone(), deadline: Deadline::of(&request) };
        let order = convert::order(request.into_inner(), &self.synthesis.recipes)?;
        let agent = self.synthesis.generate(&call, &order).await?;
        Ok(Response::new(convert::generated(agent)))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<GetAgentResponse>, Status> {
        let tenant = Identity::of(&request)?.caller.tenant.clone();
        let name = request.into_inner().name;
        let hash = convert::agent_hash(&name)?;
        let stored = self.synthesis.stored(&tenant, hash, &name).await?;
        Ok(Response::new(convert::stored(stored)))
    }

    async fn render_prompt(
        &self,
        request: Request<RenderPromptRequest>,
    ) -> Result<Response<RenderPromptResponse>, Status> {
        let caller = Identity::of(&request)?.caller.clone();
        let brief = convert::brief(request.into_inner(), &self.synthesis.recipes).map_err(Error::Invalid)?;
        let run = self.synthesis.render(&caller, &brief)?;
        Ok(Response::new(convert::rendered(run)))
    }
}
