//! Earlier runs of a session that do not fit word by word.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::event_leaf::Body;
use mar_proto::session::*;
use mar_proto::types::HaltingPolicy;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, task};

use super::long::{hanging, killed_in_a_summary, sent, told, verified};

both_ways! {
    old_turns_are_summed_up_once_for_all_later_runs
    a_takeover_in_the_middle_of_looking_back
    a_run_goes_on_without_what_cannot_be_summed_up
    forks_share_what_was_seen_of_earlier_runs
    what_was_summed_up_goes_with_the_session
    other_sessions_and_tasks_of_their_own_see_no_summary
}

/// Room for three turns, or for a summary and two.
const ROOM: &str = "[session.history]\nmax_tokens = 600\n";

/// Who sums up says this, and the agent next to nothing.
fn script(summary: &str) -> String {
    format!(
        "[[rule]]\nname = \"looks back\"\nmatch = {{ contains = \"# The conversation so far\" }}\nreply = {summary}\n\
         [[rule]]\nreply = {{ text = \"Noted.\" }}\n"
    )
}

const NOTES: &str = r#"{ text = "NOTES: names were told." }"#;

async fn start(options: Options, script: &str) -> anyhow::Result<Deployment> {
    Deployment::start(options.script(script).extra(ROOM)).await
}

fn words(number: usize) -> Task {
    task::question(&format!("Note number {number}: {}", "the harbour floods at dusk. ".repeat(4)))
}

/// A session with so many turns.
async fn session_of(client: &mut Client, turns: usize) -> anyhow::Result<String> {
    let session = client.session().await?;
    for number in 1..=turns {
        let run = client.run_in(&session, words(number)).await?.run;
        ensure!(run.state() == RunState::Succeeded, "{run:?}");
    }
    Ok(session)
}

/// How often the model was asked to sum up.
fn asked(system: &Deployment) -> usize {
    system.rehearsal.requests().iter().filter(|request| request.rule.as_deref() == Some("looks back")).count()
}

/// The first run that summed up what was before it, and its session.
async fn first_to_look_back(client: &mut Client) -> anyhow::Result<(String, Run)> {
    let session = client.session().await?;
    for number in 1..=6 {
        let run = client.run_in(&session, words(number)).await?.run;
        if run.history_summary.is_some() {
            return Ok((session, run));
        }
    }
    anyhow::bail!("no run has summed anything up")
}

async fn looked_back(client: &mut Client, run: &str) -> anyhow::Result<Option<(i64, SummaryCommitted)>> {
    let story = told(client, run).await?;
    let found = story.into_iter().enumerate().find_map(|(seq, (body, _))| match body {
        Body::SummaryCommitted(summary) if summary.history => Some((seq, summary)),
        _ => None,
    });
    found.map(|(seq, summary)| anyhow::Ok((i64::try_from(seq)?, summary))).transpose()
}

