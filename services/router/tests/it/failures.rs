use std::time::Duration;

use mar_proto::types::{ErrorReason, part::Content};
use mar_runtime::status::{metadata, retry_after};
use tonic::{Code, Status};

use crate::harness::{Ask, Harness, contents, reason};

const FINE: &str = "[[rule]]\nreply = { text = 'fine' }";

fn failing(reply: &str) -> String {
    format!("[[rule]]\nreply = {reply}")
}

async fn refused(script: &str, ask: Ask) -> (Harness, Status) {
    let harness = Harness::start(script).await;
    let refused = harness.generate(&["alpha"], ask).await.unwrap_err();
    (harness, refused)
}

#[tokio::test]
async fn every_failure_has_its_reason() {
    let cases = [
        ("{ error = { status = 400 } }", Code::FailedPrecondition, ErrorReason::ProviderRefused, 1),
        ("{ error = { status = 404 } }", Code::FailedPrecondition, ErrorReason::ProviderRefused, 1),
        ("{ error = { status = 422 } }", Code::FailedPrecondition, ErrorReason::ProviderRefused, 1),
        ("{ error = { status = 401 } }", Code::FailedPrecondition, ErrorReason::ProviderCredential, 1),
        ("{ error = { status = 402 } }", Code::FailedPrecondition, ErrorReason::ProviderCredential, 1),
        ("{ error = { status = 403 } }", Code::FailedPrecondition, ErrorReason::ProviderCredential, 1),
        (
            "{ error = { status = 429, retry_after = '9s' } }",
            Code::ResourceExhausted,
            ErrorReason::ProviderRateLimited,
            1,
        ),
        ("{ error = { status = 429 } }", Code::ResourceExhausted, ErrorReason::ProviderRateLimited, 3),
        ("{ error = { status = 500 } }", Code::Unavailable, ErrorReason::ProviderUnavailable, 3),
        ("{ error = { status = 503 } }", Code::Unavailable, ErrorReason::ProviderUnavailable, 3),
        ("{ garbage = '<html>busy</html>' }", Code::Unavailable, ErrorReason::ProviderBroken, 3),
        ("{ garbage_hex = 'ff fe 00 80' }", Code::Unavailable, ErrorReason::ProviderBroken, 3),
        (
            "{ text = 'cut off in the middle of it all', cut_after = 1 }",
            Code::Unavailable,
            ErrorReason::ProviderBroken,
            3,
        ),
    ];
    for (reply, code, expected, attempts) in cases {
        let (harness, status) = refused(&failing(reply), Ask::new("hi")).await;
        assert_eq!((status.code(), reason(&status)), (code, expected), "{reply}");
        assert_eq!(harness.first.request_count(), attempts, "{reply}");
        let told = metadata(&status)["attempts"].clone();
        assert!(told.contains("models/alpha") && !told.contains("scripted") && !told.contains("busy"), "{told}");
        assert_eq!(retry_after(&status).is_some(), code != Code::FailedPrecondition, "{reply}");
        if reply.contains("9s") {
            assert_eq!(retry_after(&status), Some(Duration::from_secs(9)));
        }
    }
}

#[tokio::test]
async fn streams_fail_the_same_way_before_the_first_token() {
    for (reply, expected) in [
        ("{ error = { status = 500 } }", ErrorReason::ProviderUnavailable),
        ("{ error = { status = 400 } }", ErrorReason::ProviderRefused),
        ("{ garbage = 'data: {broken\n\n' }", ErrorReason::ProviderBroken),
        ("{ garbage = 'no events at all' }", ErrorReason::ProviderBroken),
        ("{ garbage_hex = 'ff fe 00 80 0a 0a' }", ErrorReason::ProviderBroken),
        ("{ text = 'x', cut_after = 1 }", ErrorReason::ProviderBroken),
        ("{ hang = true }", ErrorReason::ProviderUnavailable),
        ("{ text = 'x', hang_after = 1 }", ErrorReason::ProviderUnavailable),
    ] {
        let reply = reply.replace('\n', "\\n").replace("'data: {broken\\n\\n'", "\"data: {broken\\n\\n\"");
        let harness = Harness::start(&failing(&reply)).await;
        let streamed = harness.stream(&["alpha"], Ask::new("hi").attempts(2)).await.unwrap();
        let error = streamed.error.unwrap_or_else(|| panic!("{reply}"));
        assert_eq!(reason(&error), expected, "{reply}");
        assert!(streamed.turn.is_none() && streamed.deltas.is_empty(), "{reply}");
        let attempts = if expected == ErrorReason::ProviderRefused { 1 } else { 2 };
        assert_eq!(streamed.attempts.len(), attempts, "{reply}");
    }
}

