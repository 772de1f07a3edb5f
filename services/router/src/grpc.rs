//! The router's RPCs: parse, one call of the domain, convert.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use mar_descriptor::VerifiedDescriptor;
use mar_proto::router as pb;
use mar_proto::router::router_service_server::RouterService;
use mar_proto::types;
use mar_runtime::auth::Identity;
use mar_runtime::page;
use mar_runtime::server::Deadline;
use mar_runtime::status::Resource;
use mar_runtime::violations::Violations;
use tonic::{Request, Response, Status};

use crate::app::Router;
use crate::catalogue::Model;
use crate::dispatch::{Frame, Prepared, Wish};
use crate::error::Error;
use crate::prompt::{Prompt, bare};
use crate::provider::Delivery;
use crate::reach::Found;
use crate::select::{Moment, select};

mod convert;

use convert::Emptiness;

type Frames = Pin<Box<dyn Stream<Item = Result<pb::StreamGenerateResponse, Status>> + Send>>;

/// Models that a request may put last.
const MOST_FAILED: usize = 256;

#[tonic::async_trait]
impl RouterService for Router {
    async fn list_models(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let scope = page::Scope::new(&Identity::of(&request)?.caller.tenant, "ListModels", &[]);
        let request = request.into_inner();
        let mut found = Violations::new();
        let size = page::size(request.page_size, &mut found);
        let after: Option<String> = page::decode(&request.page_token, &scope, &mut found);
        found.into_result(())?;
        let catalogue = &self.app().catalogue;
        let later = |model: &&Arc<Model>| after.as_ref().is_none_or(|after| model.name > *after);
        let models: Vec<_> = catalogue.models().iter().filter(later).take(size + 1).collect();
        let more = models.len() > size;
        let last = models.get(size.saturating_sub(1)).filter(|_| more);
        Ok(Response::new(pb::ListModelsResponse {
            next_page_token: last.map(|last| page::encode(&last.name, &scope)).unwrap_or_default(),
            models: models.into_iter().take(size).map(|model| convert::spec(model)).collect(),
            catalogue_version: catalogue.version().to_string(),
        }))
    }

    async fn get_model(&self, request: Request<pb::GetModelRequest>) -> Result<Response<pb::GetModelResponse>, Status> {
        let name = request.into_inner().name;
        let mut found = Violations::new();
        convert::model_name(&name, "name", &mut found);
        found.into_result(())?;
        let model = self.model(&name)?;
        let model = Some(convert::spec(&model));
        Ok(Response::new(pb::GetModelResponse { model }))
    }

    async fn select_model(
        &self,
        request: Request<pb::SelectModelRequest>,
    ) -> Result<Response<pb::SelectModelResponse>, Status> {
        let app = self.app();
        let environment_tier = app.config.min_trust_tier(&Identity::of(&request)?.caller.environment);
        let request = request.into_inner();
        let mut found = Violations::new();
        let asked = request.requirement.unwrap_or_default();
        let wish = found.within("requirement", |found| convert::requirement(&asked, found));
        convert::routing_policy(&request.routing_policy, &mut found);
        convert::task_type(&request.task_type, &mut found);
        found.into_result(())?;
        let policy = app
            .policies
            .get(&request.routing_policy)
            .ok_or_else(|| Error::NotFound { kind: Resource::RoutingPolicy, name: request.routing_policy.clone() })?;
        let looked = if request.look { app.reach.look().await } else { Found::new() };
        let moment = Moment {
            environment_tier,
            // What is admitted is sealed: it must not depend on the keys of this machine, or on the moment.
            credential: &|_| None,
            input_tokens: &|_| asked.input_tokens,
        };
        let candidates = select(&app.catalogue, policy, &request.task_type, &wish, &moment);
        Ok(Response::new(pb::SelectModelResponse {
            candidates: candidates.into_iter().map(|one| convert::candidate(one, &app.pool, &looked)).collect(),
            catalogue_version: app.catalogue.version().to_string(),
            routing_policy: policy.name().to_owned(),
            routing_policy_version: policy.version(),
            routing_policy_hash: policy.hash().to_string(),
        }))
    }

    async fn generate(&self, request: Request<pb::GenerateRequest>) -> Result<Response<pb::GenerateResponse>, Status> {
        let request = request.map(|body| pb::StreamGenerateRequest {
            generation_id: body.generation_id,
            model_role: body.model_role,
            prompt: body.prompt,
            budget: body.budget,
            descriptor: body.descriptor,
            try_last: body.try_last,
        });
        let mut frames = self.prepare(request, Delivery::Whole).await?.run();
        while let Some(frame) = frames.next().await {
            if let Frame::Turn(turn) = frame? {
                let turn = Some(convert::turn(*turn));
                return Ok(Response::new(pb::GenerateResponse { turn }));
            }
        }
        Err(mar_runtime::status::internal("dispatch ended without a turn"))
    }

