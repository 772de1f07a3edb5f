//! One trace from the caller's span to the handler's.

use std::time::Duration;

use mar_runtime::clock::SystemIds;
use mar_runtime::telemetry::propagation;
use mar_runtime::telemetry::testing::{InMemory, attribute, traceparent};
use opentelemetry::trace::SpanKind;
use tracing::Instrument as _;

use crate::harness::{Host, Wire, ask, ask_stream};

#[tokio::test]
async fn the_callers_trace_goes_through_client_and_server() {
    let memory = InMemory::install();
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let (header, trace, root) = traceparent(&SystemIds);
        let mut headers = http::HeaderMap::new();
        headers.insert("traceparent", header.parse().unwrap());
        let span = tracing::info_span!("work");
        propagation::continue_trace(&span, &headers);
        async {
            host.ask("ok").await.unwrap();
            host.ask("panic").await.unwrap_err();
            let mut frames = host.client().stream_generate(ask_stream("three")).await.unwrap().into_inner();
            while frames.message().await.unwrap().is_some() {}
        }
        .instrument(span)
        .await;

        let spans = memory.wait(trace, Duration::from_secs(5), |spans| spans.len() >= 7).await;
        let kinds = |kind: SpanKind| spans.iter().filter(move |span| span.span_kind == kind);
        let work = kinds(SpanKind::Internal).next().unwrap();
        assert_eq!(work.parent_span_id, root, "{wire:?}");
        assert_eq!(kinds(SpanKind::Client).count(), 3, "{wire:?} {spans:#?}");
        for client in kinds(SpanKind::Client) {
            assert_eq!(client.parent_span_id, work.span_context.span_id());
            let server = kinds(SpanKind::Server).find(|one| one.parent_span_id == client.span_context.span_id());
            let server = server.unwrap_or_else(|| panic!("{wire:?}: no server span below {}", client.name));
            assert_eq!(server.name, client.name);
            assert_eq!(attribute(server, "agentruntime.service").as_deref(), Some("router"));
            assert_eq!(attribute(server, "agentruntime.tenant").as_deref(), Some("dev"));
            let codes = [server, client].map(|span| attribute(span, "rpc.response.status_code"));
            assert!(codes[0].is_some() && codes[0] == codes[1], "{wire:?} {codes:?}");
        }
    }
}

#[tokio::test]
async fn a_header_from_outside_is_continued_without_our_client() {
    let memory = InMemory::install();
    let host = Host::start(Wire::Local).await;
    let (header, trace, root) = traceparent(&SystemIds);
    let mut routed = host.server.routed();
    let mut client = mar_proto::router::router_service_client::RouterServiceClient::new(&mut routed);
    let mut request = ask("ok");
    request.metadata_mut().insert("traceparent", header.parse().unwrap());
    client.get_model(request).await.unwrap();
    let spans = memory.wait(trace, Duration::from_secs(5), |spans| !spans.is_empty()).await;
    assert_eq!(spans[0].parent_span_id, root);
}
