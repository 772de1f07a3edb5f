//! The gateway's RPCs: parse, one call of the domain, convert.

use mar_proto::tool as pb;
use mar_proto::tool::tool_gateway_service_server::ToolGatewayService;
use mar_runtime::auth::Identity;
use mar_runtime::page;
use mar_runtime::server::Deadline;
use mar_runtime::violations::Violations;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::app::Gateway;
use crate::call::{Aim, Invocation};
use crate::error::Error;
use crate::outcome::Answer;

mod convert;

#[tonic::async_trait]
impl ToolGatewayService for Gateway {
    async fn list_tools(
        &self,
        request: Request<pb::ListToolsRequest>,
    ) -> Result<Response<pb::ListToolsResponse>, Status> {
        let tenant = Identity::of(&request)?.caller.tenant.clone();
        let request = request.into_inner();
        let filter: Vec<&str> = request.patterns.iter().map(String::as_str).collect();
        let scope = page::Scope::new(&tenant, "ListTools", &filter);
        let mut found = Violations::new();
        let size = page::size(request.page_size, &mut found);
        let after: Option<String> = page::decode(&request.page_token, &scope, &mut found);
        let patterns = convert::patterns(&request.patterns, &mut found);
        found.into_result(())?;
        let (tools, more) = self.app().registry.list(&patterns, after.as_deref(), size);
        let last = tools.last().filter(|_| more).map(|tool| convert::bare(&tool.name));
        Ok(Response::new(pb::ListToolsResponse {
            next_page_token: last.map(|last| page::encode(&last, &scope)).unwrap_or_default(),
            unavailable: self.app().registry.unavailable(),
            tools,
        }))
    }

    async fn get_tool(&self, request: Request<pb::GetToolRequest>) -> Result<Response<pb::GetToolResponse>, Status> {
        let name = request.into_inner().name;
        let mut found = Violations::new();
        let bare = convert::tool_name(&name, "name", &mut found);
        found.into_result(())?;
        let tool = self.app().registry.tool(bare).ok_or_else(|| Error::NotFound(name.clone()))?;
        Ok(Response::new(pb::GetToolResponse { tool: Some(tool) }))
    }

    async fn invoke_tool(
        &self,
        request: Request<pb::InvokeToolRequest>,
    ) -> Result<Response<pb::InvokeToolResponse>, Status> {
        let invocation = self.admit(request)?;
        let span = tracing::info_span!(
            "execute_tool",
            otel.name = format!("execute_tool {}", invocation.tool),
            otel.kind = "client",
            gen_ai.operation.name = "execute_tool",
            gen_ai.tool.name = invocation.tool,
            gen_ai.tool.call.id = invocation.call_id,
        );
        let outcome = self.app().dispatcher.invoke(&invocation).instrument(span).await;
        Ok(Response::new(convert::outcome(&invocation, outcome)))
    }

    async fn receive_result(
        &self,
        request: Request<pb::ReceiveResultRequest>,
    ) -> Result<Response<pb::ReceiveResultResponse>, Status> {
        let (call, answer) = self.admit_result(request)?;
        let outcome = self.app().dispatcher.take(&call, answer);
        Ok(Response::new(convert::taken(&call, outcome)))
    }
}

impl Gateway {
    /// Everything that has to hold before anything is decided: run token, request, descriptor.
    fn admit(&self, request: Request<pb::InvokeToolRequest>) -> Result<Invocation, Status> {
        let app = self.app();
        let identity = Identity::of(&request)?.clone();
        let grant = identity.require_run()?;
        let remaining = Deadline::of(&request).map(|deadline| deadline.remaining(&*app.clock));
        let request = request.into_inner();
        let mut found = Violations::new();
        let hash = convert::granted_hash(grant, &mut found);
        let offered = convert::sealed(request.descriptor, &mut found);
        let tool = convert::tool_name(&request.tool, "tool", &mut found).to_owned();
        convert::short(&request.call_id, "call_id", &mut found);
        convert::short(&request.idempotency_key, "idempotency_key", &mut found);
        let facts = convert::facts(request.facts.unwrap_or_default(), &mut found);
        let both = request.probe && request.decide_only;
        found.require(!both, "decide_only", "must not be set together with probe");
        let approval = request.approval.map(|given| convert::approval(given, &mut found));
        let alone = request.recorded.is_none() || request.decide_only;
        found.require(alone, "recorded", "must not be set without decide_only");
        let recorded = request.recorded.map(|recorded| convert::recorded(recorded, &mut found));
        found.into_result(())?;
        let sealed = app.descriptors.resolve(&identity.caller.tenant, hash, offered)?;
        Ok(Invocation {
            caller: identity.caller,
            sealed,
            call_id: request.call_id,
            tool,
            arguments_json: request.arguments_json,
            idempotency_key: request.idempotency_key,
            facts,
            approval,
            definition: request.definition,
            recorded,
            remaining,
            aim: match (request.probe, request.decide_only) {
                (true, _) => Aim::Ask,
                (false, true) => Aim::Decide,
                (false, false) => Aim::Make,
            },
        })
    }

    /// The same for a result that somebody else brings.
    fn admit_result(&self, request: Request<pb::ReceiveResultRequest>) -> Result<(Invocation, Answer), Status> {
        let app = self.app();
        let identity = Identity::of(&request)?.clone();
        let grant = identity.require_run()?;
        let request = request.into_inner();
        let mut found = Violations::new();
        let hash = convert::granted_hash(grant, &mut found);
        let offered = convert::sealed(request.descriptor, &mut found);
        let tool = convert::tool_name(&request.tool, "tool", &mut found).to_owned();
        convert::short(&request.call_id, "call_id", &mut found);
        let facts = convert::facts(request.facts.unwrap_or_default(), &mut found);
        let answer = convert::brought(request.result.unwrap_or_default(), &mut found);
        found.into_result(())?;
        let sealed = app.descriptors.resolve(&identity.caller.tenant, hash, offered)?;
        let call = Invocation {
            caller: identity.caller,
            sealed,
            call_id: request.call_id,
            tool,
            arguments_json: String::new(),
            idempotency_key: String::new(),
            facts,
            approval: None,
            definition: request.definition,
            recorded: None,
            remaining: None,
            aim: Aim::Make,
        };
        Ok((call, answer))
    }
}
