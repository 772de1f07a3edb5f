//! One trace: caller, session, generator, router, provider call and gateway.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use anyhow::Context as _;
use mar_proto::session::run_frame::Frame;
use mar_proto::session::session_service_client::SessionServiceClient;
use mar_proto::session::{RunState, RunTaskRequest, Session, StartSessionRequest};
use mar_runtime::ServiceName;
use mar_runtime::clock::SystemIds;
use mar_runtime::config::{Sources, load};
use mar_runtime::peer::{LocalMesh, Peer};
use mar_runtime::server::{Server, Stack};
use mar_runtime::telemetry::testing::{InMemory, attribute, traceparent};
use mar_testkit::wait::until_some;
use mar_tests::client::request_id;
use mar_tests::{Deployment, Options, Shape, Stores, task};
use mar_tool_gateway::Gateway;
use opentelemetry::trace::{SpanId, SpanKind};
use opentelemetry_sdk::trace::SpanData;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Request;
use tonic::transport::Channel;

use crate::otlp::{Received, Receiver};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a task with sources under this `traceparent`.
async fn run_traced(endpoint: String, header: &str) -> anyhow::Result<()> {
    let mut client: SessionServiceClient<Channel> = SessionServiceClient::connect(endpoint).await?;
    let start = StartSessionRequest { request_id: request_id(), session: Some(Session::default()) };
    let session = client.start_session(start).await?.into_inner().session.context("no session")?.name;
    let mut request = Request::new(RunTaskRequest {
        request_id: request_id(),
        session,
        task: Some(task::with_sources("When does the harbour of Marel flood?")),
        ..RunTaskRequest::default()
    });
    request.metadata_mut().insert("traceparent", header.parse()?);
    let mut stream = client.run_task(request).await?.into_inner();
    let mut last = None;
    while let Some(frame) = stream.message().await? {
        last = frame.frame.and_then(|frame| frame.frame);
    }
    let Some(Frame::End(end)) = last else { anyhow::bail!("no end: {last:?}") };
    let run = end.run.unwrap_or_default();
    anyhow::ensure!(run.state() == RunState::Succeeded, "{run:#?}");
    Ok(())
}

/// The trace and the parent that the model's server was told of, once for each turn.
fn told(system: &Deployment) -> Vec<(String, String)> {
    let requests = system.rehearsal.requests();
    let headers = requests.iter().filter_map(|request| request.headers.get("traceparent"));
    let parts = headers.filter_map(|header| {
        let mut parts = header.split('-').skip(1).map(str::to_owned);
        Some((parts.next()?, parts.next()?))
    });
    parts.collect()
}

/// The four services in this process, calling each other without a wire; session on a port of its own.
struct Hosted {
    endpoint: String,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    gateway: Gateway,
    session: mar_session::Service,
}

