//! One generator on a free port with its fakes, gone with the test.

use std::net::SocketAddr;
use std::path::PathBuf;

use mar_agent_generator::config::StoreConfig;
use mar_agent_generator::{Config, Peers, server};
use mar_descriptor::{SealedDescriptor, Signature, SigningKey, VerifiedDescriptor, verify};
use mar_proto::agent::GenerateAgentRequest;
use mar_proto::agent::agent_generator_service_client::AgentGeneratorServiceClient;
use mar_proto::router::router_service_server::RouterServiceServer;
use mar_proto::session::{Task, ToolSelector};
use mar_proto::tool::tool_gateway_service_server::ToolGatewayServiceServer;
use mar_proto::types::{self, HaltingPolicy, Part, part::Content};
use mar_runtime::ServiceName;
use mar_runtime::config::{RuntimeConfig, SecretRef};
use mar_runtime::peer::Peer;
use mar_runtime::server::Server;
use prost_types::Duration;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::fakes::{FakeGateway, FakeRouter, candidate, tool};

pub type Client = AgentGeneratorServiceClient<Channel>;

pub struct Harness {
    pub router: FakeRouter,
    pub gateway: FakeGateway,
    pub client: Client,
    pub server: Server,
    _folder: TempDir,
    _tasks: JoinSet<()>,
}

/// What a test changes before the start.
pub struct Setup {
    pub config: Config,
    pub runtime: RuntimeConfig,
    pub folder: PathBuf,
    /// Whether there is anybody at the peers' addresses.
    pub peers_listen: bool,
}

pub fn key() -> SigningKey {
    SigningKey::from_seed(&[11; 32])
}

impl Harness {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pem = folder.path().join("seal.pem");
        std::fs::write(&pem, key().to_pem().unwrap().expose_secret()).unwrap();
        let store = StoreConfig {
            url: format!("sqlite:{}", folder.path().join("agent.db").display()),
            ..StoreConfig::default()
        };
        let config = Config { signing_key: Some(SecretRef::File(pem)), store, ..Config::default() };
        let mut setup =
            Setup { config, runtime: RuntimeConfig::default(), folder: folder.path().to_owned(), peers_listen: true };
        change(&mut setup);

        let mut tasks = JoinSet::new();
        let (router, gateway) = (FakeRouter::default(), FakeGateway::default());
        router.state().candidates = vec![candidate("small", 3), candidate("large", 5)];
        gateway.state().tools = ["docs.list", "docs.search", "files.read", "web.fetch"].map(tool).into();
        let (router_at, gateway_at) = (listener().await, listener().await);
        let (router_url, gateway_url) = (url(&router_at), url(&gateway_at));
        if setup.peers_listen {
            let (router, gateway) =
                (RouterServiceServer::new(router.clone()), ToolGatewayServiceServer::new(gateway.clone()));
            tasks.spawn(fake(tonic::transport::Server::builder().add_service(router), router_at));
            tasks.spawn(fake(tonic::transport::Server::builder().add_service(gateway), gateway_at));
        }
        let peer = |name, url: &str| Peer::tcp(name, url, &setup.runtime.limits).unwrap();
        let peers = Peers {
            router: peer(ServiceName::Router, &router_url),
            tool_gateway: peer(ServiceName::ToolGateway, &gateway_url),
        };
        let server = server(&setup.config, &setup.runtime, peers).await.unwrap();
        let at = listener().await;
        let client = connect(at.local_addr().unwrap());
        let served = server.clone();
        tasks.spawn(async move { served.serve(at, CancellationToken::new()).await.unwrap() });
        Self { router, gateway, client, server, _folder: folder, _tasks: tasks }
    }
}

async fn fake(server: tonic::transport::server::Router, listener: TcpListener) {
    server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn url(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

fn connect(address: SocketAddr) -> Client {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    Client::new(channel).max_decoding_message_size(16 << 20).max_encoding_message_size(16 << 20)
}

pub fn text(words: &str) -> Part {
    Part { content: Some(Content::Text(words.into())), ..Part::default() }
}

pub fn task(tools: &[&str]) -> Task {
    Task {
        r#type: "answer".into(),
        input: vec![text("How long are logs kept?")],
        tools: tools.iter().map(|pattern| ToolSelector { pattern: (*pattern).into() }).collect(),
        ..Task::default()
    }
}

pub fn limits() -> HaltingPolicy {
    let span = |seconds| Some(Duration { seconds, nanos: 0 });
    HaltingPolicy {
        max_steps: Some(16),
        max_tool_calls: Some(64),
        max_active_time: span(900),
        expire_after: span(86_400),
        max_depth: Some(0),
        max_input_tokens: Some(1_000_000),
        max_output_tokens: Some(200_000),
        max_cost_nano_usd: Some(1_000_000_000),
        on_budget: 0,
    }
}

pub fn request(task: Task) -> GenerateAgentRequest {
    GenerateAgentRequest { task: Some(task), purpose: "support".into(), limits: Some(limits()), ..Default::default() }
}

/// Verifies what came over the wire, as a client would.
pub fn verified(sealed: &types::SealedDescriptor) -> VerifiedDescriptor {
    let signatures = sealed.signatures.iter();
    let sealed = SealedDescriptor {
        hash: sealed.hash.parse().unwrap(),
        canonical: sealed.canonical.to_vec(),
        signatures: signatures.map(|one| Signature { key_id: one.key_id.clone(), sig: one.sig.to_vec() }).collect(),
    };
    verify(&sealed, &key().verifying_keys()).unwrap()
}
