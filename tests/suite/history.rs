//! What a run sees of its session's earlier runs.

use anyhow::Context as _;
use mar_proto::session::*;
use mar_tests::{Client, Deployment, Options, task};
use serde_json::Value;

mod long;
mod rolling;

both_ways! {
    a_run_sees_the_turns_before_it
    as_much_is_seen_as_fits
    a_takeover_sees_what_its_predecessor_saw
}

const SCRIPT: &str = r#"
[[rule]]
match = { contains = "Wait" }
reply = { hang = true }
[[rule]]
match = { contains = "Fail" }
reply = { error = { status = 400, body = "no" } }
[[rule]]
match = { contains = "Ada" }
reply = { text = "Hello, Ada." }
[[rule]]
reply = { text = "As you said." }
"#;

/// Who said what to the model in its last request, its own instructions aside.
fn told(system: &Deployment) -> Vec<(String, String)> {
    let Some(request) = system.rehearsal.requests().pop() else { return Vec::new() };
    let messages = request.body["messages"].as_array().cloned().unwrap_or_default();
    let text = |message: &Value| match &message["content"] {
        Value::String(text) => text.clone(),
        other => other[0]["text"].as_str().unwrap_or_default().to_owned(),
    };
    let said = |message: &Value| (message["role"].as_str().unwrap_or_default().to_owned(), text(message));
    messages.iter().map(said).filter(|(role, _)| role != "system" && role != "developer").collect()
}

fn said(turns: &[(&str, &str)]) -> Vec<(String, String)> {
    turns.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect()
}

async fn admitted(client: &mut Client, run: &str) -> anyhow::Result<(RunAdmitted, Option<History>)> {
    let first = client.events(run).await?.into_iter().next().context("no events")?;
    let content = first.content.unwrap_or_default();
    match first.body.and_then(|leaf| leaf.body) {
        Some(event_leaf::Body::RunAdmitted(admitted)) => Ok((admitted, content.history)),
        other => anyhow::bail!("{other:?}"),
    }
}

async fn a_run_sees_the_turns_before_it(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let first = client.run_in(&session, task::question("I am Ada.")).await?.run;
    assert_eq!(told(&system), said(&[("user", "I am Ada.")]), "the first of a session sees nothing");
    assert_eq!(admitted(&mut client, &first.name).await?.0.history_through, "");

    // One that fails is no turn.
    let failed = client.run_in(&session, task::question("Fail!")).await?.run;
    assert_eq!(failed.state(), RunState::Failed);
    let second = client.run_in(&session, task::question("Who am I?")).await?.run;
    let turns = [("user", "I am Ada."), ("assistant", "Hello, Ada."), ("user", "Who am I?")];
    assert_eq!(told(&system), said(&turns));
    let (event, history) = admitted(&mut client, &second.name).await?;
    assert_eq!(event.history_through, first.name);
    assert_eq!(history.context("no history")?.messages.len(), 2);
    let third = client.run_in(&session, task::question("Sure?")).await?.run;
    let more = [&turns[..], &[("assistant", "As you said."), ("user", "Sure?")]].concat();
    assert_eq!(told(&system), said(&more));
    for run in [&second, &third] {
        let verified = client.grpc.verify_run(VerifyRunRequest { name: run.name.clone() }).await?.into_inner();
        assert!(verified.valid && verified.sealed, "{verified:?}");
    }
    assert_eq!(second.descriptor_hash, third.descriptor_hash, "it is no part of the agent");

    // Nor does a task that wants none, or another session, see any.
    let alone = Task { without_history: true, ..task::question("And now?") };
    client.run_in(&session, alone).await?;
    assert_eq!(told(&system), said(&[("user", "And now?")]));
    client.run(task::question("Who am I?")).await?;
    assert_eq!(told(&system), said(&[("user", "Who am I?")]));
    Ok(())
}

async fn as_much_is_seen_as_fits(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(SCRIPT).extra("[session.history]\nmax_tokens = 100\n")).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    for words in ["I am Ada.", "One.", "Two."] {
        client.run_in(&session, task::question(words)).await?;
    }
    let turns = [("user", "One."), ("assistant", "As you said."), ("user", "Two.")];
    assert_eq!(told(&system), said(&turns), "the newest turn, and none that does not fit");
    let small = mar_proto::types::HaltingPolicy { max_input_tokens: Some(60), ..Default::default() };
    let run = client.start(&session, task::limited(task::question("Three."), small)).await?;
    assert_eq!(admitted(&mut client, &run.name).await?.1, None, "a quarter of the run's own limit is too little");
    Ok(())
}

async fn a_takeover_sees_what_its_predecessor_saw(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    client.run_in(&session, task::question("I am Ada.")).await?;
    let run = client.start(&session, task::question("Wait for it.")).await?;
    let asked = |system: &Deployment| system.rehearsal.request_count();
    let before = asked(&system);
    client.until(&run.name, |run| run.totals.as_ref().is_some_and(|totals| totals.steps == 1)).await?;
    mar_testkit::wait::until(std::time::Duration::from_secs(20), || async { asked(&system) == before.max(2) }).await?;
    let first = told(&system);
    assert_eq!(first.len(), 3);
    system.kill(0).await?;
    system.restart(0).await?;
    mar_testkit::wait::until(std::time::Duration::from_secs(30), || async { asked(&system) == 3 }).await?;
    assert_eq!(told(&system), first);
    let mut client = system.client().await?;
    client.grpc.cancel_run(CancelRunRequest { name: run.name.clone(), ..Default::default() }).await?;
    client.until(&run.name, |run| run.seal.is_some()).await?;
    Ok(())
}
