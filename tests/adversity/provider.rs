//! A provider that refuses, breaks, lies or is not there.

use std::time::{Duration, Instant};

use mar_proto::session::{FinishReason, Task, event_leaf::Body};
use mar_proto::types::{HaltingPolicy, Usage};
use mar_testkit::rehearsal::{Rehearsal, Script};
use mar_tests::{Client, Deployment, Followed, Options, Shape, Stores, task};

use crate::story::{self, bodies, end, failures, reservations, results, text, when};

/// Short pauses, so that three attempts of three attempts do not take long.
const PAUSES: &str = "[router.retry]\nbase = \"10ms\"\nmax = \"1500ms\"\n";

const SCRIPT: &str = r#"
[[rule]]
match = { contains = "[refuses]" }
reply = { error = { status = 400 } }
[[rule]]
match = { contains = "[rate once]" }
times = 1
reply = { error = { status = 429, retry_after = "1s" } }
[[rule]]
match = { contains = "[rate always]" }
reply = { error = { status = 429, retry_after = "1h" } }
[[rule]]
match = { contains = "[500 twice]" }
times = 2
reply = { error = { status = 500 } }
[[rule]]
match = { contains = "[500 always]" }
reply = { error = { status = 500 } }
[[rule]]
match = { contains = "[cut once]" }
times = 1
reply = { text = "A long answer that breaks off.", chunk_size = 4, cut_after = 4 }
[[rule]]
match = { contains = "[cut always]" }
reply = { text = "A long answer that breaks off.", chunk_size = 4, cut_after = 4 }
[[rule]]
match = { contains = "[garbage once]" }
times = 1
reply = { garbage = "<html>Service is fine</html>" }
[[rule]]
match = { contains = "[garbage always]" }
reply = { garbage_hex = "00 ff 64 61 74 61 3a 20 7b 0a 0a ff" }
[[rule]]
match = { contains = "[unknown tool]", turn = 0 }
reply = { tool_calls = [{ name = "no_such_tool", arguments = { x = 1 } }] }
[[rule]]
match = { contains = "[broken arguments]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = "{\"query\": " }] }
[[rule]]
match = { contains = "[half a character]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = '{"query": "\ud800"}' }] }
[[rule]]
match = { contains = "[wrong arguments]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = 7, nothing = true } }] }
[[rule]]
match = { contains = "[empty once]" }
reply = { text = "" }
[[rule]]
match = { contains = "it is empty" }
times = 1
reply = { text = "Better." }
[[rule]]
match = { contains = "it is empty" }
reply = { text = " " }
[[rule]]
match = { contains = "[empty twice]" }
reply = { text = "" }
[[rule]]
match = { contains = "[filtered once]" }
reply = { text = "The plan, which", finish_reason = "content_filter" }
[[rule]]
match = { contains = "the provider's content filter cut it off" }
times = 1
reply = { text = "In other words." }
[[rule]]
match = { contains = "the provider's content filter cut it off" }
reply = { text = "", finish_reason = "content_filter" }
[[rule]]
match = { contains = "[filtered twice]" }
reply = { text = "The plan, which", finish_reason = "content_filter" }
[[rule]]
match = { contains = "[filtered call]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "spring tide" } }], finish_reason = "content_filter" }
[[rule]]
match = { contains = "[schema mended]" }
reply = { json = { n = "mended-later" } }
[[rule]]
match = { contains = "mended-later" }
reply = { json = { n = 7 } }
[[rule]]
match = { contains = "[schema never]" }
reply = { json = { n = "never-right" } }
[[rule]]
match = { contains = "never-right" }
reply = { json = { n = "never-right" } }
[[rule]]
match = { contains = "[no json]" }
reply = { text = "seven" }
[[rule]]
match = { contains = "it is not JSON" }
reply = { json = { n = 8 } }
[[rule]]
match = { contains = "[stranger]" }
reply = { json = { answer = "At spring tide.", citations = [{ passage_id = "nowhere.md#9", quote = "at spring tide" }] } }
[[rule]]
match = { contains = "nowhere.md#9" }
reply = { json = { answer = "I do not know.", citations = [] } }
[[rule]]
match = { contains = "[no usage]" }
reply = { text = "Nobody counts me.", no_usage = true }
[[rule]]
match = { contains = "[credential]" }
reply = { error = { status = 401 } }
[[rule]]
reply = { text = "Fine." }
"#;

/// A case: what is asked, how the run ends, the failed generations (and whether they are tried again), and what else
/// must hold.
struct Case {
    task: Task,
    end: &'static str,
    failures: Vec<(&'static str, bool)>,
    check: fn(&Followed),
}

fn case(task: Task, end: &'static str, failures: &[(&'static str, bool)]) -> Case {
    Case { task, end, failures: failures.to_vec(), check: |_| () }
}

impl Case {
    fn check(self, check: fn(&Followed)) -> Self {
        Self { check, ..self }
    }
}

/// With `n`, an integer, as the answer.
fn number(text: &str) -> Task {
    let schema =
        r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}"#;
    Task { output_schema_json: schema.into(), ..task::question(text) }
}

fn with_tools(text: &str) -> Task {
    Task { tools: task::selectors(&["docs.*"]), ..task::question(text) }
}

fn cases() -> Vec<Case> {
    let ask = task::question;
    let broken = ("PROVIDER_BROKEN", true);
    vec![
        case(ask("[refuses]"), "FAILED PROVIDER_REFUSED", &[("PROVIDER_REFUSED", false)]),
        case(ask("[rate once]"), "SUCCEEDED", &[]),
        case(
            ask("[rate always]"),
            "FAILED PROVIDER_RATE_LIMITED",
            &[("PROVIDER_RATE_LIMITED", true), ("PROVIDER_RATE_LIMITED", true), ("PROVIDER_RATE_LIMITED", false)],
        ),
        case(ask("[500 twice]"), "SUCCEEDED", &[]).check(|run| {
            let failed = bodies(run.events()).into_iter().find_map(|body| match body {
                Body::TurnCommitted(turn) => Some(turn.failed_attempts),
                _ => None,
            });
            assert_eq!(failed.unwrap_or_default().len(), 2, "the log names the router's tries");
        }),
        case(
            ask("[500 always]"),
            "FAILED PROVIDER_UNAVAILABLE",
            &[("PROVIDER_UNAVAILABLE", true), ("PROVIDER_UNAVAILABLE", true), ("PROVIDER_UNAVAILABLE", false)],
        ),
        case(ask("[cut once]"), "SUCCEEDED", &[broken]).check(|run| {
            let bodies = bodies(run.events());
            assert_eq!(reservations(&bodies), 2, "each try has a reservation of its own");
            let tries: Vec<_> = bodies
                .iter()
                .filter_map(|body| match body {
                    Body::GenerationStarted(begun) => Some((begun.step, begun.attempt)),
                    _ => None,
                })
                .collect();
            assert_eq!(tries, [(1, 1), (1, 2)]);
            assert_eq!(run.text(), "Fine.");
            let totals = run.run.totals.unwrap_or_default();
            assert_eq!(totals.steps, 1, "a try is not a step");
            let reserved = totals.reserved.unwrap_or_default();
            assert_eq!((reserved.input_tokens, reserved.output_tokens), (0, 0), "nothing stays reserved");
            assert!(totals.usage.unwrap_or_default().estimated, "the lost try is counted");
        }),
        case(
            ask("[cut always]"),
            "FAILED PROVIDER_BROKEN",
            &[("PROVIDER_BROKEN", true), ("PROVIDER_BROKEN", true), ("PROVIDER_BROKEN", false)],
        ),
        case(ask("[garbage once]"), "SUCCEEDED", &[]),
        case(
            ask("[garbage always]"),
            "FAILED PROVIDER_BROKEN",
            &[("PROVIDER_BROKEN", true), ("PROVIDER_BROKEN", true), ("PROVIDER_BROKEN", false)],
        ),
        case(with_tools("[unknown tool]"), "SUCCEEDED", &[]).check(|run| {
            told(run, "TOOL_NOT_FOUND");
            assert_eq!(run.run.totals.unwrap_or_default().tool_calls, 0, "what is not called is not counted");
        }),
        case(with_tools("[broken arguments]"), "SUCCEEDED", &[]).check(|run| told(run, "ARGUMENTS_INVALID")),
        case(with_tools("[half a character]"), "SUCCEEDED", &[]).check(|run| told(run, "ARGUMENTS_INVALID")),
        case(with_tools("[wrong arguments]"), "SUCCEEDED", &[]).check(|run| told(run, "ARGUMENTS_INVALID")),
        case(ask("[empty once]"), "SUCCEEDED", &[]).check(|run| repaired(run, "Better.")),
        case(ask("[empty twice]"), "FAILED ANSWER_INVALID", &[]).check(|run| repairs(run, 2)),
        case(ask("[filtered once]"), "SUCCEEDED", &[]).check(|run| {
            repaired(run, "In other words.");
            filtered(run, 1);
        }),
        case(ask("[filtered twice]"), "FAILED ANSWER_INVALID", &[]).check(|run| {
            repairs(run, 2);
            filtered(run, 2);
        }),
        case(with_tools("[filtered call]"), "SUCCEEDED", &[]).check(|run| {
            told(run, "TURN_FILTERED");
            filtered(run, 1);
            let intents = run.story().iter().filter(|name| **name == "ToolIntent").count();
            assert_eq!((intents, run.run.totals.unwrap_or_default().tool_calls), (0, 0), "it was not made");
        }),
        case(number("[schema mended]"), "SUCCEEDED", &[]).check(|run| {
            repairs(run, 2);
            assert_eq!(run.run.answer.clone().unwrap_or_default().json, r#"{"n":7}"#);
        }),
        case(number("[schema never]"), "FAILED ANSWER_INVALID", &[]).check(|run| repairs(run, 2)),
        case(number("[no json]"), "SUCCEEDED", &[]).check(|run| repairs(run, 2)),
        case(task::with_sources("[stranger]"), "SUCCEEDED", &[]).check(|run| {
            repairs(run, 2);
            assert!(run.run.answer.clone().unwrap_or_default().citations.is_empty());
        }),
        case(ask("[no usage]"), "SUCCEEDED", &[]).check(|run| {
            let usage = run.run.totals.unwrap_or_default().usage.unwrap_or_default();
            assert!(usage.estimated && usage.input_tokens > 0 && usage.output_tokens > 0, "{usage:?}");
        }),
        case(ask("[plain]"), "SUCCEEDED", &[]),
        // The last: a dead credential stays dead.
        case(ask("[credential]"), "FAILED PROVIDER_CREDENTIAL", &[("PROVIDER_CREDENTIAL", false)]),
    ]
}

/// The model was told, and the call did not leave.
fn told(run: &Followed, reason: &str) {
    let results = results(run.events());
    assert_eq!(results.len(), 1);
    assert!(results[0].is_error && text(&results[0]).contains(reason), "{results:?}");
    assert_eq!(run.text(), "Fine.", "the model goes on");
}

/// The log says of so many turns that their provider's filter cut them.
fn filtered(run: &Followed, turns: usize) {
    let cut =
        |body: &Body| matches!(body, Body::TurnCommitted(turn) if turn.finish_reason() == FinishReason::ContentFilter);
    assert_eq!(bodies(run.events()).iter().filter(|body| cut(body)).count(), turns, "{:?}", run.story());
}

fn repaired(run: &Followed, text: &str) {
    repairs(run, 2);
    assert_eq!(run.text(), text);
}

/// One repair, never more; a run that fails has had its second answer rejected, too.
fn repairs(run: &Followed, steps: i64) {
    let rejected = run.story().iter().filter(|name| **name == "AnswerRejected").count();
    let expected = if end(&run.run) == "SUCCEEDED" { 1 } else { 2 };
    assert_eq!(rejected, expected, "{:?}", run.story());
    let repairs =
        bodies(run.events()).iter().filter(|body| matches!(body, Body::GenerationStarted(b) if b.repair)).count();
    assert_eq!((repairs, run.run.totals.unwrap_or_default().steps), (1, steps), "{:?}", run.story());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_may_do() -> anyhow::Result<()> {
    let system = Deployment::start(Options::new(Shape::One, Stores::Embedded).script(SCRIPT).extra(PAUSES)).await?;
    let mut client = system.client().await?;
    for case in cases() {
        let asked = format!("{:?}", case.task.input[0].content);
        let followed = client.run(case.task).await?;
        assert_eq!(end(&followed.run), case.end, "{asked}: {:?}\n{:#?}", followed.story(), followed.run.failure);
        let failures = failures(&bodies(followed.events()));
        let failures: Vec<_> = failures.iter().map(|(reason, again)| (reason.as_str(), *again)).collect();
        assert_eq!(failures, case.failures, "{asked}: {:?}", followed.story());
        let message = followed.run.failure.clone().unwrap_or_default().message;
        assert!(!message.contains("html"), "what a provider sent is not repeated: {message}");
        (case.check)(&followed);
    }
    assert_eq!(system.rehearsal.in_flight(), 0);
    Ok(())
}

async fn hangs(system: &Deployment, client: &mut Client, text: &str) -> anyhow::Result<()> {
    let limits = HaltingPolicy {
        max_active_time: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..HaltingPolicy::default()
    };
    let left = system.rehearsal.abandoned();
    let began = Instant::now();
    let followed = client.run(task::limited(task::question(text), limits)).await?;
    assert_eq!(end(&followed.run), "HALTED ACTIVE_TIME", "{:?}", followed.story());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(followed.story().contains(&"StopRequested"), "{:?}", followed.story());
    when(|| async { system.rehearsal.in_flight() == 0 }).await?;
    assert_eq!(system.rehearsal.abandoned(), left + 1, "the provider's connection is closed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_provider_is_left_in_time() -> anyhow::Result<()> {
    let script = r#"
[[rule]]
match = { contains = "[silent]" }
reply = { hang = true }
[[rule]]
reply = { text = "I begin and then", chunk_size = 4, hang_after = 3 }
"#;
    let system = Deployment::start(Options::new(Shape::One, Stores::Embedded).script(script)).await?;
    let mut client = system.client().await?;
    hangs(&system, &mut client, "[silent]").await?;
    hangs(&system, &mut client, "[half]").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hanging_provider_has_read_is_counted() -> anyhow::Result<()> {
    let silent = "[[rule]]\nreply = { hang = true }";
    let options = Options::new(Shape::One, Stores::Embedded).script(silent).extra(PAUSES);
    let system =
        Deployment::start(options.env("MAR_ROUTER__PROVIDERS__REHEARSAL__BOUNDS__FIRST_BYTE", "200ms")).await?;
    let mut client = system.client().await?;
    let followed = client.run(task::question("anybody?")).await?;
    assert_eq!(end(&followed.run), "FAILED PROVIDER_UNAVAILABLE", "{:?}", followed.story());
    let settled = settlements(&followed);
    assert_eq!(settled.len(), 3, "{settled:?}");
    let (reserved, first) = settled[0];
    assert!(settled.iter().all(|(_, used)| used.estimated && used.input_tokens > 0), "{settled:?}");
    assert!(first.input_tokens <= reserved && first.output_tokens == 0, "{settled:?}");
    let usage = followed.run.totals.unwrap_or_default().usage.unwrap_or_default();
    let sum: i64 = settled.iter().map(|(_, used)| used.input_tokens).sum();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.estimated), (sum, 0, true));

    // The limit leaves one token too few for a second attempt.
    let most = reserved + first.input_tokens - 1;
    let limits = HaltingPolicy { max_input_tokens: Some(most), ..HaltingPolicy::default() };
    let followed = client.run(task::limited(task::question("anybody?"), limits)).await?;
    assert_eq!(end(&followed.run), "HALTED INPUT_TOKENS", "{:?}", followed.story());
    assert_eq!(settlements(&followed).len(), 1, "{:?}", followed.story());
    Ok(())
}

/// What each failed attempt had reserved of input, and what it settled at.
fn settlements(run: &Followed) -> Vec<(i64, Usage)> {
    let mut reserved = 0;
    let mut settled = Vec::new();
    for body in bodies(run.events()) {
        match body {
            Body::GenerationStarted(begun) => reserved = begun.reservation.unwrap_or_default().input_tokens,
            Body::GenerationFailed(failed) => settled.push((reserved, failed.usage.unwrap_or_default())),
            _ => {}
        }
    }
    settled
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_run() -> anyhow::Result<()> {
    let mut system = Deployment::start(Options::new(Shape::One, Stores::Embedded).extra(PAUSES)).await?;
    let mut client = system.client().await?;
    let stand_in = Rehearsal::start(Script::default()).await?;
    std::mem::replace(&mut system.rehearsal, stand_in).shutdown().await;
    let followed = client.run(task::question("anybody?")).await?;
    assert_eq!(end(&followed.run), "FAILED PROVIDER_UNAVAILABLE", "{:?}", followed.story());
    assert_eq!(story::reservations(&bodies(followed.events())), 3);
    let usage = followed.run.totals.unwrap_or_default().usage.unwrap_or_default();
    assert_eq!((usage.input_tokens, usage.output_tokens), (0, 0), "what reached nobody costs nothing");
    Ok(())
}
