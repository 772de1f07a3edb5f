//! Death around child runs: each is admitted once, each end reaches the parent, and who was told to stop stops.

use anyhow::{Context as _, ensure};
use mar_proto::session::{CancelRunRequest, Run, RunState, Task, VerifyRunRequest, WaitReason};
use mar_proto::types::HaltingPolicy;
use mar_session::crash::Point;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};

const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { from_tool_result = "Heard: {{last_tool_result}}" }
[[rule]]
match = { contains = "Leg one" }
reply = { text = "One hour." }
[[rule]]
match = { contains = "Leg two" }
reply = { text = "Two hours." }
[[rule]]
match = { contains = "Wait" }
reply = { hang = true }
[[rule]]
match = { contains = "for ever" }
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Wait here.", "Wait there."] } }] }
[[rule]]
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Leg one?", "Leg two?"] } }] }
"#;

/// A point that is passed oftener is died at so often.
const MOST_DEATHS: usize = 3;

fn asked(text: &str) -> Task {
    let limits = HaltingPolicy { max_depth: Some(1), ..HaltingPolicy::default() };
    task::limited(Task { tools: task::selectors(&["runtime.delegate"]), ..task::question(text) }, limits)
}

async fn arm(system: &mut Deployment, wish: &str) -> anyhow::Result<Client> {
    system.kill(0).await?;
    system.restart_with(0, vec![("MAR_CRASH_AT", wish.to_owned())]).await?;
    system.wait_for_tools(&["docs"]).await?;
    system.client().await
}

/// Dies at the point for the nth time; `None` where the run came to its end before.
async fn die_at(system: &mut Deployment, point: Point, nth: usize) -> anyhow::Result<Option<()>> {
    let mut client = arm(system, &format!("{point}@{nth}")).await?;
    let stopping = point == Point::ChildStopped;
    let session = client.session().await?;
    let run = client.start(&session, asked(if stopping { "Go for ever." } else { "How long?" })).await?.name;
    if stopping {
        client.until(&run, |run| run.wait_reason() == WaitReason::ChildRun && run.children.len() == 2).await?;
        // The process dies of it, before or after it answers.
        let cancel = CancelRunRequest { name: run.clone(), ..Default::default() };
        let _ = client.grpc.cancel_run(cancel).await;
    }
    let over = client.until(&run, |run| run.seal.is_some()).await;
    if let Ok(over) = over {
        judge(&mut client, &over, stopping).await?;
        return Ok(None);
    }
    system.wait_for_crash().await?;
    system.restart(0).await?;
    let mut client = system.client().await?;
    let over = client.until(&run, |run| run.seal.is_some()).await.with_context(|| system.log().join("\n"))?;
    judge(&mut client, &over, stopping).await?;
    Ok(Some(()))
}

async fn judge(client: &mut Client, run: &Run, stopped: bool) -> anyhow::Result<()> {
    let wanted = if stopped { RunState::Cancelled } else { RunState::Succeeded };
    ensure!(run.state() == wanted && run.children.len() == 2, "{run:?}");
    let ended = |run: &Run| run.end_time.map(|time| (time.seconds, time.nanos));
    for name in &run.children {
        let child = client.until(name, |child| child.seal.is_some()).await?;
        ensure!(child.state() == wanted && ended(&child) <= ended(run), "{child:?} of {run:?}");
        let verified = client.grpc.verify_run(VerifyRunRequest { name: name.clone() }).await?.into_inner();
        ensure!(verified.valid && verified.sealed, "{verified:?}");
    }
    if !stopped {
        let answer = format!("{:?}", run.answer);
        let told = answer.find("One hour.").zip(answer.find("Two hours."));
        ensure!(told.is_some_and(|(one, two)| one < two), "{answer}");
    }
    let session = run.name.split_once("/runs/").context("no session")?.0.to_owned();
    let list = mar_proto::session::ListRunsRequest { parent: session, ..Default::default() };
    let runs = client.grpc.list_runs(list).await?.into_inner().runs;
    ensure!(runs.len() == 3, "{} runs for one that has two children", runs.len());
    Ok(())
}

async fn every_point(shape: Shape, stores: Stores) -> anyhow::Result<()> {
    let mut system = Deployment::start(Options::new(shape, stores).script(SCRIPT)).await?;
    for point in Point::OF_CHILDREN {
        let mut deaths = 0;
        for nth in 1..=MOST_DEATHS {
            let died = die_at(&mut system, *point, nth).await.with_context(|| format!("{point}@{nth}"))?;
            if died.is_none() {
                break;
            }
            deaths += 1;
        }
        ensure!(deaths > 0, "no run passes {point}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_around_children_on_embedded_stores() -> anyhow::Result<()> {
    every_point(Shape::One, Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_around_children_on_servers() -> anyhow::Result<()> {
    every_point(Shape::Four, Stores::Servers).await
}
