//! Runs that are longer than what their model can read at once.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::event_leaf::Body;
use mar_proto::session::*;
use mar_proto::types::{HaltReason, HaltingPolicy, Message};
use mar_tests::catalogue::Model;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, task};

both_ways! {
    a_run_goes_on_past_the_window_with_a_summary
    large_results_are_elided_by_reference
    a_summary_is_charged_like_any_call
    a_takeover_in_the_middle_of_a_summary
    summarisers_that_fail
    what_never_fits_halts
    a_fork_shares_what_was_summed_up
    erasure_takes_summaries
}

/// Room for a few searches.
const WINDOW: i64 = 4_000;

/// One model that reads and writes so many bytes at once.
fn model(context_tokens: i64) -> Model {
    Model { context_tokens, max_output_tokens: 200, ..Model::default() }
}

/// Who sums up says this; the agent searches for one thing after another, then answers.
fn script(summary: &str) -> String {
    let asks = ["tide", "lamp", "pier", "gull", "rope"].map(|word| {
        format!(
            "[[rule]]\ntimes_per_conversation = 1\nreply = {{ tool_calls = [{{ name = \"docs_search\", arguments = {{ query = \
             \"{word}\" }} }}] }}\n"
        )
    });
    format!(
        "[[rule]]\nname = \"sums up\"\nmatch = {{ contains = \"# What was done so far\" }}\nreply = {summary}\n{}[[rule]]\nreply = \
         {{ text = \"It floods at spring tide.\" }}\n",
        asks.concat()
    )
}

const NOTES: &str = r#"{ text = "NOTES: the tide was looked up." }"#;

/// Documents of which each holds one of the words, with this many bytes beside it.
fn documents(size: usize) -> Vec<(&'static str, &'static str)> {
    let of = |word: &str| -> &'static str { format!("# {word}\n\n{word} {}\n", "of Marel ".repeat(size / 9)).leak() };
    ["tide", "lamp", "pier", "gull", "rope"].map(|word| (&*format!("{word}.md").leak(), of(word))).into()
}

async fn start(options: Options, window: i64, size: usize, script: &str) -> anyhow::Result<Deployment> {
    let options = Options { documents: documents(size), ..options };
    Deployment::start(options.catalogue(model(window).toml()).script(script)).await
}

fn search() -> Task {
    Task { tools: task::selectors(&["docs.search"]), ..task::question("When does the harbour flood?") }
}

/// The bodies of a run's events.
pub(super) async fn told(client: &mut Client, run: &str) -> anyhow::Result<Vec<(Body, EventContent)>> {
    let events = client.events(run).await?;
    let body = |event: Event| Some((event.body?.body?, event.content.unwrap_or_default()));
    Ok(events.into_iter().filter_map(body).collect())
}

fn summaries(story: &[(Body, EventContent)]) -> Vec<(SummaryCommitted, Message)> {
    let summary = |(body, content): &(Body, EventContent)| match body {
        Body::SummaryCommitted(summary) => Some((summary.clone(), content.summary.clone().unwrap_or_default())),
        _ => None,
    };
    story.iter().filter_map(summary).collect()
}

/// What the model was sent last, as text.
pub(super) fn sent(system: &Deployment) -> String {
    system.rehearsal.requests().pop().map(|request| request.body["messages"].to_string()).unwrap_or_default()
}

pub(super) async fn verified(client: &mut Client, run: &str) -> anyhow::Result<()> {
    let verified = client.grpc.verify_run(VerifyRunRequest { name: run.to_owned() }).await?.into_inner();
    ensure!(verified.valid && verified.sealed, "{verified:?}");
    Ok(())
}

