//! Each service alone: nothing else runs, and it answers what it can answer.

use std::time::Duration;

use anyhow::Context as _;
use mar_proto::agent::RenderPromptRequest;
use mar_proto::agent::agent_generator_service_client::AgentGeneratorServiceClient;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::router::{ListModelsRequest, Obstacle, Requirement, SelectModelRequest};
use mar_proto::session::{GetRunRequest, RunState};
use mar_proto::tool::ListToolsRequest;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_proto::types::{ErrorReason, part::Content};
use mar_testkit::wait::until_some;
use mar_tests::{Deployment, Options, Shape, Stores, task};

use crate::reading::{name, reason};

/// A system of which only this service runs.
async fn only(service: usize) -> anyhow::Result<Deployment> {
    let mut system = Deployment::prepare(Options::new(Shape::Four, Stores::Embedded)).await?;
    system.start_one(service).await?;
    Ok(system)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_selects_models() -> anyhow::Result<()> {
    let system = only(1).await?;
    let mut router = RouterServiceClient::connect(system.endpoint(1)).await?;
    let models = router.list_models(ListModelsRequest::default()).await?.into_inner().models;
    assert!(models.iter().any(|model| model.name == "models/rehearsal"));
    let requirement = Requirement { tools: true, allow_rehearsal: true, ..Requirement::default() };
    let request = SelectModelRequest { requirement: Some(requirement), ..SelectModelRequest::default() };
    let answer = router.select_model(request).await?.into_inner();
    let admitted = answer.candidates.iter().filter(|one| one.admitted);
    // Credentials play no part in what is admitted; what can be called here and now is told beside it.
    let callable: Vec<_> =
        admitted.filter(|one| one.obstacle() == Obstacle::Unspecified).map(|one| one.model.as_str()).collect();
    assert_eq!(callable, ["models/rehearsal", "models/rehearsal-constrained"]);
    let others = answer.candidates.iter().filter(|one| !one.admitted);
    assert!(others.into_iter().all(|one| !one.rejections.is_empty()), "each rejection is named");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_generator_renders_prompts() -> anyhow::Result<()> {
    let system = only(2).await?;
    let mut generator = AgentGeneratorServiceClient::connect(system.endpoint(2)).await?;
    let task = task::with_sources("When does the harbour flood?");
    let request = RenderPromptRequest { task: Some(task), purpose: "test".into() };
    let rendered = generator.render_prompt(request).await?.into_inner();
    let last = rendered.prompt.last().and_then(|message| message.parts.last()).context("an empty prompt")?;
    assert!(
        matches!(&last.content, Some(Content::Text(text)) if text.contains("When does the harbour flood?")),
        "{last:?}"
    );
    assert!(rendered.recipe.contains("answer-with-sources") && rendered.steps.len() > 1, "{rendered:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_lists_tools() -> anyhow::Result<()> {
    let system = only(3).await?;
    let gateway = ToolGatewayServiceClient::connect(system.endpoint(3)).await?;
    let tools = until_some(Duration::from_secs(20), || {
        let mut gateway = gateway.clone();
        async move {
            let list = gateway.list_tools(ListToolsRequest::default()).await.ok()?.into_inner();
            (!list.tools.is_empty()).then_some(list.tools)
        }
    })
    .await?;
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["tools/docs.list", "tools/docs.search"]);
    let pinned = tools.iter().filter_map(|tool| tool.definition.as_ref());
    assert!(pinned.into_iter().all(|definition| definition.definition_hash.starts_with("sha256:")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_admits_and_the_run_goes_on_when_the_others_come() -> anyhow::Result<()> {
    let mut system = only(0).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.start(&session, task::with_sources("When does the harbour of Marel flood?")).await?;
    assert_eq!(run.state(), RunState::Pending);
    let events = client.events(&run.name).await?;
    assert_eq!(events.first().map(name), Some("RunAdmitted"), "it waits, and may have said so by now");
    // A session runs one root run at a time, and this one is open.
    let refused = client.start(&session, task::question("And now?")).await.unwrap_err();
    let status = refused.downcast_ref::<tonic::Status>().context("no status")?;
    assert_eq!(reason(status), Some(ErrorReason::SessionBusy), "{status:?}");

    for service in [1, 2, 3] {
        system.start_one(service).await?;
    }
    let followed = client.watch(&run.name, 0).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    let read = client.grpc.get_run(GetRunRequest { name: run.name }).await?.into_inner().run;
    assert_eq!(read, Some(followed.run));
    Ok(())
}
