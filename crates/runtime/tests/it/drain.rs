//! How a service stops.

use std::time::Duration;

use mar_proto::types::ErrorReason;
use mar_runtime::clock::{Clock as _, SystemClock};
use mar_runtime::config::{LimitsConfig, RuntimeConfig};
use mar_runtime::status::Reason;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{Host, Wire, ask, ask_stream, eventually};

fn patient(drain: Duration) -> RuntimeConfig {
    RuntimeConfig { limits: LimitsConfig { drain, ..LimitsConfig::default() }, ..RuntimeConfig::default() }
}

#[tokio::test]
async fn calls_in_flight_finish_and_new_ones_are_refused() {
    for wire in Wire::BOTH {
        let mut host = Host::configured(wire, patient(Duration::from_secs(10))).await;
        let mut watch = tonic_health::pb::health_client::HealthClient::new(host.peer.clone())
            .watch(tonic_health::pb::HealthCheckRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

        let mut client = host.client();
        let mut calls = tokio::task::JoinSet::new();
        calls.spawn(async move { client.get_model(ask("slow")).await });
        eventually("the handler began", || host.probe.entered() == 1).await;
        let clock = SystemClock::new();
        host.stop();
        eventually("the service drains", || host.server.routed().stack().drain().is_draining()).await;

        let refused = host.ask("ok").await.unwrap_err();
        assert_eq!(
            (refused.code(), Reason::of(&refused)),
            (Code::Unavailable, Some(ErrorReason::Draining)),
            "{wire:?}"
        );
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing, "{wire:?}");
        calls.join_next().await.unwrap().unwrap().unwrap();
        while host.tasks.join_next().await.is_some() {}
        assert!(clock.monotonic() < Duration::from_secs(3), "{wire:?}: the drain waited for its patience");
    }
}

#[tokio::test]
async fn what_does_not_finish_is_ended_with_a_status() {
    for wire in Wire::BOTH {
        let mut host = Host::configured(wire, patient(Duration::from_millis(200))).await;
        let mut client = host.client();
        let mut calls = tokio::task::JoinSet::new();
        calls.spawn(async move { client.get_model(ask("hang")).await });
        let mut frames = host.client().stream_generate(ask_stream("hang")).await.unwrap().into_inner();
        frames.message().await.unwrap();
        eventually("both began", || host.probe.entered() == 2).await;
        host.stop();
        let call = calls.join_next().await.unwrap().unwrap().unwrap_err();
        let stream = frames.message().await.unwrap_err();
        for ended in [call, stream] {
            assert_eq!(Reason::of(&ended), Some(ErrorReason::Draining), "{wire:?} {ended:?}");
        }
        while host.tasks.join_next().await.is_some() {}
        eventually("both handlers were dropped", || host.probe.left() == 2).await;
    }
}
