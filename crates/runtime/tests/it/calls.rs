//! What the layers do to a call, the same on both transports.

use std::time::Duration;

use mar_proto::types::ErrorReason;
use mar_runtime::ServiceName;
use mar_runtime::clock::{Clock as _, SystemClock};
use mar_runtime::config::{ByteSize, LimitsConfig, RuntimeConfig};
use mar_runtime::peer::{LocalMesh, Peer};
use mar_runtime::status::{Reason, metadata, retry_after, violations};
use tonic::client::Grpc;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::harness::{Host, Stowaway, Wire, ask, ask_stream, eventually};

fn is(status: &Status, code: Code, reason: ErrorReason) {
    assert_eq!((status.code(), Reason::of(status)), (code, Some(reason)), "{status:?}");
}

fn small() -> RuntimeConfig {
    let limits = LimitsConfig { max_message: ByteSize::kib(64), ..LimitsConfig::default() };
    RuntimeConfig { limits, ..RuntimeConfig::default() }
}

#[tokio::test]
async fn a_call_and_a_stream_answer() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let response = host.ask("ok").await.unwrap();
        assert!(response.metadata().contains_key("x-request-id"), "{wire:?}");
        let mut frames = host.client().stream_generate(ask_stream("three")).await.unwrap().into_inner();
        let mut count = 0;
        while frames.message().await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 3, "{wire:?}");
    }
}

#[tokio::test]
async fn a_given_request_id_comes_back_and_a_bad_one_does_not() {
    let host = Host::start(Wire::Local).await;
    let mut request = ask("ok");
    request.metadata_mut().insert("x-request-id", "order-7".parse().unwrap());
    let response = host.client().get_model(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "order-7");
    let mut request = ask("ok");
    request.metadata_mut().insert("x-request-id", "a b".parse().unwrap());
    let response = host.client().get_model(request).await.unwrap();
    assert_ne!(response.metadata().get("x-request-id").unwrap(), "a b");
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_drops_its_handler() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let mut request = ask("hang");
        request.set_timeout(Duration::from_millis(100));
        let clock = SystemClock::new();
        let status = host.client().get_model(request).await.unwrap_err();
        is(&status, Code::DeadlineExceeded, ErrorReason::DeadlineExceeded);
        assert!(clock.monotonic() < Duration::from_secs(1), "{wire:?}");
        eventually("the handler was dropped", || host.probe.left() == 1).await;
    }
}

#[tokio::test]
async fn a_deadline_ends_streams_that_drip_hang_and_flood() {
    for wire in Wire::BOTH {
        for order in ["drip", "hang", "flood"] {
            let host = Host::start(wire).await;
            let mut request = ask_stream(order);
            request.set_timeout(Duration::from_millis(400));
            let mut frames = host.client().stream_generate(request).await.unwrap().into_inner();
            let status = loop {
                match frames.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{wire:?} {order}: the stream ended well"),
                    Err(status) => break status,
                }
            };
            is(&status, Code::DeadlineExceeded, ErrorReason::DeadlineExceeded);
            eventually("the handler was dropped", || host.probe.left() == 1).await;
        }
    }
}

#[tokio::test]
async fn a_unary_call_has_a_deadline_by_default_and_a_passed_one_is_refused() {
    for wire in Wire::BOTH {
        let limits = LimitsConfig { default_deadline: Duration::from_millis(100), ..LimitsConfig::default() };
        let host = Host::configured(wire, RuntimeConfig { limits, ..RuntimeConfig::default() }).await;
        is(&host.ask("hang").await.unwrap_err(), Code::DeadlineExceeded, ErrorReason::DeadlineExceeded);
        let found = host.ask("context").await.unwrap_err();
        assert!(format!("{found:?}").contains("true"), "the handler sees no deadline or request id: {found:?}");

        let mut request = ask("ok");
        request.metadata_mut().insert("grpc-timeout", "0S".parse().unwrap());
        let status = host.client().get_model(request).await.unwrap_err();
        is(&status, Code::DeadlineExceeded, ErrorReason::DeadlineExceeded);
    }
}

#[tokio::test]
async fn a_malformed_timeout_is_a_violation() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let mut request = ask("ok");
        request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
        let status = host.client().get_model(request).await.unwrap_err();
        is(&status, Code::InvalidArgument, ErrorReason::InvalidRequest);
        assert_eq!(violations(&status)[0].field, "grpc-timeout");
    }
}

#[tokio::test]
async fn a_panic_is_internal_and_hurts_no_other_call() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        for order in ["panic", "bare"] {
            let status = host.ask(order).await.unwrap_err();
            is(&status, Code::Internal, ErrorReason::Internal);
            assert!(!metadata(&status)["request_id"].is_empty());
            assert!(!format!("{status:?}").contains("hunter2"), "{wire:?} {order}");

            let mut frames = host.client().stream_generate(ask_stream(order)).await.unwrap().into_inner();
            assert!(frames.message().await.unwrap().is_some());
            assert!(frames.message().await.unwrap().is_some());
            let status = frames.message().await.unwrap_err();
            is(&status, Code::Internal, ErrorReason::Internal);
            assert!(!format!("{status:?}").contains("hunter2"), "{wire:?} {order}");
        }
        host.ask("ok").await.unwrap();
    }
}

