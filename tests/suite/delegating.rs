//! Runs that hand work to child runs.

use anyhow::{Context as _, ensure};
use mar_proto::session::*;
use mar_proto::types::HaltingPolicy;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, task};

both_ways! {
    three_children_work_in_parallel_and_their_answers_come_back_in_order
    the_best_and_the_most_wanted_answer_are_picked
    a_child_that_fails_is_told_and_the_others_count
    four_children_share_what_their_parent_can_give_to_the_last_step
    a_run_that_may_not_start_runs_is_halted
    a_policy_says_who_may_delegate
    a_cancelled_run_stops_its_children_first
    a_run_that_expires_takes_its_children_along
    a_session_that_ends_ends_child_runs
    a_fork_has_what_children_have_said_and_a_child_can_be_forked
}

/// Legs are what children are asked about.
const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { from_tool_result = "Heard: {{last_tool_result}}" }
[[rule]]
match = { contains = "Leg one" }
reply = { text = "One hour.", delay = "300ms" }
[[rule]]
match = { contains = "Leg two" }
reply = { text = "Two hours." }
[[rule]]
match = { contains = "Leg three" }
reply = { text = "Three hours." }
[[rule]]
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Leg one?", "Leg two?", "Leg three?"] } }] }
"#;

/// Children that never answer.
const HANGING: &str = r#"
[[rule]]
match = { contains = "Leg" }
reply = { hang = true }
[[rule]]
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Leg one?", "Leg two?"] } }] }
"#;

/// A task that may delegate `depth` levels deep.
fn trip(depth: i64) -> Task {
    let limits = HaltingPolicy { max_depth: Some(depth), ..HaltingPolicy::default() };
    let task = Task { tools: task::selectors(&["runtime.delegate"]), ..task::question("How long is the trip?") };
    task::limited(task, limits)
}

/// The child runs of a run, in order, as they are stored.
async fn children(client: &mut Client, run: &Run) -> anyhow::Result<Vec<Run>> {
    let mut found = Vec::new();
    for name in &run.children {
        found.push(client.get(name).await?);
    }
    Ok(found)
}

fn intent(events: &[Event]) -> anyhow::Result<(&Event, &DelegationIntent)> {
    let found = events.iter().find_map(|event| match event.body.as_ref()?.body.as_ref()? {
        event_leaf::Body::DelegationIntent(intent) => Some((event, intent)),
        _ => None,
    });
    found.context("nothing was delegated")
}

async fn three_children_work_in_parallel_and_their_answers_come_back_in_order(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let ended = client.run_in(&session, trip(1)).await?;
    let (text, story) = (ended.text(), ended.story());
    ensure!(ended.run.state() == RunState::Succeeded, "{story:?} {:?}\n{}", ended.run.failure, system.log().join("\n"));
    let places: Vec<_> = ["One hour", "Two hours", "Three hours"].iter().map(|leg| text.find(leg)).collect();
    ensure!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");

    let run = client.get(&ended.run.name).await?;
    ensure!(run.children.len() == 3 && run.depth == 0 && run.parent.is_empty(), "{:?}", run.children);
    let events = client.events(&run.name).await?;
    let (at, intent) = intent(&events)?;
    let mut steps = 0;
    for (child, kept) in children(&mut client, &run).await?.iter().zip(&intent.children) {
        ensure!(child.name.ends_with(&kept.run) && child.parent == run.name && child.depth == 1, "{child:?}");
        ensure!(child.state() == RunState::Succeeded && child.limits == kept.limits, "{child:?}");
        let first = client.events(&child.name).await?.swap_remove(0);
        ensure!(first.prev_hash == at.hash, "the genesis of a child is its parent's intent");
        steps += child.totals.context("no totals")?.steps;
    }
    // What the children did not use is the parent's again.
    let totals = run.totals.context("no totals")?;
    ensure!((steps, totals.steps) == (3, 5), "{steps} of {totals:?}");
    let reserved = totals.reserved.unwrap_or_default();
    ensure!(reserved.input_tokens == 0 && reserved.output_tokens == 0, "{reserved:?}");
    for name in run.children.iter().chain([&run.name]) {
        let verified = client.grpc.verify_run(VerifyRunRequest { name: name.clone() }).await?.into_inner();
        ensure!(verified.valid && verified.sealed, "{verified:?}");
    }
    Ok(())
}