#[tokio::test]
async fn another_model_takes_over_before_the_first_token() {
    for reply in [
        "{ error = { status = 500 } }",
        "{ error = { status = 429, retry_after = '60s' } }",
        "{ error = { status = 401 } }",
        "{ hang = true }",
        "{ garbage = 'nonsense' }",
        "{ text = 'x', cut_after = 1 }",
    ] {
        let harness = Harness::with(&failing(reply), FINE).await;
        let streamed = harness.stream(&["alpha", "beta"], Ask::new("hi")).await.unwrap();
        assert_eq!(streamed.attempts, ["models/alpha", "models/beta"], "{reply}");
        let turn = streamed.turn.unwrap();
        assert_eq!((turn.model.as_str(), contents(&turn)), ("models/beta", vec![Content::Text("fine".into())]));
        assert_eq!(turn.failed_attempts.len(), 1);
        assert!(turn.failed_attempts[0].starts_with("models/alpha: "), "{turn:?}");
        assert!(turn.selection.contains("after 1 failed attempt"));
    }
}

#[tokio::test]
async fn nobody_takes_over_after_the_first_token() {
    for end in ["cut_after", "hang_after"] {
        let reply = format!("{{ text = 'one two three four', chunk_size = 3, {end} = 3 }}");
        let harness = Harness::with(&failing(&reply), FINE).await;
        let streamed = harness.stream(&["alpha", "beta"], Ask::new("hi")).await.unwrap();
        assert_eq!(streamed.attempts, ["models/alpha"]);
        assert!(!streamed.deltas.is_empty() && streamed.turn.is_none());
        assert_eq!(reason(&streamed.error.unwrap()), ErrorReason::ProviderBroken, "{end}");
        assert_eq!(harness.second.request_count(), 0);
    }
}

#[tokio::test]
async fn a_fault_that_passes_is_tried_again() {
    let script = "[[rule]]\ntimes = 1\nreply = { error = { status = 503, retry_after = '1s' } }\n[[rule]]\nreply = { text = 'fine' }";
    let harness = Harness::start(script).await;
    let turn = harness.generate(&["alpha"], Ask::new("hi")).await.unwrap();
    assert_eq!(contents(&turn), [Content::Text("fine".into())]);
    assert_eq!(harness.first.request_count(), 2);
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_unavailable() {
    let harness = Harness::configured(FINE, FINE, |config| {
        config.providers.insert("first".into(), mar_router::ProviderConfig::at("http://127.0.0.1:1/v1"));
    })
    .await;
    let status = harness.generate(&["alpha"], Ask::new("hi")).await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::ProviderUnavailable);
    assert!(metadata(&status)["attempts"].contains("cannot be connected to"));
    let turn = harness.generate(&["alpha", "beta"], Ask::new("hi")).await.unwrap();
    assert_eq!(turn.model, "models/beta");
}

#[tokio::test]
async fn a_dead_credential_is_not_presented_again() {
    let harness = Harness::with("api_key = 'right'\n[[rule]]\nreply = { text = 'x' }", FINE).await;
    for _ in 0..2 {
        let status = harness.generate(&["alpha"], Ask::new("hi")).await.unwrap_err();
        assert_eq!(reason(&status), ErrorReason::ProviderCredential);
    }
    assert_eq!(harness.first.request_count(), 1);
    let turn = harness.generate(&["alpha", "beta"], Ask::new("hi")).await.unwrap();
    assert_eq!(turn.model, "models/beta");
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let script = format!("[[rule]]\nreply = {{ text = '{}', chunk_size = 200 }}", "x".repeat(1_000));
    let harness = Harness::configured(&script, FINE, |config| {
        let first = config.providers.get_mut("first").unwrap();
        first.bounds.max_answer = mar_runtime::config::ByteSize(500);
    })
    .await;
    for delivered in [
        harness.generate(&["alpha"], Ask::new("hi").attempts(1)).await.unwrap_err(),
        harness.stream(&["alpha"], Ask::new("hi").attempts(1)).await.unwrap().error.unwrap(),
    ] {
        assert_eq!(reason(&delivered), ErrorReason::ProviderBroken);
    }
}
