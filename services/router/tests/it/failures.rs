use std::time::Duration;

use mar_proto::router::{Candidate, Obstacle, SelectModelRequest, SelectModelResponse};
use mar_proto::types::{ErrorReason, part::Content};
use mar_router::RouterConfig;
use mar_runtime::status::{metadata, retry_after};
use tonic::{Code, Status};

use crate::harness::{Ask, Harness, catalogue, contents, reason};

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

/// The catalogue with three more models like `alpha` at its provider, all better than `beta`.
fn crowded(config: &mut RouterConfig) {
    let one = catalogue().split("[[model]]").nth(1).unwrap().to_owned();
    let more: String =
        (2..=4).map(|at| format!("[[model]]{}", one.replace("\"alpha\"", &format!("\"alpha-{at}\"")))).collect();
    std::fs::write(config.catalogue.as_ref().unwrap(), catalogue() + &more).unwrap();
}

const CROWD: [&str; 5] = ["alpha", "alpha-2", "alpha-3", "alpha-4", "beta"];

#[tokio::test]
async fn another_provider_comes_before_further_models_of_one_in_trouble() {
    for reply in [
        "{ error = { status = 401 } }",
        "{ error = { status = 429 } }",
        "{ error = { status = 429, retry_after = '60s' } }",
        "{ error = { status = 503 } }",
        "{ hang = true }",
    ] {
        let harness = Harness::configured(&failing(reply), FINE, crowded).await;
        let streamed = harness.stream(&CROWD, Ask::new("hi").attempts(2)).await.unwrap();
        assert_eq!(streamed.attempts, ["models/alpha", "models/beta"], "{reply}");
        assert_eq!(streamed.turn.unwrap().model, "models/beta", "{reply}");
    }
    let harness = Harness::configured(FINE, FINE, |config| {
        crowded(config);
        config.providers.insert("first".into(), mar_router::ProviderConfig::at("http://127.0.0.1:1/v1"));
    })
    .await;
    let streamed = harness.stream(&CROWD, Ask::new("hi").attempts(2)).await.unwrap();
    assert_eq!(streamed.attempts, ["models/alpha", "models/beta"]);
    assert_eq!(streamed.turn.unwrap().model, "models/beta");
}

#[tokio::test]
async fn a_model_that_breaks_its_answer_says_nothing_of_its_provider() {
    let script = "[[rule]]\ntimes = 1\nreply = { garbage = 'nonsense' }\n".to_owned() + FINE;
    let harness = Harness::configured(&script, FINE, crowded).await;
    let streamed = harness.stream(&CROWD, Ask::new("hi")).await.unwrap();
    assert_eq!(streamed.attempts, ["models/alpha", "models/alpha-2"]);
}

