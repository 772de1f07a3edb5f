//! Credentials on the way through the layers.

use std::sync::Arc;

use mar_proto::router::{GenerateRequest, SelectModelRequest};
use mar_proto::types::ErrorReason;
use mar_runtime::ServiceName;
use mar_runtime::auth::config::ApiKeyConfig;
use mar_runtime::auth::{AuthConfig, Caller, Mode, RunGrant, RunTokenSigner, RunTokensConfig, api_key, keys};
use mar_runtime::clock::{SystemClock, SystemIds};
use mar_runtime::config::RuntimeConfig;
use mar_runtime::status::{Reason, metadata};
use secrecy::ExposeSecret as _;
use tonic::{Code, Request, Status};

use crate::harness::{Host, Wire, ask};

fn with_bearer<T>(mut request: Request<T>, credential: &str) -> Request<T> {
    request.metadata_mut().insert("authorization", format!("Bearer {credential}").parse().unwrap());
    request
}

async fn try_with(host: &Host, order: &str, credential: &str) -> Status {
    host.client().get_model(with_bearer(ask(order), credential)).await.unwrap_err()
}

fn keyed() -> (RuntimeConfig, String) {
    let (key, sha256) = api_key::generate("ci", &SystemIds);
    let api_keys = vec![ApiKeyConfig {
        id: "ci".into(),
        sha256,
        tenant: "acme".into(),
        principal: "builder".into(),
        groups: Vec::new(),
        scopes: Vec::new(),
        environment: "prod".into(),
        not_after: None,
    }];
    let auth = AuthConfig { mode: Mode::ApiKeys, api_keys };
    (RuntimeConfig { auth, ..RuntimeConfig::default() }, key)
}

#[tokio::test]
async fn dev_needs_no_credential_and_refuses_a_wrong_one() {
    for wire in Wire::BOTH {
        let host = Host::start(wire).await;
        let found = metadata(&host.ask("who").await.unwrap_err());
        assert_eq!((found["tenant"].as_str(), found["environment"].as_str()), ("dev", "dev"));
        assert_eq!(try_with(&host, "who", "mar_ci_00").await.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_key_yields_its_caller_and_nothing_else_does() {
    for wire in Wire::BOTH {
        let (config, key) = keyed();
        let host = Host::configured(wire, config).await;
        let found = metadata(&try_with(&host, "who", &key).await);
        assert_eq!((found["tenant"].as_str(), found["environment"].as_str()), ("acme", "prod"));

        let missing = host.ask("who").await.unwrap_err();
        let wrong = try_with(&host, "who", &format!("{key}0")).await;
        let unknown = try_with(&host, "who", "hunter2").await;
        for refused in [missing, wrong, unknown] {
            assert_eq!(refused.code(), Code::Unauthenticated, "{wire:?}");
            assert_eq!(Reason::of(&refused), Some(ErrorReason::Unauthenticated));
        }
        let mut basic = ask("who");
        basic.metadata_mut().insert("authorization", "Basic YTpi".parse().unwrap());
        assert_eq!(host.client().get_model(basic).await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(host.probe.entered(), 1, "{wire:?}: a refused call reached its handler");
    }
}

#[tokio::test]
async fn health_and_reflection_need_no_credential() {
    for wire in Wire::BOTH {
        let host = Host::configured(wire, keyed().0).await;
        let mut health = tonic_health::pb::health_client::HealthClient::new(host.peer.clone());
        for service in ["", ServiceName::Router.grpc()] {
            let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
            let answer = health.check(request).await.unwrap().into_inner();
            assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving, "{service}");
        }
        let request = tonic_health::pb::HealthCheckRequest { service: "no.such.Service".into() };
        assert_eq!(Reason::of(&health.check(request).await.unwrap_err()), Some(ErrorReason::NotFound));

        use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
        let mut reflection =
            tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(host.peer.clone());
        let list = tonic_reflection::pb::v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = reflection.server_reflection_info(tokio_stream::once(list)).await.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(list)) =
            answers.message().await.unwrap().unwrap().message_response
        else {
            panic!("no list")
        };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&ServiceName::Router.grpc()) && names.contains(&"grpc.health.v1.Health"), "{names:?}");
        assert!(!names.contains(&ServiceName::Session.grpc()), "{names:?}");
    }
}

struct Issuer {
    signer: RunTokenSigner,
    config: RuntimeConfig,
    _folder: tempfile::TempDir,
}

fn issuer() -> Issuer {
    let pair = keys::generate(&SystemIds).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (private, public) = (folder.path().join("key.pem"), folder.path().join("key.pub.pem"));
    keys::write(&pair, &private, &public).unwrap();
    let run_tokens = RunTokensConfig { verification_key_files: vec![public] };
    let signer = RunTokenSigner::try_new(pair.private_pem.expose_secret(), Arc::new(SystemClock::new())).unwrap();
    Issuer { signer, config: RuntimeConfig { run_tokens, ..keyed().0 }, _folder: folder }
}

fn grant(epoch: u64) -> RunGrant {
    RunGrant { session: "s".into(), run: "r".into(), descriptor_hash: Some("sha256:00".into()), epoch }
}

#[tokio::test]
async fn a_run_token_opens_what_it_is_made_for() {
    for wire in Wire::BOTH {
        let issuer = issuer();
        let host = Host::configured(wire, issuer.config.clone()).await;
        let sign = |grant, audience| issuer.signer.sign(&Caller::dev(), &grant, &[audience]).unwrap();

        let found = try_with(&host, "run", &sign(grant(2), ServiceName::Router)).await;
        assert_eq!(metadata(&found)["epoch"], "2");
        let stale = try_with(&host, "run", &sign(grant(1), ServiceName::Router)).await;
        assert_eq!((stale.code(), Reason::of(&stale)), (Code::FailedPrecondition, Some(ErrorReason::EpochStale)));
        let other = try_with(&host, "run", &sign(grant(2), ServiceName::ToolGateway)).await;
        assert_eq!((other.code(), Reason::of(&other)), (Code::PermissionDenied, Some(ErrorReason::RunTokenInvalid)));

        let early = sign(RunGrant { descriptor_hash: None, ..grant(2) }, ServiceName::Router);
        let select = with_bearer(Request::new(SelectModelRequest::default()), &early);
        host.client().select_model(select).await.unwrap();
        let generate = with_bearer(Request::new(GenerateRequest::default()), &early);
        let refused = host.client().generate(generate).await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(ErrorReason::RunTokenInvalid), "{wire:?}");
    }
}

#[tokio::test]
async fn without_keys_no_token_and_without_a_token_no_run() {
    for wire in Wire::BOTH {
        let issuer = issuer();
        let token = issuer.signer.sign(&Caller::dev(), &grant(1), &[ServiceName::Router]).unwrap();
        let host = Host::configured(wire, keyed().0).await;
        let refused = try_with(&host, "run", &token).await;
        assert_eq!(Reason::of(&refused), Some(ErrorReason::RunTokenInvalid), "{wire:?}");

        let (config, key) = keyed();
        let host = Host::configured(wire, config).await;
        let refused = try_with(&host, "run", &key).await;
        assert_eq!(Reason::of(&refused), Some(ErrorReason::NoStandingDescriptor), "{wire:?}");
    }
}
