//! Who calls: what goes along to peers, and what stays apart.

use std::path::PathBuf;
use std::sync::Arc;

use mar_proto::agent::GetAgentRequest;
use mar_proto::types::ErrorReason;
use mar_runtime::ServiceName;
use mar_runtime::auth::config::ApiKeyConfig;
use mar_runtime::auth::{Caller, Mode, RunGrant, RunTokenSigner, api_key, keys};
use mar_runtime::clock::{SystemClock, SystemIds};
use mar_runtime::status::Reason;
use secrecy::ExposeSecret as _;
use tonic::{Code, Request};

use crate::harness::{Harness, request, task, verified};

fn bearing<T>(credential: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {credential}").parse().unwrap());
    request
}

fn api_key(tenant: &str) -> (String, ApiKeyConfig) {
    let (key, sha256) = api_key::generate(tenant, &SystemIds);
    let config = ApiKeyConfig {
        id: tenant.into(),
        sha256,
        tenant: tenant.into(),
        principal: format!("{tenant}-backend"),
        groups: Vec::new(),
        scopes: vec!["*".into()],
        environment: "staging".into(),
        not_after: None,
    };
    (key, config)
}

#[tokio::test]
async fn an_agent_of_another_tenant_is_not_there() {
    let ((acme, acme_key), (other, other_key)) = (api_key("acme"), api_key("other"));
    let mut harness = Harness::with(|setup| {
        setup.runtime.auth.mode = Mode::ApiKeys;
        setup.runtime.auth.api_keys = vec![acme_key, other_key];
    })
    .await;
    let answer =
        harness.client.generate_agent(bearing(&acme, request(task(&["docs.search"])))).await.unwrap().into_inner();
    let sealed = answer.agent.unwrap().descriptor.unwrap();
    assert_eq!(verified(&sealed).descriptor().metadata.environment, "staging");
    assert!(!String::from_utf8_lossy(&sealed.canonical).contains("acme"));
    let authorization = Some(format!("Bearer {acme}"));
    assert_eq!(harness.router.state().asked[0].authorization, authorization);
    assert_eq!(harness.gateway.state().asked[0].authorization, authorization);

    let get = GetAgentRequest { name: answer.name.clone() };
    harness.client.get_agent(bearing(&acme, get.clone())).await.unwrap();
    let theirs = harness.client.get_agent(bearing(&other, get.clone())).await.unwrap_err();
    let absent = GetAgentRequest { name: format!("agents/{}", "0".repeat(64)) };
    let nobodys = harness.client.get_agent(bearing(&other, absent.clone())).await.unwrap_err();
    let like_nobodys = theirs.message().replace(&get.name, &absent.name);
    assert_eq!((theirs.code(), like_nobodys.as_str()), (nobodys.code(), nobodys.message()));
    assert_eq!(Reason::of(&theirs), Some(ErrorReason::NotFound));
    let unknown = harness.client.get_agent(get).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unauthenticated);

    // The same work for another tenant is the same agent, and now it is theirs too.
    let again =
        harness.client.generate_agent(bearing(&other, request(task(&["docs.search"])))).await.unwrap().into_inner();
    assert_eq!(again.name, answer.name);
    harness.client.get_agent(bearing(&other, GetAgentRequest { name: answer.name })).await.unwrap();
}

#[tokio::test]
async fn a_run_token_without_descriptor_opens_synthesis_only() {
    let pair = keys::generate(&SystemIds).unwrap();
    let mut public = PathBuf::new();
    let mut harness = Harness::with(|setup| {
        public = setup.folder.join("session.pub.pem");
        std::fs::write(&public, &pair.public_pem).unwrap();
        setup.runtime.run_tokens.verification_key_files = vec![public.clone()];
    })
    .await;
    let signer = RunTokenSigner::try_new(pair.private_pem.expose_secret(), Arc::new(SystemClock::new())).unwrap();
    let grant = RunGrant { session: "s".into(), run: "r".into(), descriptor_hash: None, epoch: 1 };
    let audience = [ServiceName::AgentGenerator, ServiceName::Router, ServiceName::ToolGateway];
    let caller = Caller { tenant: "acme".into(), environment: "prod".into(), ..Caller::dev() };
    let token = signer.sign(&caller, &grant, &audience).unwrap();
    let answer = harness.client.generate_agent(bearing(&token, request(task(&[])))).await.unwrap().into_inner();
    let sealed = answer.agent.unwrap().descriptor.unwrap();
    assert_eq!(verified(&sealed).descriptor().metadata.environment, "prod");
    assert_eq!(harness.router.state().asked[0].authorization, Some(format!("Bearer {token}")));
    let elsewhere = signer.sign(&caller, &grant, &[ServiceName::Router]).unwrap();
    let status = harness.client.generate_agent(bearing(&elsewhere, request(task(&[])))).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(ErrorReason::RunTokenInvalid));
}