async fn a_run_goes_on_past_the_window_with_a_summary(options: Options) -> anyhow::Result<()> {
    let system = start(options, WINDOW, 600, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let run = client.run(search()).await?.run;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let story = told(&mut client, &run.name).await?;
    let summaries = summaries(&story);
    let [(summary, message)] = &summaries[..] else { anyhow::bail!("{} summaries in {story:#?}", summaries.len()) };
    assert_eq!(summary.model, "models/rehearsal");
    assert!(
        summary.summary_bytes < summary.replaced_bytes && summary.usage.is_some_and(|usage| usage.cost_nano_usd > 0)
    );
    assert_eq!(message.role(), mar_proto::types::Role::User);
    let totals = run.totals.unwrap_or_default();
    assert_eq!((totals.steps, totals.tool_calls), (7, 5), "five searches, a summary, an answer");
    let last = sent(&system);
    assert!(last.contains("NOTES: the tide was looked up.") && last.contains("When does the harbour flood?"), "{last}");
    assert!(last.contains("rope") && !last.contains("\\\"tide\\\""), "{last}");
    let asked = system.rehearsal.requests();
    let of_summary = asked.iter().filter(|request| request.rule.as_deref() == Some("sums up"));
    let of_summary: Vec<String> = of_summary.map(|request| request.body.to_string()).collect();
    assert_eq!(of_summary.len(), 1);
    assert!(of_summary[0].contains("You keep the notes of an agent") && !of_summary[0].contains("docs_search"));
    verified(&mut client, &run.name).await
}

async fn large_results_are_elided_by_reference(options: Options) -> anyhow::Result<()> {
    let system = start(options, 7_500, 1_500, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.run_in(&session, search()).await?.run;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let story = told(&mut client, &run.name).await?;
    assert!(summaries(&story).is_empty(), "references suffice");
    let elided: Vec<String> = story
        .iter()
        .filter_map(|(body, _)| match body {
            Body::GenerationStarted(started) => Some(started.elided.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    let id = run.name.rsplit('/').next().unwrap_or_default();
    assert_eq!(elided.first(), Some(&format!("{id}/1/0")), "the oldest first");
    let last = sent(&system);
    assert!(last.contains("left out to save room") && last.contains(&elided[0]), "{last}");
    assert!(last.contains("it brought the passages"), "what was received can be named: {last}");
    let plain = Task { tools: Vec::new(), ..search() };
    let other = client.run_in(&session, plain).await?.run;
    let places = super::rolling::shortened(&mut client, &other.name, &run.name).await?;
    let expected: Vec<String> =
        elided.iter().map(|id| format!("result {}", &id[id.find('/').unwrap_or(0) + 1..])).collect();
    assert_eq!(places, expected, "what one was told by reference the other was not told");
    verified(&mut client, &run.name).await
}

async fn a_summary_is_charged_like_any_call(options: Options) -> anyhow::Result<()> {
    let system = start(options, WINDOW, 600, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let steps = |most| HaltingPolicy { max_steps: Some(most), ..HaltingPolicy::default() };
    // Five searches, a summary, an answer: the last of them is one too many.
    let run = client.run(task::limited(search(), steps(6))).await?.run;
    assert_eq!((run.state(), run.halt_reason()), (RunState::Halted, HaltReason::MaxSteps));
    let run = client.run(task::limited(search(), steps(7))).await?.run;
    assert_eq!(run.state(), RunState::Succeeded);
    let story = told(&mut client, &run.name).await?;
    let spent = |body: &Body| match body {
        Body::TurnCommitted(turn) => turn.usage,
        Body::SummaryCommitted(summary) => summary.usage,
        Body::GenerationFailed(failed) => failed.usage,
        _ => None,
    };
    let cost: i64 = story.iter().filter_map(|(body, _)| spent(body)).map(|usage| usage.cost_nano_usd).sum();
    assert_eq!(run.totals.and_then(|totals| totals.usage).map(|usage| usage.cost_nano_usd), Some(cost));
    Ok(())
}

/// A rule before those of `script`: whoever is asked for a summary, which `contains` this, says nothing the first time.
pub(super) fn hanging(contains: &str, script: &str) -> String {
    let rule =
        format!("name = \"hangs\"\ntimes = 1\nmatch = {{ contains = \"{contains}\" }}\nreply = {{ hang = true }}");
    format!("[[rule]]\n{rule}\n{script}")
}

/// Kills the process while the rule [`hanging`] is asked. Who takes the run over asks for the same summary, of the rule `sums_up`,
/// and brings the run to a good end; answers a client of it and the run's story.
pub(super) async fn killed_in_a_summary(
    system: &mut Deployment,
    run: &str,
    sums_up: &str,
) -> anyhow::Result<(Client, Vec<(Body, EventContent)>)> {
    let asked = |system: &Deployment, rule: &str| {
        let requests = system.rehearsal.requests();
        requests.into_iter().rfind(|request| request.rule.as_deref() == Some(rule)).map(|request| request.body)
    };
    mar_testkit::wait::until(Duration::from_secs(30), || async { asked(system, "hangs").is_some() }).await?;
    let first = asked(system, "hangs").context("nothing was asked")?;
    system.kill(0).await?;
    system.restart(0).await?;
    let mut client = system.client().await?;
    let run = client.until(run, |run| run.seal.is_some()).await?;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let again = asked(system, sums_up).context("not again")?;
    assert_eq!(again["messages"], first["messages"], "who takes over asks for the same summary");
    let story = told(&mut client, &run.name).await?;
    let lost =
        |(body, _): &&(Body, EventContent)| matches!(body, Body::GenerationFailed(failed) if failed.reason == "LOST");
    assert_eq!(story.iter().filter(lost).count(), 1);
    verified(&mut client, &run.name).await?;
    Ok((client, story))
}

async fn a_takeover_in_the_middle_of_a_summary(options: Options) -> anyhow::Result<()> {
    let script = hanging("# What was done so far", &script(NOTES));
    let mut system = start(options, WINDOW, 600, &script).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.start(&session, search()).await?;
    let (_, story) = killed_in_a_summary(&mut system, &run.name, "sums up").await?;
    assert_eq!(summaries(&story).len(), 1);
    Ok(())
}

async fn summarisers_that_fail(options: Options) -> anyhow::Result<()> {
    for (reply, reason) in [
        (r#"{ text = " " }"#.to_owned(), "SUMMARY_EMPTY"),
        (format!("{{ text = \"{}\" }}", "so it went on and on and on ".repeat(300)), "SUMMARY_TOO_LONG"),
        (r#"{ error = { status = 400, body = "no" } }"#.to_owned(), "PROVIDER_REFUSED"),
    ] {
        let wordy = Model { max_output_tokens: 1_024, ..model(4_800) };
        let options = Options { documents: documents(600), ..options.clone() };
        let system = Deployment::start(options.catalogue(wordy.toml()).script(script(&reply))).await?;
        let mut client = system.client().await?;
        let run = client.run(search()).await?.run;
        let failure = run.failure.clone().context("it did not fail")?;
        assert_eq!((run.state(), failure.reason.as_str()), (RunState::Failed, reason), "{failure:?}");
        verified(&mut client, &run.name).await?;
    }
    Ok(())
}

async fn what_never_fits_halts(options: Options) -> anyhow::Result<()> {
    let system = start(options, 1_200, 600, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let long = Task { tools: task::selectors(&["docs.search"]), ..task::question(&"When? ".repeat(400)) };
    let run = client.run(long).await?.run;
    assert_eq!((run.state(), run.halt_reason()), (RunState::Halted, HaltReason::ContextWindow), "{run:?}");
    assert_eq!(system.rehearsal.request_count(), 0);
    assert_eq!(run.totals.and_then(|totals| totals.usage).map(|usage| usage.cost_nano_usd), Some(0));
    Ok(())
}

async fn a_fork_shares_what_was_summed_up(options: Options) -> anyhow::Result<()> {
    let system = start(options, WINDOW, 600, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.run_in(&session, search()).await?.run;
    let told_first = sent(&system);
    let asked = system.rehearsal.request_count();
    let story = told(&mut client, &run.name).await?;
    let last = story.iter().rposition(|(body, _)| matches!(body, Body::GenerationStarted(_))).context("no step")?;
    let request = ForkRunRequest {
        request_id: request_id(),
        name: run.name.clone(),
        through_seq: i64::try_from(last)?,
        ..Default::default()
    };
    let fork = client.grpc.fork_run(request).await?.into_inner().run.context("no fork")?;
    let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
    assert_eq!(fork.state(), RunState::Succeeded, "{fork:?}");
    assert_eq!(system.rehearsal.request_count(), asked + 1, "nothing is summed up twice");
    assert_eq!(sent(&system), told_first, "the fork is told what the first run was told");
    verified(&mut client, &fork.name).await
}

async fn erasure_takes_summaries(options: Options) -> anyhow::Result<()> {
    let system = start(options, WINDOW, 600, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.run_in(&session, search()).await?.run;
    client.grpc.end_session(EndSessionRequest { request_id: request_id(), name: session.clone() }).await?;
    client.grpc.erase_session(EraseSessionRequest { request_id: request_id(), name: session.clone() }).await?;
    let gone = || async {
        let mut client = system.client().await?;
        let story = told(&mut client, &run.name).await?;
        let summary = summaries(&story).pop().context("no summary")?;
        anyhow::Ok(summary.1 == Message::default() && summary.0.usage.is_some())
    };
    mar_testkit::wait::until(Duration::from_secs(30), || async { gone().await.unwrap_or(false) }).await?;
    Ok(())
}