    type StreamGenerateStream = Frames;

    async fn stream_generate(
        &self,
        request: Request<pb::StreamGenerateRequest>,
    ) -> Result<Response<Self::StreamGenerateStream>, Status> {
        let frames = self.prepare(request, Delivery::Streamed).await?.run();
        let frames = frames.map(|frame| frame.map(convert::frame).map_err(Status::from));
        Ok(Response::new(Box::pin(frames)))
    }

    async fn count_tokens(
        &self,
        request: Request<pb::CountTokensRequest>,
    ) -> Result<Response<pb::CountTokensResponse>, Status> {
        let tenant = Identity::of(&request)?.caller.tenant.clone();
        let request = request.into_inner();
        let mut found = Violations::new();
        convert::model_name(&request.model, "model", &mut found);
        let prompt = convert::prompt(request.prompt, Emptiness::Allowed, &mut found);
        found.into_result(())?;
        let model = self.model(&request.model)?;
        let counted = self.app().counting.input(&tenant, &model, &prompt).await;
        Ok(Response::new(pb::CountTokensResponse { input_tokens: counted.tokens, exact: counted.exact }))
    }
}

impl Router {
    fn model(&self, name: &str) -> Result<Arc<Model>, Error> {
        let found = self.app().catalogue.model(name);
        found.map(Arc::clone).ok_or_else(|| Error::NotFound { kind: Resource::Model, name: name.to_owned() })
    }

    /// Everything that comes before the first attempt.
    async fn prepare(
        &self,
        request: Request<pb::StreamGenerateRequest>,
        delivery: Delivery,
    ) -> Result<Prepared, Status> {
        let app = self.app();
        let identity = Identity::of(&request)?.clone();
        let grant = identity.require_run()?;
        let deadline = Deadline::of(&request).map(|deadline| deadline.at);
        let request = request.into_inner();
        let mut found = Violations::new();
        let hash = convert::granted_hash(grant, &mut found);
        let offered = convert::sealed(request.descriptor, &mut found);
        let prompt = convert::prompt(request.prompt, Emptiness::Refused, &mut found);
        let budget = convert::budget(request.budget, &mut found);
        found.require(request.try_last.len() <= MOST_FAILED, "try_last", format!("has more than {MOST_FAILED} models"));
        convert::generation_id(&request.generation_id, &mut found);
        let tenant = identity.caller.tenant;
        found.into_result(())?;
        let descriptor = app.descriptors.resolve(&tenant, hash, offered)?;
        sealed_tools(&descriptor, &prompt)?;
        tracing::debug!(generation.id = %request.generation_id, "generation admitted");
        let wish = Wish {
            tenant,
            environment_tier: app.config.min_trust_tier(&identity.caller.environment),
            role: request.model_role,
            prompt: Arc::new(prompt),
            budget,
            try_last: request.try_last,
            deadline,
            delivery,
            span: tracing::Span::current(),
        };
        Ok(app.dispatcher.prepare(wish, descriptor.descriptor()).await?)
    }
}

/// Refuses tools that the descriptor does not hold, or holds otherwise.
fn sealed_tools(descriptor: &VerifiedDescriptor, prompt: &Prompt) -> Result<(), Error> {
    let sealed = &descriptor.descriptor().agent;
    let mut found = Violations::new();
    for (at, tool) in prompt.tools.iter().enumerate() {
        let Some(pin) = sealed.tool(bare(&tool.name)) else {
            found.item("prompt.tools", at, |found| {
                found.field("name", "is not sealed in the descriptor");
            });
            continue;
        };
        if pin.definition_hash.to_string() != tool.definition_hash {
            return Err(Error::ToolChanged { tool: tool.name.clone() });
        }
        found.item("prompt.tools", at, |found| {
            found.require(pin.alias == tool.alias, "alias", "is not the sealed one");
        });
    }
    found.into_result(()).map_err(Error::from)
}

/// The tier names of the API and of descriptors.
pub(crate) fn tier(tier: mar_descriptor::TrustTier) -> types::TrustTier {
    match tier {
        mar_descriptor::TrustTier::Unverified => types::TrustTier::Unverified,
        mar_descriptor::TrustTier::Experimental => types::TrustTier::Experimental,
        mar_descriptor::TrustTier::Aligned => types::TrustTier::Aligned,
        mar_descriptor::TrustTier::Production => types::TrustTier::Production,
    }
}
