use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use mar_proto::router::router_service_server::{RouterService, RouterServiceServer};
use mar_proto::router::{
    CountTokensRequest, CountTokensResponse, GenerateRequest, GenerateResponse, GetModelRequest, GetModelResponse,
    ListModelsRequest, ListModelsResponse, SelectModelRequest, SelectModelResponse, StreamGenerateRequest,
};
use mar_proto::session::Agent;
use mar_runtime::auth::{Caller, RunTokenSigner, keys};
use mar_runtime::clock::{Clock, ManualClock, SystemIds};
use mar_runtime::config::{LimitsConfig, RuntimeConfig};
use mar_runtime::server::{Server, Stack};
use mar_runtime::status::Fault;
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Response;
use tonic::service::Routes;
use uuid::Uuid;

use super::*;

/// A machine that sleeps: the time of day goes on, monotonic time does not.
#[derive(Debug, Default)]
struct Sleeper {
    awake: ManualClock,
    slept: Mutex<Duration>,
}

impl Clock for Sleeper {
    fn now(&self) -> OffsetDateTime {
        self.awake.now() + *self.slept.lock().unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.awake.monotonic()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        self.awake.sleep_until(at)
    }
}

/// A router that only counts who comes through, and refuses everybody if told so.
#[derive(Clone, Debug, Default)]
struct Door {
    came: Arc<AtomicUsize>,
    refuses: Option<ErrorReason>,
}

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl RouterService for Door {
    type StreamGenerateStream = tokio_stream::Empty<Result<StreamGenerateResponse, Status>>;

    async fn stream_generate(&self, _: Request<StreamGenerateRequest>) -> Answer<Self::StreamGenerateStream> {
        self.came.fetch_add(1, Ordering::Relaxed);
        match self.refuses {
            Some(reason) => Err(Fault::new(Code::PermissionDenied, reason, "no").into()),
            None => Ok(Response::new(tokio_stream::empty())),
        }
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Answer<ListModelsResponse> {
        Err(Status::unimplemented("door"))
    }

    async fn get_model(&self, _: Request<GetModelRequest>) -> Answer<GetModelResponse> {
        Err(Status::unimplemented("door"))
    }

    async fn select_model(&self, _: Request<SelectModelRequest>) -> Answer<SelectModelResponse> {
        Err(Status::unimplemented("door"))
    }

    async fn generate(&self, _: Request<GenerateRequest>) -> Answer<GenerateResponse> {
        Err(Status::unimplemented("door"))
    }

    async fn count_tokens(&self, _: Request<CountTokensRequest>) -> Answer<CountTokensResponse> {
        Err(Status::unimplemented("door"))
    }
}

/// Session's clients before this door, with the layers that look at tokens in between.
fn peers(door: &Door, clock: &Arc<Sleeper>) -> GrpcPeers {
    let (stack, tokens) = layers(clock);
    let peer = Peer::local(stack.wrap(Routes::new(RouterServiceServer::new(door.clone()))));
    GrpcPeers::new(peer.clone(), peer.clone(), peer, tokens)
}

/// The layers, and tokens that they take.
fn layers(clock: &Arc<Sleeper>) -> (Stack, RunTokenCache) {
    let folder = tempfile::tempdir().unwrap();
    let pair = keys::generate(&SystemIds).unwrap();
    let public = folder.path().join("session.pub.pem");
    std::fs::write(&public, &pair.public_pem).unwrap();
    let mut runtime = RuntimeConfig::default();
    runtime.run_tokens.verification_key_files = vec![public];
    let clock: Arc<dyn Clock> = clock.clone();
    let stack = Stack::with_clock(ServiceName::Router, &runtime, clock.clone(), Arc::new(SystemIds)).unwrap();
    let signer = RunTokenSigner::try_new(pair.private_pem.expose_secret(), clock).unwrap();
    (stack, RunTokenCache::new(signer))
}

fn context() -> RunContext {
    let hash = mar_descriptor::Hash::ZERO.to_string();
    let descriptor = Some(SealedDescriptor { hash, ..SealedDescriptor::default() });
    RunContext {
        caller: Arc::new(Caller::dev()),
        session: Uuid::nil(),
        run: Uuid::nil(),
        epoch: 1,
        agent: Some(Arc::new(Agent { descriptor, ..Agent::default() })),
        introduced: Arc::default(),
    }
}

async fn generate(peers: &GrpcPeers, context: &RunContext) -> Result<(), Refusal> {
    let request = TurnRequest::default();
    peers.stream_generate(context, request, Duration::from_secs(5)).await.map(drop)
}

#[tokio::test]
async fn a_token_that_expired_in_the_cache_is_signed_anew() {
    let (door, clock) = (Door::default(), Arc::new(Sleeper::default()));
    let (peers, context) = (peers(&door, &clock), context());
    generate(&peers, &context).await.unwrap();
    *clock.slept.lock().unwrap() = Duration::from_secs(3_600);
    generate(&peers, &context).await.unwrap();
    assert_eq!(door.came.load(Ordering::Relaxed), 2, "the expired token opened nothing");
}

#[tokio::test]
async fn a_call_is_repeated_once_for_each_reason() {
    for (reason, calls) in [
        (ErrorReason::RunTokenInvalid, 2),
        (ErrorReason::DescriptorRequired, 2),
        (ErrorReason::DescriptorInvalid, 1),
        (ErrorReason::EpochStale, 1),
    ] {
        let door = Door { refuses: Some(reason), ..Door::default() };
        let refused = generate(&peers(&door, &Arc::default()), &context()).await.unwrap_err();
        assert_eq!(refused.reason, status::reason_name(reason));
        assert_eq!(door.came.load(Ordering::Relaxed), calls, "{reason:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_to_be_sent_is_refused_for_good() {
    let door = Door::default();
    let (stack, tokens) = layers(&Arc::default());
    let limits = LimitsConfig::default();
    let limit = limits.max_message.as_len();
    let service = RouterServiceServer::new(door.clone()).max_decoding_message_size(limit);
    let server = Server::try_new(stack, Routes::new(service)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move { server.serve(listener, CancellationToken::new()).await });
    let peer = Peer::tcp(ServiceName::Router, &url, &limits).unwrap();
    let peers = GrpcPeers::new(peer.clone(), peer.clone(), peer, tokens);
    for size in [limit, limit * 4] {
        let request = TurnRequest { generation_id: "x".repeat(size), ..TurnRequest::default() };
        let answer = peers.stream_generate(&context(), request, Duration::from_secs(30)).await;
        let refused = answer.map(drop).unwrap_err();
        assert_eq!((refused.reason.as_str(), refused.transient), ("MESSAGE_TOO_LARGE", false), "{refused:?}");
    }
    generate(&peers, &context()).await.unwrap();
    assert_eq!(door.came.load(Ordering::Relaxed), 1, "only what fits came through");
}

#[test]
fn what_was_spent_is_read_whole_or_not_at_all() {
    let of = |amounts: &[(&str, &str)]| {
        let fault = Fault::new(Code::Unavailable, ErrorReason::ProviderUnavailable, "no");
        let fault = amounts.iter().fold(fault, |fault, (key, value)| fault.metadata(*key, *value));
        refusal(&fault.into()).spent.map(|spent| *spent)
    };
    let keys = ["spent_input_tokens", "spent_output_tokens", "spent_cost_nano_usd"];
    let all = |values: [&'static str; 3]| of(&[(keys[0], values[0]), (keys[1], values[1]), (keys[2], values[2])]);
    let spent = Usage { input_tokens: 7, output_tokens: 2, cost_nano_usd: 11, estimated: true, ..Usage::default() };
    assert_eq!(all(["7", "2", "11"]), Some(spent));
    assert_eq!(all(["0", "0", "0"]), Some(Usage::default()), "nothing is no estimate");
    for wrong in [["7", "2", "-1"], ["7", "two", "11"], ["7", "2", "9223372036854775808"]] {
        assert_eq!(all(wrong), None, "{wrong:?}");
    }
    assert_eq!(of(&[(keys[0], "7")]), None);
}