async fn a_fork_has_what_children_have_said_and_a_child_can_be_forked(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let ended = client.run_in(&session, trip(1)).await?;
    let parent = client.get(&ended.run.name).await?;
    ensure!(parent.children.len() == 3, "{parent:#?}");
    let child = client.get(&parent.children[1]).await?;
    for first in [&parent, &child] {
        let request = ForkRunRequest {
            request_id: request_id(),
            name: first.name.clone(),
            concurrency: Concurrency::Parallel.into(),
            ..Default::default()
        };
        let fork = client.grpc.fork_run(request).await?.into_inner().run.context("no fork")?;
        let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
        ensure!(fork.state() == RunState::Succeeded, "{fork:#?}\n{}", system.log().join("\n"));
        ensure!(fork.children.is_empty() && fork.depth == 0, "what children have said is recorded: {fork:#?}");
        let parts = |run: &Run| run.answer.as_ref().map(|answer| answer.parts.clone());
        ensure!(parts(&fork) == parts(first), "{:?}", parts(&fork));
        let found = client.grpc.verify_run(VerifyRunRequest { name: fork.name.clone() }).await?.into_inner();
        ensure!(found.valid && found.sealed, "{found:?}");
        let (mine, theirs) = (client.events(&fork.name).await?, client.events(&first.name).await?);
        mar_tests::oracle::check_fork(&fork, &mine, &theirs)?;
    }
    Ok(())
}

async fn the_best_and_the_most_wanted_answer_are_picked(options: Options) -> anyhow::Result<()> {
    let script = r#"
[[rule]]
match = { last_role = "tool" }
reply = { from_tool_result = "Heard: {{last_tool_result}}" }
[[rule]]
match = { contains = "Rate" }
times = 1
reply = { json = { answer = "A middling one.", score = 40 } }
[[rule]]
match = { contains = "Rate" }
times = 1
reply = { json = { answer = "A fine one.", score = 90 } }
[[rule]]
match = { contains = "Rate" }
reply = { json = { answer = "A poor one.", score = 10 } }
[[rule]]
match = { contains = "Elect" }
times = 1
reply = { json = { choice = "south" } }
[[rule]]
match = { contains = "Elect" }
reply = { json = { choice = "north" } }
[[rule]]
match = { contains = "best" }
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Rate it."], mode = "BEST_OF" } }] }
[[rule]]
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Elect."], mode = "VOTE", copies = 4, choices = ["north", "south"] } }] }
"#;
    let system = Deployment::start(options.script(script)).await?;
    let mut client = system.client().await?;
    let ask = |text: &str| Task { input: task::question(text).input, ..trip(1) };
    let best = client.run(ask("Find the best.")).await?;
    let text = best.text();
    ensure!(text.contains("A fine one.") && text.contains("rates it 90"), "{text} {:?}", best.run.failure);
    ensure!(!text.contains("middling") && !text.contains("poor"), "{text}");
    let vote = client.run(ask("Where to?")).await?;
    ensure!(vote.text().contains("3 of 4 answers agree") && vote.text().contains("north"), "{}", vote.text());
    ensure!(!vote.text().contains("south"), "{}", vote.text());
    Ok(())
}

