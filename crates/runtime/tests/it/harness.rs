//! A router whose answers are told by the request, behind the real layers, on either transport.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::Stream;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::router::router_service_server::{RouterService, RouterServiceServer};
use mar_proto::router::stream_generate_response::Frame;
use mar_proto::router::{
    CountTokensRequest, CountTokensResponse, GenerateRequest, GenerateResponse, GetModelRequest, GetModelResponse,
    ListModelsRequest, ListModelsResponse, SelectModelRequest, SelectModelResponse, StreamGenerateRequest,
    StreamGenerateResponse, Turn,
};
use mar_runtime::ServiceName;
use mar_runtime::auth::Identity;
use mar_runtime::config::RuntimeConfig;
use mar_runtime::peer::Peer;
use mar_runtime::server::{Deadline, RequestId, Server, Stack};
use mar_runtime::status::{Fault, Resource};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// How the client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Tcp,
    Local,
}

impl Wire {
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Local];
}

/// What must not cross the seam.
#[derive(Clone)]
pub struct Stowaway;

/// A running server and a peer of it.
pub struct Host {
    pub server: Server,
    pub peer: Peer,
    pub probe: Probe,
    pub shutdown: CancellationToken,
    pub tasks: JoinSet<()>,
}

impl Host {
    pub async fn start(wire: Wire) -> Self {
        Self::configured(wire, RuntimeConfig::default()).await
    }

    pub async fn configured(wire: Wire, config: RuntimeConfig) -> Self {
        let probe = Probe::default();
        let stack = Stack::try_new(ServiceName::Router, &config).unwrap();
        let limit = config.limits.max_message.as_len();
        let service = RouterServiceServer::new(probe.clone()).max_decoding_message_size(limit);
        let server = Server::try_new(stack, Routes::new(service)).await.unwrap();
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let peer = match wire {
            Wire::Local => Peer::local(server.routed()),
            Wire::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let url = format!("http://{}", listener.local_addr().unwrap());
                let (server, shutdown) = (server.clone(), shutdown.clone());
                tasks.spawn(async move { server.serve(listener, shutdown).await.unwrap() });
                Peer::tcp(ServiceName::Router, &url, &config.limits).unwrap()
            }
        };
        Self { server, peer, probe, shutdown, tasks }
    }

    pub fn client(&self) -> RouterServiceClient<Peer> {
        RouterServiceClient::new(self.peer.clone()).max_decoding_message_size(self.peer.max_message())
    }

    /// A unary call that does what `order` says.
    pub async fn ask(&self, order: &str) -> Result<Response<GetModelResponse>, Status> {
        self.client().get_model(ask(order)).await
    }

    /// Begins to stop, as a signal does, in the background.
    pub fn stop(&mut self) {
        self.shutdown.cancel();
        if self.tasks.is_empty() {
            let server = self.server.clone();
            self.tasks.spawn(async move { server.drain().await });
        }
    }
}

pub fn ask(order: &str) -> Request<GetModelRequest> {
    Request::new(GetModelRequest { name: order.into() })
}

pub fn ask_stream(order: &str) -> Request<StreamGenerateRequest> {
    Request::new(StreamGenerateRequest { generation_id: order.into(), ..StreamGenerateRequest::default() })
}

/// Waits until `holds`, for two seconds at most.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came that {what}");
}

/// Counts the handlers that have begun and those that are gone.
#[derive(Clone, Default)]
pub struct Probe {
    pub entered: Arc<AtomicUsize>,
    pub left: Arc<AtomicUsize>,
}

struct Visit(Arc<AtomicUsize>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Probe {
    fn visit(&self) -> Visit {
        self.entered.fetch_add(1, Ordering::SeqCst);
        Visit(self.left.clone())
    }

    pub fn entered(&self) -> usize {
        self.entered.load(Ordering::SeqCst)
    }

    pub fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<StreamGenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl RouterService for Probe {
    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        let _visit = self.visit();
        let order = request.get_ref().name.as_str();
        match order {
            "ok" => {}
            "hang" => std::future::pending().await,
            "slow" => tokio::time::sleep(Duration::from_millis(300)).await,
            "panic" => panic!("the secret is hunter2"),
            "bare" => return Err(Status::unknown("the secret is hunter2")),
            "extensions" if request.extensions().get::<Stowaway>().is_some() => {
                return Err(Status::data_loss("an extension crossed the seam"));
            }
            "extensions" => {}
            "context" => {
                let found = request.extensions().get::<RequestId>().is_some() && Deadline::of(&request).is_some();
                return Err(Fault::not_found(Resource::Hook, &found.to_string()).into());
            }
            "who" => {
                let caller = &Identity::of(&request)?.caller;
                let fault = Fault::not_found(Resource::Agent, &caller.principal);
                return Err(fault
                    .metadata("tenant", &caller.tenant)
                    .metadata("environment", &caller.environment)
                    .into());
            }
            "run" => {
                let run = Identity::of(&request)?.require_run()?;
                return Err(Fault::not_found(Resource::Run, &run.run).metadata("epoch", run.epoch.to_string()).into());
            }
            _ => return Err(Fault::not_found(Resource::Model, order).into()),
        }
        let mut response = Response::new(GetModelResponse::default());
        response.extensions_mut().insert(Stowaway);
        Ok(response)
    }

    type StreamGenerateStream = Frames;

    async fn stream_generate(&self, request: Request<StreamGenerateRequest>) -> Result<Response<Frames>, Status> {
        let order = request.into_inner().generation_id;
        let visit = self.visit();
        let frames = async_stream::stream! {
            let _visit = visit;
            for at in 0_u32.. {
                match (order.as_str(), at) {
                    ("three", 3) => break,
                    ("panic", 2) => {
                        // Frames that are ready together leave together, or not at all.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        panic!("the secret is hunter2")
                    }
                    ("bare", 2) => yield Err(Status::unknown("the secret is hunter2")),
                    ("hang", 1) => std::future::pending().await,
                    ("flood", _) => {
                        // Large enough that the transport's window fills within the test's deadline.
                        let turn = Turn { selection: "x".repeat(4096), ..Turn::default() };
                        yield Ok(StreamGenerateResponse { frame: Some(Frame::Turn(turn)) });
                        continue;
                    }
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
                yield Ok(StreamGenerateResponse::default());
            }
        };
        Ok(Response::new(Box::pin(frames)))
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        Err(Fault::not_implemented("ListModels").into())
    }

    async fn select_model(&self, _: Request<SelectModelRequest>) -> Result<Response<SelectModelResponse>, Status> {
        Ok(Response::new(SelectModelResponse::default()))
    }

    async fn generate(&self, _: Request<GenerateRequest>) -> Result<Response<GenerateResponse>, Status> {
        Err(Fault::not_implemented("Generate").into())
    }

    async fn count_tokens(&self, _: Request<CountTokensRequest>) -> Result<Response<CountTokensResponse>, Status> {
        Err(Fault::not_implemented("CountTokens").into())
    }
}