impl Hosted {
    async fn start(system: &Deployment) -> anyhow::Result<Self> {
        let sources = Sources { file: Some(system.config_file()), ..Sources::default() };
        let session = load::<mar_session::Config>(&sources)?;
        let (runtime, mesh) = (session.runtime, LocalMesh::new());
        let peer = |name| -> Peer { mesh.peer(name, &runtime.limits) };

        let config = load::<mar_tool_gateway::Config>(&sources)?.service;
        let gateway = Gateway::try_new(config, mar_tool_gateway::Deps::default())
            .map_err(|found| anyhow::anyhow!("the gateway's table: {found:?}"))?;
        let stack = Stack::try_new(ServiceName::ToolGateway, &runtime)?;
        mesh.bind(Server::try_new(stack, gateway.routes()).await?.routed());
        let config = load::<mar_router::RouterConfig>(&sources)?.service;
        mesh.bind(mar_router::server(config, &runtime, mar_router::Deps::default()).await?.routed());
        let config = load::<mar_agent_generator::Config>(&sources)?.service;
        let peers = mar_agent_generator::Peers {
            router: peer(ServiceName::Router),
            tool_gateway: peer(ServiceName::ToolGateway),
        };
        mesh.bind(mar_agent_generator::server(&config, &runtime, peers).await?.routed());
        let peers = mar_session::Peers {
            agent_generator: peer(ServiceName::AgentGenerator),
            router: peer(ServiceName::Router),
            tool_gateway: peer(ServiceName::ToolGateway),
        };
        let session = mar_session::server(&session.service, &runtime, peers).await?;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (serving, stop) = (session.clone(), shutdown.clone());
        tasks.spawn(async move { serving.serve(listener, stop).await });
        Ok(Self { endpoint, shutdown, tasks, gateway, session })
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.session.close().await;
        self.gateway.close().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn has(spans: &[SpanData], name: &str) -> bool {
    spans.iter().any(|span| span.name == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_in_one_process() -> anyhow::Result<()> {
    mar_runtime::process::install_crypto();
    let memory = InMemory::install();
    let system = Deployment::prepare(Options::new(Shape::Four, Stores::Embedded)).await?;
    let hosted = Hosted::start(&system).await?;
    let (header, trace, caller) = traceparent(&SystemIds);
    run_traced(hosted.endpoint.clone(), &header).await?;

    let rpcs = [
        "agentruntime.session.v1.SessionService/RunTask",
        "agentruntime.agent.v1.AgentGeneratorService/GenerateAgent",
        "agentruntime.router.v1.RouterService/SelectModel",
        "agentruntime.tool.v1.ToolGatewayService/ListTools",
        "agentruntime.router.v1.RouterService/StreamGenerate",
        "agentruntime.tool.v1.ToolGatewayService/InvokeTool",
    ];
    let work = ["invoke_agent", "chat rehearsal", "execute_tool docs.search"];
    let enough = |spans: &[SpanData]| rpcs.iter().chain(&work).all(|name| has(spans, name));
    let spans = memory.wait(trace, PATIENCE, enough).await;
    let names: BTreeSet<_> = spans.iter().map(|span| span.name.to_string()).collect();
    assert!(enough(&spans), "{names:#?}");

    // The caller's span is the root of a tree in which every span hangs.
    let ids: HashSet<SpanId> = spans.iter().map(|span| span.span_context.span_id()).collect();
    for span in &spans {
        let known = span.parent_span_id == caller || ids.contains(&span.parent_span_id);
        assert!(known, "{} hangs nowhere", span.name);
    }
    let below_caller: Vec<_> = spans.iter().filter(|span| span.parent_span_id == caller).collect();
    assert_eq!(below_caller.iter().map(|span| span.name.as_ref()).collect::<Vec<_>>(), [rpcs[0]]);

    let serving = spans.iter().filter(|span| span.span_kind == SpanKind::Server);
    let services: BTreeSet<_> = serving.filter_map(|span| attribute(span, "agentruntime.service")).collect();
    assert_eq!(services, ["agent-generator", "router", "session", "tool-gateway"].map(str::to_owned).into());

    // The provider hears of the call that the router made for it, in the same trace.
    let chats: BTreeSet<String> = spans
        .iter()
        .filter(|span| span.name == "chat rehearsal")
        .map(|span| span.span_context.span_id().to_string())
        .collect();
    assert_eq!(chats.len(), 2);
    let told = told(&system);
    assert_eq!(told.len(), 2, "{:?}", system.rehearsal.requests());
    for (told_trace, parent) in &told {
        assert_eq!(*told_trace, trace.to_string());
        assert!(chats.contains(parent), "{parent} is none of {chats:?}");
    }
    hosted.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_over_four_processes() -> anyhow::Result<()> {
    let services = ["agent-generator", "router", "session", "tool-gateway"];
    one_trace_is_exported(Options::new(Shape::Four, Stores::Servers), &services, "session").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_through_mar_up() -> anyhow::Result<()> {
    one_trace_is_exported(Options::new(Shape::One, Stores::Embedded), &["mar"], "mar").await
}

/// A system whose processes, by these names, export one tree below the caller's span, whose root is of the one named last.
async fn one_trace_is_exported(options: Options, processes: &[&str], root: &str) -> anyhow::Result<()> {
    let receiver = Receiver::start().await?;
    let telemetry = format!("[runtime.telemetry]\notlp_endpoint = '{}'\n", receiver.url());
    let system = Deployment::start(options.extra(telemetry)).await?;
    let (header, trace, caller) = traceparent(&SystemIds);
    run_traced(system.endpoint(0), &header).await?;

    let told = told(&system);
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|(told, _)| *told == trace.to_string()), "{told:?} {trace}");

    let whole = |spans: &[Received]| {
        let services: BTreeSet<&str> = spans.iter().map(|received| received.service.as_str()).collect();
        services == processes.iter().copied().collect()
    };
    let spans = until_some(PATIENCE, || {
        let spans = receiver.trace(trace.to_bytes());
        async move { (whole(&spans) && is_tree(&spans, &caller.to_bytes())).then_some(spans) }
    });
    let spans = spans.await.unwrap_or_else(|_| receiver.trace(trace.to_bytes()));
    assert!(whole(&spans) && is_tree(&spans, &caller.to_bytes()), "{:#?}", names(&spans));
    let roots: Vec<_> = spans.iter().filter(|received| received.span.parent_span_id == caller.to_bytes()).collect();
    assert_eq!(roots.len(), 1, "{:#?}", names(&spans));
    assert_eq!(roots[0].service, root);
    Ok(())
}

/// Whether every span has its parent among the others, or the caller for one, and each of the services has told of its work.
fn is_tree(spans: &[Received], caller: &[u8]) -> bool {
    let ids: BTreeSet<&[u8]> = spans.iter().map(|received| received.span.span_id.as_slice()).collect();
    let work = ["invoke_agent", "chat rehearsal", "execute_tool docs.search"];
    work.iter().all(|name| spans.iter().any(|received| received.span.name == *name))
        && spans.iter().any(|received| received.span.parent_span_id == caller)
        && spans.iter().all(|received| {
            let parent = received.span.parent_span_id.as_slice();
            parent == caller || ids.contains(parent)
        })
}

fn names(spans: &[Received]) -> Vec<(String, String)> {
    spans.iter().map(|received| (received.service.clone(), received.span.name.clone())).collect()
}
