//! Runs that are longer than what their model can read at once.

use anyhow::ensure;
use mar_proto::session::event_leaf::Body;
use mar_proto::session::*;
use mar_proto::types::Message;
use mar_tests::{Client, Deployment, Options, task};

both_ways! {
    a_run_goes_on_past_the_window_with_a_summary
}

/// Room for a few searches.
const WINDOW: i64 = 4_000;

/// One model that reads and writes so many bytes at once.
fn model(context_tokens: i64) -> String {
    format!(
        r#"
[[model]]
name = "rehearsal"
provider = "rehearsal"
provider_model = "rehearsal"
display_name = "Rehearsal (scripted, not a model)"
context_tokens = {context_tokens}
max_output_tokens = 200
input_modalities = ["text"]
output_modalities = ["text"]
streaming = true
tool_calling = "NATIVE"
structured_output = true
price = {{ input = "1", output = "2" }}
latency_class = "FAST"
trust_tier = "EXPERIMENTAL"
residency = ["local"]
retention_days = 0
tokenizer = "bytes"
rehearsal = true
quality = {{ default = 0 }}
source = "docs/rehearsal.md"
as_of = "2026-11-22"
"#
    )
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
    Deployment::start(options.catalogue(model(window)).script(script)).await
}

fn search() -> Task {
    Task { tools: task::selectors(&["docs.search"]), ..task::question("When does the harbour flood?") }
}

/// The bodies of a run's events.
async fn told(client: &mut Client, run: &str) -> anyhow::Result<Vec<(Body, EventContent)>> {
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
fn sent(system: &Deployment) -> String {
    system.rehearsal.requests().pop().map(|request| request.body["messages"].to_string()).unwrap_or_default()
}

async fn verified(client: &mut Client, run: &str) -> anyhow::Result<()> {
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