#[tokio::test]
async fn what_failed_before_is_tried_after_all_others() {
    let script = "[[rule]]\ntimes = 1\nreply = { garbage = 'nonsense' }\n".to_owned() + FINE;
    let harness = Harness::configured(&script, FINE, crowded).await;
    let ask = Ask::new("hi").last(&["alpha", "alpha-2", "alpha-3", "alpha-4", "gone"]);
    let streamed = harness.stream(&CROWD, ask).await.unwrap();
    assert_eq!(streamed.attempts, ["models/beta"], "the one that has not failed");
    let ask = Ask::new("hi").last(&["beta", "alpha"]);
    let streamed = harness.stream(&CROWD, ask).await.unwrap();
    assert_eq!(streamed.attempts, ["models/alpha-2", "models/alpha-3"]);
    let many: Vec<String> = (0..257).map(|at| format!("m{at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = harness.stream(&CROWD, Ask::new("hi").last(&many)).await.unwrap_err();
    assert_eq!((error.code(), reason(&error)), (Code::InvalidArgument, ErrorReason::InvalidRequest));
}

#[tokio::test]
async fn what_failed_is_named_and_what_was_not_asked_is_counted() {
    let broken = failing("{ garbage = 'nonsense' }");
    let harness = Harness::configured(&broken, &broken, crowded).await;
    let error = harness.stream(&CROWD, Ask::new("hi").attempts(2)).await.unwrap().error.unwrap();
    assert_eq!(metadata(&error)["failed_models"], "models/alpha,models/alpha-2");
    assert!(error.message().contains("3 further admitted models were not asked"), "{error:?}");
    // Each of five in the first round, and three of them again.
    let streamed = harness.stream(&CROWD, Ask::new("hi").attempts(8)).await.unwrap();
    assert_eq!(streamed.attempts.len(), 8);
    assert!(!streamed.error.unwrap().message().contains("not asked"));
}

#[tokio::test]
async fn a_model_is_tried_as_often_as_rounds_say() {
    let broken = failing("{ error = { status = 500 } }");
    for rounds in [1, 2, 4] {
        let harness = Harness::configured(&broken, FINE, |config| config.retry.rounds = rounds).await;
        let streamed = harness.stream(&["alpha"], Ask::new("hi").attempts(8)).await.unwrap();
        assert_eq!(streamed.attempts.len(), rounds as usize);
    }
}

#[tokio::test]
async fn models_behind_a_dead_credential_are_passed_over_without_an_attempt() {
    let harness = Harness::configured(&failing("{ error = { status = 401 } }"), FINE, crowded).await;
    let streamed = harness.stream(&CROWD[..4], Ask::new("hi").attempts(8)).await.unwrap();
    assert_eq!(streamed.attempts, ["models/alpha"]);
    let error = streamed.error.unwrap();
    assert_eq!(reason(&error), ErrorReason::ProviderCredential);
    assert!(!metadata(&error)["attempts"].contains("alpha-2"), "{error:?}");
    // Now nobody is tried at all, and the refusal says what to do.
    let refused = harness.generate(&CROWD[..4], Ask::new("hi")).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::ProviderCredential);
    assert_eq!(metadata(&refused)["first"], "the provider refuses the credential");
    assert_eq!(harness.first.request_count(), 1);
}

#[tokio::test]
async fn a_missing_key_is_named() {
    let harness = Harness::configured(FINE, FINE, |config| {
        let first = config.providers.get_mut("first").unwrap();
        first.api_key = Some(mar_runtime::config::SecretRef::Env("MAR_TEST_NO_SUCH_KEY".into()));
        config.providers.remove("second");
    })
    .await;
    let refused = harness.stream(&["alpha", "beta", "con"], Ask::new("hi")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, ErrorReason::ProviderCredential));
    assert!(refused.message().contains("first: the credential is missing (env MAR_TEST_NO_SUCH_KEY)"), "{refused:?}");
    assert!(refused.message().contains("second: the provider is not configured"), "{refused:?}");
    assert_eq!(harness.first.request_count(), 0);
}

