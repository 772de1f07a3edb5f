//! Death in the middle of a summary: who takes the run over has it written once more, or finds it, and pays for it once.

use anyhow::{Context as _, ensure};
use mar_proto::session::{Event, RunState, Task, event_leaf::Body};
use mar_proto::types::HaltingPolicy;
use mar_session::crash::Point;
use mar_tests::caller::{Caller, Seen, request};
use mar_tests::catalogue::Model;
use mar_tests::oracle::Scars;
use mar_tests::{Deployment, Options, Shape, Stores, task};

/// Room for a few searches: before the last of them there has to be a summary of the earlier ones.
fn narrow() -> Model {
    Model { context_tokens: 4_000, max_output_tokens: 200, ..Model::default() }
}

/// Each result leads to the next search, so that who asks again is told the same.
const SCRIPT: &str = r##"
[defaults]
chunk_size = 8
chunk_delay = "2ms"
[[rule]]
name = "sums up"
match = { contains = "# What was done so far" }
reply = { text = "NOTES: the tide was looked up." }
[[rule]]
match = { last_role = "tool", tool_result_contains = "rope" }
reply = { text = "It floods at spring tide." }
[[rule]]
match = { last_role = "tool", tool_result_contains = "gull" }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "rope" } }] }
[[rule]]
match = { last_role = "tool", tool_result_contains = "pier" }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "gull" } }] }
[[rule]]
match = { last_role = "tool", tool_result_contains = "lamp" }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "pier" } }] }
[[rule]]
match = { last_role = "tool", tool_result_contains = "tide" }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "lamp" } }] }
[[rule]]
match = { contains = "NOTES" }
reply = { text = "It floods at spring tide." }
[[rule]]
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "tide" } }] }
"##;

/// Tool calls of a run.
const SEARCHES: usize = 5;

/// Points that a generation passes on its way into the log and back.
const POINTS: [Point; 7] = [
    Point::AdvanceBefore,
    Point::AdvanceDone,
    Point::CommitBefore,
    Point::CommitDone,
    Point::GenerationSent,
    Point::GenerationStreaming,
    Point::TurnInHand,
];

/// A system whose agents cannot read all that they find.
struct Scene {
    system: Deployment,
    /// The steps of a run that nothing befalls: they are its limit, so that a summary that counts twice halts it.
    steps: i64,
    /// Of these generations the summary is one; the first is 1.
    number: usize,
}

/// The number of the generation that was for a summary, and its step.
fn summed_up(events: &[Event]) -> Option<(usize, i64)> {
    let bodies = || events.iter().filter_map(|event| event.body.as_ref()?.body.as_ref());
    let step = bodies().find_map(|body| match body {
        Body::SummaryCommitted(summary) => Some(summary.step),
        _ => None,
    })?;
    let before = |body: &&Body| matches!(body, Body::GenerationStarted(started) if started.step <= step);
    Some((bodies().filter(before).count(), step))
}

/// How often the summary's step was begun, and how often it was lost.
fn tries(events: &[Event], step: i64) -> (usize, usize) {
    let bodies = || events.iter().filter_map(|event| event.body.as_ref()?.body.as_ref());
    let begun = |body: &&Body| matches!(body, Body::GenerationStarted(started) if started.step == step);
    let lost =
        |body: &&Body| matches!(body, Body::GenerationFailed(failed) if failed.step == step && failed.reason == "LOST");
    (bodies().filter(begun).count(), bodies().filter(lost).count())
}

impl Scene {
    async fn start(stores: Stores) -> anyhow::Result<Self> {
        let shape = if stores == Stores::Embedded { Shape::One } else { Shape::Four };
        let document =
            |word: &str| -> &'static str { format!("# {word}\n\n{word} {}\n", "of Marel ".repeat(66)).leak() };
        let documents =
            [("tide.md", "tide"), ("lamp.md", "lamp"), ("pier.md", "pier"), ("gull.md", "gull"), ("rope.md", "rope")];
        let options = Options {
            documents: documents.map(|(file, word)| (file, document(word))).into(),
            ..Options::new(shape, stores).script(SCRIPT).catalogue(narrow().toml())
        };
        let system = Deployment::start(options).await?;
        let mut scene = Self { system, steps: 64, number: 0 };
        let (seen, _) = scene.run(None).await?.context("nobody died")?;
        let run = seen.ended.context("no end")?;
        scene.steps = run.totals.context("no totals")?.steps;
        scene.number = summed_up(&seen.events).context("nothing was summed up")?.0;
        Ok(scene)
    }