#[tokio::test]
async fn an_oversize_message_is_refused_with_the_limit() {
    for wire in Wire::BOTH {
        let host = Host::configured(wire, small()).await;
        let status = host.ask(&"x".repeat(65 * 1024)).await.unwrap_err();
        is(&status, Code::ResourceExhausted, ErrorReason::MessageTooLarge);
        assert_eq!(metadata(&status)["limit_bytes"], (64 * 1024).to_string());
        host.ask("ok").await.unwrap();
        assert_eq!(host.probe.entered(), 1, "{wire:?}: the handler ran");
    }
}

#[tokio::test]
async fn what_is_not_protobuf_and_what_does_not_exist_have_reasons() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let mut client = Grpc::new(host.peer.clone());
        let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
        let junk = vec![0xff_u8, 0xfe];
        let path = http::uri::PathAndQuery::from_static("/agentruntime.router.v1.RouterService/GetModel");
        let status = client.unary(Request::new(junk.clone()), path, codec).await.unwrap_err();
        is(&status, Code::InvalidArgument, ErrorReason::InvalidRequest);

        for path in ["/agentruntime.router.v1.RouterService/Nope", "/no.such.Service/Nope"] {
            let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
            let path = http::uri::PathAndQuery::from_static(path);
            let status = client.unary(Request::new(junk.clone()), path, codec).await.unwrap_err();
            is(&status, Code::Unimplemented, ErrorReason::NotImplemented);
        }
    }
}

#[tokio::test]
async fn extensions_do_not_cross() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let mut request = ask("extensions");
        request.extensions_mut().insert(Stowaway);
        let response = host.client().get_model(request).await.unwrap();
        assert!(response.extensions().get::<Stowaway>().is_none(), "{wire:?}");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_drops_the_handler() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let mut client = host.client();
        let mut calls = tokio::task::JoinSet::new();
        calls.spawn(async move { client.get_model(ask("hang")).await });
        eventually("the handler began", || host.probe.entered() == 1).await;
        calls.abort_all();
        eventually("the handler was dropped", || host.probe.left() == 1).await;

        let mut frames = host.client().stream_generate(ask_stream("hang")).await.unwrap().into_inner();
        frames.message().await.unwrap();
        drop(frames);
        eventually("the stream was dropped", || host.probe.left() == 2).await;
        eventually("no call is in flight", || host.server.routed().stack().drain().in_flight() == 0).await;
    }
}

#[tokio::test]
async fn frames_pass_one_by_one() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let mut frames = host.client().stream_generate(ask_stream("hang")).await.unwrap().into_inner();
        let first = tokio::time::timeout(Duration::from_secs(2), frames.message()).await;
        assert!(first.unwrap().unwrap().is_some(), "{wire:?}: the first frame waits for the next");
    }
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let limits = LimitsConfig::default();
    let tcp = Peer::tcp(ServiceName::Router, &url, &limits).unwrap();
    let mesh = LocalMesh::new();
    for peer in [tcp, mesh.peer(ServiceName::Router, &limits)] {
        let mut client = mar_proto::router::router_service_client::RouterServiceClient::new(peer);
        let status = client.get_model(ask("ok")).await.unwrap_err();
        is(&status, Code::Unavailable, ErrorReason::PeerUnavailable);
        assert!(retry_after(&status).is_some());
    }
}

#[tokio::test]
async fn a_mesh_finds_its_services_when_they_are_called() {
    let (mesh, limits) = (LocalMesh::new(), LimitsConfig::default());
    let peer = mesh.peer(ServiceName::Router, &limits);
    let mut client = mar_proto::router::router_service_client::RouterServiceClient::new(peer);
    let host = Host::start(Wire::Local).await;
    mesh.bind(host.server.routed());
    client.get_model(ask("ok")).await.unwrap();
    mesh.unbind(ServiceName::Router);
    assert!(client.get_model(ask("ok")).await.is_err());
}

#[tokio::test]
async fn a_connection_lost_in_a_stream_is_unavailable() {
    let mut host = Host::start(Wire::Tcp).await;
    let mut frames = host.client().stream_generate(ask_stream("drip")).await.unwrap().into_inner();
    assert!(frames.message().await.unwrap().is_some());
    host.tasks.abort_all();
    let status = loop {
        if let Err(status) = frames.message().await {
            break status;
        }
    };
    is(&status, Code::Unavailable, ErrorReason::PeerUnavailable);
    assert!(retry_after(&status).is_some());
}