async fn a_child_that_fails_is_told_and_the_others_count(options: Options) -> anyhow::Result<()> {
    let broken = SCRIPT.replace(r#"{ text = "Two hours." }"#, "{ error = { status = 400 } }");
    let system = Deployment::start(options.script(broken)).await?;
    let mut client = system.client().await?;
    let ended = client.run(trip(1)).await?;
    let text = ended.text();
    ensure!(ended.run.state() == RunState::Succeeded, "{:?}", ended.run.failure);
    ensure!(text.contains("One hour") && text.contains("Three hours"), "{text}");
    ensure!(text.contains("sub-agent 2 of 3: FAILED"), "{text}");
    Ok(())
}

/// Every child would go on for ever: each takes what it has, then what its siblings left in the pool, and not one step more.
async fn four_children_share_what_their_parent_can_give_to_the_last_step(options: Options) -> anyhow::Result<()> {
    let script = r#"
[[rule]]
match = { contains = "Leg" }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour {{turn}}" } }] }
[[rule]]
match = { last_role = "tool" }
reply = { from_tool_result = "Heard: {{last_tool_result}}" }
[[rule]]
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Leg a", "Leg b", "Leg c", "Leg d"], tools = ["docs.search"] } }] }
"#;
    let system = Deployment::start(options.script(script)).await?;
    let mut client = system.client().await?;
    let limits = HaltingPolicy { max_depth: Some(1), max_steps: Some(21), ..HaltingPolicy::default() };
    let task = Task { tools: task::selectors(&["runtime.delegate", "docs.search"]), ..trip(1) };
    let ended = client.run(task::limited(task, limits)).await?;
    ensure!(ended.run.state() == RunState::Succeeded, "{:?} {:?}", ended.story(), ended.run.failure);
    let (mut steps, mut refills) = (0, 0);
    for child in children(&mut client, &ended.run).await? {
        ensure!(child.halt_reason() == mar_proto::types::HaltReason::MaxSteps, "{child:?}");
        steps += child.totals.context("no totals")?.steps;
        let events = client.events(&child.name).await?;
        refills += events.iter().filter(|event| mar_tests::client::name_of(event) == "AllotmentRefilled").count();
    }
    // Of the 20 steps behind the first, the parent keeps a quarter.
    ensure!(steps == 15 && refills >= 4, "{steps} steps and {refills} refills");
    ensure!(ended.run.totals.context("no totals")?.steps == 17, "{:?}", ended.run.totals);
    Ok(())
}

async fn a_run_that_may_not_start_runs_is_halted(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let ended = client.run(trip(0)).await?;
    ensure!(ended.run.halt_reason() == mar_proto::types::HaltReason::MaxDepth, "{:?}", ended.run);
    ensure!(ended.run.children.is_empty() && ended.run.state() == RunState::Halted, "{:?}", ended.run.children);
    Ok(())
}

async fn a_policy_says_who_may_delegate(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(SCRIPT)).await?;
    let mut client = system.client().await?;
    let policy = "@id(\"alone\") @message(\"Work alone.\") forbid (principal, action == Action::\"callTool\", resource) \
                  when { resource.upstream == \"runtime\" };\n\
                  @id(\"rest\") permit (principal, action, resource);";
    let ended = client.run(Task { alignment_policy: policy.to_owned(), ..trip(1) }).await?;
    ensure!(ended.text().contains("POLICY_DENIED") && ended.text().contains("Work alone."), "{:?}", ended.run);
    ensure!(ended.run.children.is_empty(), "{:?}", ended.run.children);
    Ok(())
}

/// A run whose two children hang.
async fn hanging(client: &mut Client, task: Task) -> anyhow::Result<Run> {
    let session = client.session().await?;
    let run = client.start(&session, task).await?;
    let waits = |run: &Run| run.wait_reason() == WaitReason::ChildRun && run.children.len() == 2;
    let run = client.until(&run.name, waits).await?;
    for child in &run.children {
        // Its parent tells of it before it is admitted.
        while client.get(child).await.is_err() {
            tokio::task::yield_now().await;
        }
        client.until(child, |child| child.state() == RunState::Running).await?;
    }
    Ok(run)
}

/// Where the end of each run stands in the session's order of ends: children, then their parent.
async fn ends_in_order(client: &mut Client, name: &str) -> anyhow::Result<Vec<Run>> {
    let run = client.until(name, |run| run.seal.is_some()).await?;
    let mut all = children(client, &run).await?;
    let at = |run: &Run| run.end_time.map(|time| (time.seconds, time.nanos));
    ensure!(all.iter().all(|child| child.seal.is_some() && at(child) <= at(&run)), "children end first: {all:?}");
    all.push(run);
    Ok(all)
}

async fn a_cancelled_run_stops_its_children_first(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(HANGING)).await?;
    let mut client = system.client().await?;
    let run = hanging(&mut client, trip(1)).await?;
    client.grpc.cancel_run(CancelRunRequest { name: run.name.clone(), ..Default::default() }).await?;
    for run in ends_in_order(&mut client, &run.name).await? {
        ensure!(run.state() == RunState::Cancelled, "{run:?}");
        ensure!(run.failure.as_ref().is_some_and(|failure| failure.reason == "CANCELLED_BY_CALLER"), "{run:?}");
    }
    Ok(())
}

async fn a_run_that_expires_takes_its_children_along(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(HANGING)).await?;
    let mut client = system.client().await?;
    let span = prost_types::Duration { seconds: 6, nanos: 0 };
    let limits = HaltingPolicy { max_depth: Some(1), expire_after: Some(span), ..HaltingPolicy::default() };
    let run = hanging(&mut client, task::limited(trip(1), limits)).await?;
    for run in ends_in_order(&mut client, &run.name).await? {
        ensure!(run.state() == RunState::Halted, "{run:?}");
    }
    Ok(())
}

async fn a_session_that_ends_ends_child_runs(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(HANGING)).await?;
    let mut client = system.client().await?;
    let run = hanging(&mut client, trip(1)).await?;
    let session = run.name.split_once("/runs/").context("no session")?.0.to_owned();
    client.grpc.end_session(EndSessionRequest { name: session, ..Default::default() }).await?;
    for run in ends_in_order(&mut client, &run.name).await? {
        ensure!(run.state() == RunState::Cancelled, "{run:?}");
    }
    Ok(())
}