    /// How often a model was asked for a summary.
    fn asked(&self) -> usize {
        self.system.rehearsal.requests().iter().filter(|request| request.rule.as_deref() == Some("sums up")).count()
    }

    /// A run in whose midst the process dies, if it is to; `None` where it came to its end before.
    async fn run(&mut self, wish: Option<&str>) -> anyhow::Result<Option<(Seen, Scars)>> {
        if let Some(wish) = wish {
            self.system.kill(0).await?;
            self.system.restart_with(0, vec![("MAR_CRASH_AT", wish.to_owned())]).await?;
            self.system.wait_for_tools(&["docs"]).await?;
        }
        let mut caller = Caller { client: self.system.client().await?, gateway: self.system.endpoint(3) };
        let limits = HaltingPolicy {
            max_steps: Some(self.steps),
            max_tool_calls: Some(SEARCHES as i64),
            ..HaltingPolicy::default()
        };
        let question =
            Task { tools: task::selectors(&["docs.search"]), ..task::question("When does the harbour flood?") };
        let request = request(&caller.session().await?, task::limited(question, limits));
        let (mut seen, asked) = (Seen::default(), self.asked());
        caller.once(&request, &mut seen).await?;
        if wish.is_some() {
            if let Some(run) = &seen.ended {
                ensure!(run.state() == RunState::Succeeded, "{run:?}");
                return Ok(None);
            }
            self.system.wait_for_crash().await?;
            self.system.restart(0).await?;
            self.system.wait_for_tools(&["docs"]).await?;
            caller.insist(&request, &mut seen).await?;
        }
        let scars = caller.judge_success(&seen).await?;
        let run = seen.ended.clone().context("no end")?;
        ensure!(
            run.state() == RunState::Succeeded && run.totals.is_some_and(|totals| totals.tool_calls == SEARCHES as i64),
            "{run:?}"
        );
        ensure!(scars.summaries == 1, "{} summaries", scars.summaries);
        let (_, step) = summed_up(&seen.events).context("nothing was summed up")?;
        let (begun, _) = tries(&seen.events, step);
        ensure!(self.asked() - asked <= begun, "asked {} times, begun {begun} times", self.asked() - asked);
        let told = self.system.rehearsal.requests().pop().context("no request")?.body["messages"].to_string();
        ensure!(
            told.contains("NOTES: the tide was looked up.") && told.contains("When does the harbour flood?"),
            "{told}"
        );
        Ok(Some((seen, scars)))
    }

    /// At which passings of a point the summary may be on its way, as far as the run goes.
    fn passings(&self, point: Point) -> Box<dyn Iterator<Item = usize>> {
        match point {
            Point::GenerationSent | Point::TurnInHand => Box::new(std::iter::once(self.number)),
            // The pieces of the turns before it come first.
            Point::GenerationStreaming => Box::new((self.number..).step_by(3)),
            // Each search has a commit that takes its turn in and one that goes on from its result.
            _ => Box::new(2 * SEARCHES + 1..),
        }
    }
}

async fn every_point(stores: Stores) -> anyhow::Result<()> {
    let mut scene = Scene::start(stores).await?;
    for point in POINTS {
        let (mut deaths, mut lost) = (0, 0);
        for nth in scene.passings(point) {
            let wish = format!("{point}@{nth}");
            let died = scene.run(Some(&wish)).await.with_context(|| format!("{wish} {stores:?}"))?;
            let Some((seen, scars)) = died else { break };
            let had_ended = seen.events.last().and_then(|end| end.body.as_ref()).is_some_and(|leaf| leaf.epoch == 1);
            ensure!(scars.claims == usize::from(!had_ended), "{wish}: {} claims", scars.claims);
            let (_, step) = summed_up(&seen.events).context("nothing was summed up")?;
            deaths += 1;
            lost += tries(&seen.events, step).1;
            if point == Point::GenerationStreaming && lost > 0 {
                break;
            }
        }
        ensure!(deaths > 0, "no run with a summary passes {point}");
        ensure!(lost > 0, "nobody died at {point} with a summary on its way: summary {} of {stores:?}", scene.number);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summary_outlives_its_process_on_embedded_stores() -> anyhow::Result<()> {
    every_point(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summary_outlives_its_process_on_servers() -> anyhow::Result<()> {
    every_point(Stores::Servers).await
}
