use mar_descriptor::Hash;
use mar_proto::router::GenerateRequest;
use mar_proto::types::ErrorReason;
use mar_runtime::status::metadata;
use tonic::{Code, Request};

use crate::harness::{Ask, Harness, reason, sealed};

const FINE: &str = "[[rule]]\nreply = { text = 'fine' }";

#[tokio::test]
async fn a_generation_needs_a_run_token() {
    let harness = Harness::start(FINE).await;
    let request: GenerateRequest = Ask::new("hi").into();
    let refused = harness.client.clone().generate(Request::new(request)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, ErrorReason::NoStandingDescriptor));
    let request = harness.authorised(Ask::new("hi").into(), None, 1);
    let refused = harness.client.clone().stream_generate(request).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::RunTokenInvalid);
    assert_eq!(harness.first.request_count(), 0);
}

#[tokio::test]
async fn a_descriptor_is_asked_for_once() {
    let harness = Harness::start(FINE).await;
    let sealed = sealed(&harness.descriptor(&["alpha"]));
    let call = |ask: Ask| harness.authorised(GenerateRequest::from(ask), Some(sealed.hash.clone()), 1);
    let mut client = harness.client.clone();
    let refused = client.generate(call(Ask::new("hi"))).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, ErrorReason::DescriptorRequired));
    assert_eq!(harness.first.request_count(), 0);
    client.generate(call(Ask { descriptor: Some(sealed.clone()), ..Ask::new("hi") })).await.unwrap();
    client.generate(call(Ask::new("hi"))).await.unwrap();
}

#[tokio::test]
async fn a_descriptor_has_to_be_the_granted_and_signed_one() {
    let harness = Harness::start(FINE).await;
    let good = sealed(&harness.descriptor(&["alpha"]));
    let other = sealed(&harness.descriptor(&["beta"]));
    let mut forged = good.clone();
    forged.canonical = other.canonical.clone();
    let mut unsigned = good.clone();
    unsigned.signatures.clear();
    for offered in [other, forged, unsigned] {
        let ask = Ask { descriptor: Some(offered), ..Ask::new("hi") };
        let request = harness.authorised(GenerateRequest::from(ask), Some(good.hash.clone()), 1);
        let refused = harness.client.clone().generate(request).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, ErrorReason::DescriptorInvalid));
    }
    assert_eq!(harness.first.request_count(), 0);
}

#[tokio::test]
async fn a_lower_epoch_is_stale() {
    let harness = Harness::start(FINE).await;
    let sealed = sealed(&harness.descriptor(&["alpha"]));
    let call = |epoch| {
        let ask = Ask { descriptor: Some(sealed.clone()), ..Ask::new("hi") };
        harness.authorised(GenerateRequest::from(ask), Some(sealed.hash.clone()), epoch)
    };
    harness.client.clone().generate(call(5)).await.unwrap();
    let refused = harness.client.clone().generate(call(4)).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::EpochStale);
}

#[tokio::test]
async fn models_are_used_only_as_they_were_sealed() {
    let harness = Harness::start(FINE).await;
    let mut descriptor = harness.descriptor(&["alpha", "gone"]);
    let role = descriptor.model.roles.get_mut("reason").unwrap();
    role.admitted[0].spec_hash = Hash::ZERO;
    let sealed = sealed(&descriptor);
    let ask = Ask { descriptor: Some(sealed.clone()), ..Ask::new("hi") };
    let request = harness.authorised(GenerateRequest::from(ask), Some(sealed.hash), 1);
    let refused = harness.client.clone().generate(request).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::NoModelAdmitted);
    let told = metadata(&refused);
    assert!(told["models/alpha"].contains("was sealed with spec"), "{told:?}");
    assert!(told["models/gone"].contains("no longer in the catalogue"), "{told:?}");
}

#[tokio::test]
async fn tools_are_told_only_as_they_were_sealed() {
    let harness = Harness::start(FINE).await;
    let mut changed = Ask::new("hi").with_tools();
    changed.prompt.tools[0].definition_hash = Hash::ZERO.to_string();
    let refused = harness.generate(&["alpha"], changed).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::ToolDefinitionChanged);
    let mut strange = Ask::new("hi").with_tools();
    strange.prompt.tools[0].name = "tools/files.delete".into();
    let refused = harness.generate(&["alpha"], strange).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::InvalidRequest);
    let refused = harness.generate(&["plain"], Ask::new("hi").with_tools()).await.unwrap_err();
    assert!(metadata(&refused)["models/plain"].starts_with("TOOLS"));
    assert_eq!(harness.first.request_count(), 0);
}
