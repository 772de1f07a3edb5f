//! Services that share a listener.

use mar_proto::agent::GetAgentRequest;
use mar_proto::agent::agent_generator_service_client::AgentGeneratorServiceClient;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::types::ErrorReason;
use mar_runtime::ServiceName;
use mar_runtime::config::RuntimeConfig;
use mar_runtime::peer::Peer;
use mar_runtime::server::{Server, Stack, Together};
use mar_runtime::status::Reason;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::{Host, Wire, ask};

struct Shared {
    host: Host,
    peer: Peer,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

/// The harness's router and a service without methods, behind one listener.
async fn shared() -> Shared {
    let config = RuntimeConfig::default();
    let host = Host::start(Wire::Local).await;
    let stack = Stack::try_new(ServiceName::Session, &config).unwrap();
    let session = Server::try_new(stack, Routes::default()).await.unwrap();
    let together = Together::try_new(session, [host.server.clone()]).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let stop = shutdown.clone();
    tasks.spawn(async move { together.serve(listener, stop).await.unwrap() });
    let peer = Peer::tcp(ServiceName::Router, &url, &config.limits).unwrap();
    Shared { host, peer, shutdown, tasks }
}

#[tokio::test]
async fn each_service_answers_its_own_methods() {
    let shared = shared().await;
    let mut router = RouterServiceClient::new(shared.peer.clone());
    assert!(router.get_model(ask("ok")).await.is_ok());
    assert_eq!(shared.host.probe.entered(), 1);
    // One that is not here is told apart from one that is.
    let mut absent = AgentGeneratorServiceClient::new(shared.peer.clone());
    let refused = absent.get_agent(GetAgentRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), Reason::of(&refused)), (Code::Unimplemented, Some(ErrorReason::NotImplemented)));
}

#[tokio::test]
async fn one_health_and_one_reflection_speak_for_all() {
    let shared = shared().await;
    let mut health = HealthClient::new(shared.peer.clone());
    for service in ["", ServiceName::Session.grpc(), ServiceName::Router.grpc()] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let mut reflection = ServerReflectionClient::new(shared.peer.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(names.iter().any(|name| name == ServiceName::Session.grpc()), "{names:?}");
    assert!(names.iter().any(|name| name == ServiceName::Router.grpc()), "{names:?}");
}

#[tokio::test]
async fn calls_in_flight_end_before_it_does() {
    let mut shared = shared().await;
    let mut router = RouterServiceClient::new(shared.peer.clone());
    let mut calls = JoinSet::new();
    calls.spawn(async move { router.get_model(ask("slow")).await });
    let probe = shared.host.probe.clone();
    crate::harness::eventually("the call is in its handler", || probe.entered() == 1).await;
    shared.shutdown.cancel();
    assert!(calls.join_next().await.unwrap().unwrap().is_ok());
    assert!(shared.tasks.join_next().await.unwrap().is_ok());
}