#[tokio::test]
async fn a_call_that_nobody_answers_says_who_was_passed_over() {
    let harness = Harness::configured(&failing("{ error = { status = 503 } }"), FINE, |config| {
        crowded(config);
        let second = config.providers.get_mut("second").unwrap();
        second.api_key = Some(mar_runtime::config::SecretRef::Env("MAR_TEST_NO_SUCH_KEY".into()));
    })
    .await;
    let failed = harness.stream(&CROWD, Ask::new("hi").attempts(2)).await.unwrap().error.unwrap();
    let text = failed.message();
    for part in [
        "no admitted model answered: models/alpha: UNAVAILABLE (first at 127.0.0.1:",
        " answered 503), models/alpha-2: UNAVAILABLE (",
        "; passed over: second: the credential is missing (env MAR_TEST_NO_SUCH_KEY)",
        "; 2 further admitted models were not asked",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn a_look_tells_who_answers_and_changes_nothing() {
    use mar_router::ProviderConfig;
    let harness = Harness::configured(FINE, FINE, |config| {
        config.providers.insert("second".into(), ProviderConfig::at("http://127.0.0.1:1/v1"));
    })
    .await;
    let select = async |look| {
        let ask = SelectModelRequest { look, ..SelectModelRequest::default() };
        harness.client.clone().select_model(ask).await.unwrap().into_inner()
    };
    let (blind, seeing) = (select(false).await, select(true).await);
    let found = |answer: &SelectModelResponse, model: &str| {
        let one = answer.candidates.iter().find(|one| one.model == model).unwrap().clone();
        (one.obstacle(), one.obstacle_detail, one.answered)
    };
    let nothing = (Obstacle::Unspecified, String::new(), false);
    for model in ["models/alpha", "models/beta"] {
        assert_eq!(found(&blind, model), nothing, "nobody was asked: {model}");
    }
    assert_eq!(found(&seeing, "models/alpha"), (Obstacle::Unspecified, String::new(), true));
    let away = "second at 127.0.0.1:1 cannot be connected to".to_owned();
    assert_eq!(found(&seeing, "models/beta"), (Obstacle::Unreachable, away, false));
    let bare =
        |one: &Candidate| Candidate { obstacle: 0, obstacle_detail: String::new(), answered: false, ..one.clone() };
    let bare = |answer: &SelectModelResponse| answer.candidates.iter().map(bare).collect::<Vec<_>>();
    assert_eq!(bare(&blind), bare(&seeing), "what is admitted is the same");
    // What does not answer a look is tried all the same.
    let failed = harness.stream(&["beta"], Ask::new("hi")).await.unwrap();
    assert!(failed.attempts.contains(&"models/beta".to_owned()), "{:?}", failed.attempts);
}

#[tokio::test]
async fn nobody_is_asked_for_a_look_who_asks_for_a_key() {
    let harness = Harness::configured(FINE, FINE, |config| {
        let first = config.providers.get_mut("first").unwrap();
        first.base_url = "http://127.0.0.1:1/v1".into();
        first.api_key = Some(mar_runtime::config::SecretRef::Env("PATH".into()));
    })
    .await;
    let ask = SelectModelRequest { look: true, ..SelectModelRequest::default() };
    let answer = harness.client.clone().select_model(ask).await.unwrap().into_inner();
    let alpha = answer.candidates.iter().find(|one| one.model == "models/alpha").unwrap();
    assert_eq!((alpha.obstacle(), alpha.answered), (Obstacle::Unspecified, false), "{alpha:?}");
}

#[tokio::test]
async fn a_call_that_fails_says_what_was_spent() {
    let spent = |status: &Status, key: &str| metadata(status)[&format!("spent_{key}")].parse::<i64>().unwrap();
    for (reply, read) in [
        ("{ hang = true }", true),
        ("{ garbage = 'nonsense' }", true),
        ("{ error = { status = 401 } }", false),
        ("{ error = { status = 429, retry_after = '60s' } }", false),
    ] {
        let harness = Harness::start(&failing(reply)).await;
        let streamed = harness.stream(&["alpha"], Ask::new("hi").attempts(2)).await.unwrap();
        let (error, tries) = (streamed.error.unwrap(), i64::try_from(streamed.attempts.len()).unwrap());
        let input = spent(&error, "input_tokens");
        assert_eq!((input > 0, input % tries), (read, 0), "{reply}: each try has read the same");
        // A token of input costs 1,000 nano-USD.
        assert_eq!((spent(&error, "output_tokens"), spent(&error, "cost_nano_usd")), (0, input * 1_000), "{reply}");
    }
    let reply = "{ text = 'one two three four five six', chunk_size = 4, cut_after = 5 }";
    let harness = Harness::start(&failing(reply)).await;
    let error = harness.stream(&["alpha"], Ask::new("hi")).await.unwrap().error.unwrap();
    let (input, output) = (spent(&error, "input_tokens"), spent(&error, "output_tokens"));
    assert!(input > 0 && (2..20).contains(&output), "{input} {output}: what was seen counts");
    assert_eq!(spent(&error, "cost_nano_usd"), input * 1_000 + output * 2_000);
    // Before any attempt nothing is spent, and nothing is said of it.
    let mut poor = Ask::new("hi");
    poor.budget.max_input_tokens = 1;
    let refused = harness.generate(&["alpha"], poor).await.unwrap_err();
    assert!(!metadata(&refused).contains_key("spent_input_tokens"), "{refused:?}");
}

#[tokio::test]
async fn what_is_admitted_does_not_depend_on_the_moment() {
    let harness = Harness::with(&failing("{ error = { status = 401 } }"), FINE).await;
    let select = async || {
        let answer = harness.client.clone().select_model(SelectModelRequest::default()).await.unwrap().into_inner();
        let obstacles: Vec<_> = answer.candidates.iter().map(Candidate::obstacle).collect();
        let bare = |one: Candidate| Candidate { obstacle: 0, obstacle_detail: String::new(), ..one };
        let candidates = answer.candidates.into_iter().map(bare).collect();
        (obstacles, SelectModelResponse { candidates, ..answer })
    };
    let (none, before) = select().await;
    assert!(none.iter().all(|one| *one == Obstacle::Unspecified), "{none:?}");
    assert!(before.candidates.iter().all(|one| one.admitted), "{before:?}");
    harness.generate(&["alpha"], Ask::new("hi")).await.unwrap_err();
    let (dead, after) = select().await;
    assert_eq!(after, before);
    assert_eq!(dead.iter().filter(|one| **one == Obstacle::CredentialRefused).count(), 3, "{dead:?}");
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
    let what = "models/alpha: UNAVAILABLE (first at 127.0.0.1:1 cannot be connected to)";
    let attempts: Vec<_> = metadata(&status)["attempts"].lines().map(str::to_owned).collect();
    assert!(attempts.len() > 1 && attempts.iter().all(|one| one == what), "{attempts:?}");
    assert_eq!(status.message(), format!("no admitted model answered: {what}"), "each model is named once");
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
