//! A live model is found behind any number of dead ones.

use mar_proto::session::{ModelConstraints, Task, event_leaf::Body};
use mar_tests::catalogue::Model;
use mar_tests::{Deployment, Options, Shape, Stores, task};

use crate::story::{bodies, end};

/// Models in the order in which they are preferred; the last one works.
const MODELS: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "live"];

/// Pauses that a test can wait for.
const PAUSES: &str = "[router.retry]\nbase = '5ms'\nmax = '10ms'\n";

fn catalogue(provider: impl Fn(&str) -> String) -> String {
    let models = MODELS.iter().enumerate().map(|(rank, &name)| {
        Model { name, provider: provider(name), quality: 90 - 10 * rank, ..Model::default() }.toml()
    });
    models.collect()
}

/// Every model but the last answers so.
fn script(reply: &str) -> String {
    format!("[[rule]]\nmatch = {{ model = \"live\" }}\nreply = {{ text = \"Fine.\" }}\n[[rule]]\nreply = {reply}\n")
}

/// Which any of the models may answer.
fn question(text: &str) -> Task {
    let models = MODELS.iter().map(|name| format!("models/{name}")).collect();
    Task { model: Some(ModelConstraints { models, ..ModelConstraints::default() }), ..task::question(text) }
}

struct Outcome {
    end: String,
    /// Models that failed, attempt by attempt.
    failed: Vec<Vec<String>>,
    model: String,
}

async fn run(text: &str, script: &str, catalogue: &str, extra: &str) -> anyhow::Result<Outcome> {
    let options = Options::new(Shape::One, Stores::Embedded)
        .script(script)
        .extra(format!("{PAUSES}{extra}"))
        .catalogue(catalogue)
        .env("MAR_ROUTER__PROVIDERS__REHEARSAL__BOUNDS__FIRST_BYTE", "200ms");
    let system = Deployment::start(options).await?;
    let followed = system.client().await?.run(question(text)).await?;
    let (mut failed, mut model) = (Vec::new(), String::new());
    for body in bodies(followed.events()) {
        match body {
            Body::GenerationFailed(one) => failed.push(one.models),
            Body::TurnCommitted(turn) => model = turn.model,
            _ => {}
        }
    }
    Ok(Outcome { end: end(&followed.run), failed, model })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_try_goes_past_models_that_fail_at_once() -> anyhow::Result<()> {
    for reply in ["{ garbage = '<html>Service is fine</html>' }", "{ error = { status = 503 } }"] {
        let found = run("anybody?", &script(reply), &catalogue(|_| "rehearsal".into()), "").await?;
        assert_eq!((found.end.as_str(), found.model.as_str()), ("SUCCEEDED", "models/live"), "{reply}");
        assert!(found.failed.is_empty(), "{reply}: {:?}", found.failed);
    }
    Ok(())
}

/// An answer that has begun is not begun again within an attempt, and one that may have been read uses up an attempt's reservation.
#[tokio::test(flavor = "multi_thread")]
async fn a_further_try_begins_with_models_that_have_not_failed() -> anyhow::Result<()> {
    // Read once, it uses up most of a reservation.
    let long = "anybody? ".repeat(1_000);
    for reply in ["{ text = 'It breaks off here.', chunk_size = 4, cut_after = 2 }", "{ hang = true }"] {
        let found = run(&long, &script(reply), &catalogue(|_| "rehearsal".into()), "").await?;
        assert_eq!(
            (found.end.as_str(), found.model.as_str()),
            ("SUCCEEDED", "models/live"),
            "{reply}: {:?}",
            found.failed
        );
        let one_a_try: Vec<_> = MODELS[..5].iter().map(|name| vec![format!("models/{name}")]).collect();
        assert_eq!(found.failed, one_a_try, "{reply}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_provider_is_found_behind_dead_ones() -> anyhow::Result<()> {
    let dead = |name: &str| if name == "live" { "rehearsal".to_owned() } else { format!("dead-{name}") };
    let extra: String = MODELS[..5]
        .iter()
        .map(|name| format!("[router.providers.dead-{name}]\nbase_url = 'http://127.0.0.1:1/v1'\n"))
        .collect();
    let found = run("anybody?", &script("{ text = 'unheard' }"), &catalogue(dead), &extra).await?;
    assert_eq!((found.end.as_str(), found.model.as_str()), ("SUCCEEDED", "models/live"), "{:?}", found.failed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_model_dead_a_run_ends() -> anyhow::Result<()> {
    let everywhere = "[[rule]]\nreply = { error = { status = 500 } }\n";
    let found = run("anybody?", everywhere, &catalogue(|_| "rehearsal".into()), "").await?;
    assert_eq!(found.end, "FAILED PROVIDER_UNAVAILABLE");
    assert_eq!(found.failed.len(), 3, "{:?}", found.failed);
    Ok(())
}