async fn old_turns_are_summed_up_once_for_all_later_runs(options: Options) -> anyhow::Result<()> {
    let system = start(options, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let (session, run) = first_to_look_back(&mut client).await?;
    assert_eq!((run.state(), asked(&system)), (RunState::Succeeded, 1));
    let (seq, summary) = looked_back(&mut client, &run.name).await?.context("no summary")?;
    let origin = run.history_summary.clone().context("no origin")?;
    assert_eq!((&origin.run, origin.seq, &origin.through), (&run.name, seq, &summary.history_through));
    assert_eq!(run.totals.as_ref().map(|totals| totals.steps), Some(2), "it is a step");
    assert!(summary.usage.is_some_and(|usage| usage.output_tokens > 0), "and counted");
    assert!(summary.summary_bytes < summary.replaced_bytes);
    let prompt = sent(&system);
    assert!(prompt.contains("NOTES: names were told.") && !prompt.contains("Note number 1:"), "{prompt}");
    let requests = system.rehearsal.requests();
    let request = requests.iter().find(|request| request.rule.as_deref() == Some("looks back")).context("not asked")?;
    let request = request.body.to_string();
    assert!(request.contains("You keep the notes of an agent") && request.contains("Note number 1:"), "{request}");
    verified(&mut client, &run.name).await?;

    // The next run has it for nothing.
    let next = client.run_in(&session, words(7)).await?.run;
    assert_eq!((asked(&system), next.totals.as_ref().map(|totals| totals.steps)), (1, Some(1)));
    assert_eq!(next.history_summary, Some(origin.clone()), "it is where it was made");
    let prompt = sent(&system);
    assert!(prompt.contains("NOTES: names were told.") && prompt.contains("Note number 7:"), "{prompt}");
    verified(&mut client, &next.name).await?;

    // Until there are too many turns again: the new summary stands on the old one.
    let mut runs = 0;
    let again = loop {
        runs += 1;
        ensure!(runs < 6, "nothing was summed up again");
        let run = client.run_in(&session, words(7 + runs)).await?.run;
        if asked(&system) == 2 {
            break run;
        }
    };
    let (_, second) = looked_back(&mut client, &again.name).await?.context("no second summary")?;
    assert!(second.history_through > summary.history_through, "it reaches further");
    let requests = system.rehearsal.requests();
    let request =
        requests.iter().rfind(|request| request.rule.as_deref() == Some("looks back")).context("not asked")?;
    let request = request.body.to_string();
    assert!(request.contains("NOTES: names were told.") && !request.contains("Note number 1:"), "{request}");
    verified(&mut client, &again.name).await
}

async fn a_takeover_in_the_middle_of_looking_back(options: Options) -> anyhow::Result<()> {
    let script = hanging("# The conversation so far", &script(NOTES));
    let mut system = start(options, &script).await?;
    let mut client = system.client().await?;
    let session = session_of(&mut client, 4).await?;
    let run = client.start(&session, words(5)).await?;
    let (mut client, _) = killed_in_a_summary(&mut system, &run.name, "looks back").await?;
    assert_eq!(asked(&system), 1);
    assert!(looked_back(&mut client, &run.name).await?.is_some());
    Ok(())
}

/// What prompts of two runs have in other words, where they differ in it.
pub(super) async fn shortened(client: &mut Client, run: &str, base: &str) -> anyhow::Result<Vec<String>> {
    let request = DiffRunsRequest { name: run.to_owned(), base: base.to_owned() };
    let comparisons = client.grpc.diff_runs(request).await?.into_inner().comparisons;
    let shortened = comparisons.into_iter().find(|one| one.aspect() == RunAspect::Shortened).context("not compared")?;
    ensure!(shortened.may_vary, "models decide on it");
    Ok(shortened.differences.into_iter().map(|difference| difference.place).collect())
}

/// The reason for which something was left out.
async fn left_out(client: &mut Client, run: &str) -> anyhow::Result<Option<(i64, String)>> {
    let story = told(client, run).await?;
    Ok(story.into_iter().find_map(|(body, _)| match body {
        Body::GenerationStarted(started) if started.history_left_out > 0 => {
            Some((started.history_left_out, started.history_left_out_reason))
        }
        _ => None,
    }))
}

async fn a_run_goes_on_without_what_cannot_be_summed_up(options: Options) -> anyhow::Result<()> {
    let system = start(options.clone(), &script(r#"{ error = { status = 400, body = "no" } }"#)).await?;
    let mut client = system.client().await?;
    let session = session_of(&mut client, 4).await?;
    let run = client.run_in(&session, words(5)).await?.run;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let (messages, reason) = left_out(&mut client, &run.name).await?.context("nothing was left out")?;
    assert!(messages > 0 && reason == "SUMMARY_FAILED", "{messages} {reason}");
    assert_eq!(run.history_summary, None);
    let prompt = sent(&system);
    assert!(prompt.contains("Note number 4:") && !prompt.contains("Note number 1:"), "{prompt}");
    verified(&mut client, &run.name).await?;
    drop(system);

    // Nor does a summary take the steps of a run that has few.
    let system = start(options, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let session = session_of(&mut client, 4).await?;
    let few = HaltingPolicy { max_steps: Some(3), ..HaltingPolicy::default() };
    let run = client.run_in(&session, task::limited(words(5), few)).await?.run;
    assert_eq!((run.state(), asked(&system)), (RunState::Succeeded, 0));
    assert_eq!(left_out(&mut client, &run.name).await?.context("nothing was left out")?.1, "LIMITS");
    let rich = client.run_in(&session, words(6)).await?.run;
    assert_eq!(asked(&system), 1);
    let places = shortened(&mut client, &rich.name, &run.name).await?;
    assert_eq!(places, ["earlier runs", "summary of earlier runs 1"], "what one left out the other has summed up");
    Ok(())
}

async fn fork(client: &mut Client, run: &str, through_seq: i64) -> anyhow::Result<Run> {
    let request = ForkRunRequest { request_id: request_id(), name: run.to_owned(), through_seq, ..Default::default() };
    let fork = client.grpc.fork_run(request).await?.into_inner().run.context("no fork")?;
    client.until(&fork.name, |run| run.seal.is_some()).await
}

async fn forks_share_what_was_seen_of_earlier_runs(options: Options) -> anyhow::Result<()> {
    let system = start(options, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let (_, run) = first_to_look_back(&mut client).await?;
    let prompt = sent(&system);
    let (seq, _) = looked_back(&mut client, &run.name).await?.context("no summary")?;
    // From behind the summary: it is shared, and told as the first run was told it.
    let shared = fork(&mut client, &run.name, seq).await?;
    assert_eq!((shared.state(), asked(&system)), (RunState::Succeeded, 1));
    assert_eq!(sent(&system), prompt);
    let origin = shared.history_summary.clone().context("no summary")?;
    assert_eq!(origin.run, shared.name, "its own log has it, too");
    verified(&mut client, &shared.name).await?;
    // From before it: the fork sees what the first run saw, and sums it up anew.
    let anew = fork(&mut client, &run.name, 0).await?;
    assert_eq!((anew.state(), asked(&system)), (RunState::Succeeded, 2));
    assert_eq!(sent(&system), prompt);
    verified(&mut client, &anew.name).await?;
    // A fork of the fork.
    let (seq, _) = told(&mut client, &shared.name)
        .await?
        .into_iter()
        .enumerate()
        .find(|(_, (body, _))| matches!(body, Body::EventShared(_)))
        .context("nothing is shared")?;
    let twice = fork(&mut client, &shared.name, i64::try_from(seq)?).await?;
    assert_eq!((twice.state(), asked(&system)), (RunState::Succeeded, 2));
    assert_eq!(sent(&system), prompt);
    Ok(())
}

async fn what_was_summed_up_goes_with_the_session(options: Options) -> anyhow::Result<()> {
    let system = start(options, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let (session, run) = first_to_look_back(&mut client).await?;
    let user = client.run_in(&session, words(7)).await?.run;
    assert!(user.history_summary.is_some());
    client.grpc.end_session(EndSessionRequest { request_id: request_id(), name: session.clone() }).await?;
    client.grpc.erase_session(EraseSessionRequest { request_id: request_id(), name: session.clone() }).await?;
    let gone = || async {
        let mut client = system.client().await?;
        let mut left = 0;
        for run in [&run.name, &user.name] {
            let story = told(&mut client, run).await?;
            left += story.iter().filter(|(_, content)| *content != EventContent::default()).count();
        }
        anyhow::Ok(left == 0)
    };
    mar_testkit::wait::until(Duration::from_secs(30), || async { gone().await.unwrap_or(false) }).await?;
    Ok(())
}

async fn other_sessions_and_tasks_of_their_own_see_no_summary(options: Options) -> anyhow::Result<()> {
    let system = start(options, &script(NOTES)).await?;
    let mut client = system.client().await?;
    let (session, _) = first_to_look_back(&mut client).await?;
    let alone = Task { without_history: true, ..words(7) };
    let run = client.run_in(&session, alone).await?.run;
    assert!(run.history_summary.is_none() && !sent(&system).contains("NOTES"));
    let other = client.run(words(8)).await?.run;
    assert!(other.history_summary.is_none() && !sent(&system).contains("NOTES"));
    // What a run without it has said is a turn like any, and does not hide the summary.
    let run = client.run_in(&session, words(9)).await?.run;
    assert!(run.history_summary.is_some() && sent(&system).contains("NOTES"));
    assert!(sent(&system).contains("Note number 7:"));
    Ok(())
}
