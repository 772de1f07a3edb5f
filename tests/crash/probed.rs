//! A call that is cut while its tool has a probe: what the probe says decides, and the tool has its effect once.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use mar_proto::session::{Event, event_leaf::Body};
use mar_proto::tool::ProbeAnswer;
use mar_testkit::process::built_binary;
use mar_testkit::wait;
use mar_tests::caller::{Caller, Seen, names, request};
use mar_tests::client::request_id;
use mar_tests::{Deployment, Options, Shape, Stores, task};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(40);

const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { text = "So it went." }
[[rule]]
reply = { tool_calls = [{ name = "post_count", arguments = {} }] }
"#;

/// One upstream, `post`, whose `count` may not be repeated and whose `status` says whether it happened.
struct Desk {
    system: Deployment,
}

impl Desk {
    async fn open(stores: Stores) -> anyhow::Result<Self> {
        let shape = if stores == Stores::Embedded { Shape::One } else { Shape::Four };
        let server = built_binary("examples/scripted_mcp")?.display().to_string();
        let toml = format!(
            r#"
[tool_gateway.upstreams.post]
kind = "mcp_stdio"
command = "sh"
args = ["-c", "mkdir -p {{folder}}/post && exec {server} stdio {{folder}}/post"]
trust_tier = "ALIGNED"
trusted = true
timeout = "3s"
restart = {{ min = "50ms", max = "1s" }}
tools.status = {{ read_only = true }}
tools.count.doubt = {{ probe = {{ tool = "status", key_argument = "key", settles_after = "300ms" }} }}
"#
        );
        let system = Deployment::start(Options::new(shape, stores).script(SCRIPT).extra(toml)).await?;
        system.wait_for_tools(&["post"]).await?;
        Ok(Self { system })
    }

    async fn caller(&self) -> anyhow::Result<Caller> {
        Ok(Caller { client: self.system.client().await?, gateway: self.system.endpoint(3) })
    }

    /// What `status` says instead of the truth; nothing: the truth.
    fn says(&self, what: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.system.folder().join("post/status"), what)?)
    }

    /// How often a tool was called with each key.
    fn journal(&self, tool: &str) -> anyhow::Result<BTreeMap<String, usize>> {
        let text = std::fs::read_to_string(self.system.folder().join("post/journal"))?;
        let mut calls = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            if let (Some(name), Some(key)) = (words.next(), words.next())
                && name == tool
            {
                *calls.entry(key.to_owned()).or_default() += 1;
            }
        }
        Ok(calls)
    }

    /// Starts a run whose call is cut at `wish`.
    async fn cut(&mut self, wish: &str) -> anyhow::Result<Seen> {
        self.system.kill(0).await?;
        self.system.restart_with(0, vec![("MAR_CRASH_AT", wish.to_owned())]).await?;
        self.system.wait_for_tools(&["post"]).await?;
        let mut caller = self.caller().await?;
        let question = task::question(&format!("Post it, please. Mark: {}.", request_id()));
        let task = mar_proto::session::Task { tools: task::selectors(&["post.count"]), ..question };
        let request = request(&caller.session().await?, task);
        let mut seen = Seen::default();
        caller.once(&request, &mut seen).await?;
        ensure!(seen.ended.is_none(), "the run came to its end");
        self.system.wait_for_crash().await?;
        Ok(seen)
    }

    /// Follows a run to its end, which has to hold against the oracle; what the probes said, and effects by its key.
    async fn end(&mut self, seen: &mut Seen) -> anyhow::Result<(Vec<ProbeAnswer>, usize)> {
        let mut caller = self.caller().await?;
        caller.pursue(seen).await?;
        caller.judge_success(seen).await.with_context(|| self.system.log().join("\n"))?;
        let key = bodies(&seen.events).find_map(|body| match body {
            Body::ToolIntent(intent) => Some(intent.idempotency_key.clone()),
            _ => None,
        });
        let effects = self.journal("count")?.get(&key.context("no intent")?).copied().unwrap_or(0);
        let answers = bodies(&seen.events).filter_map(|body| match body {
            Body::CallProbed(probed) => Some(probed.answer()),
            _ => None,
        });
        Ok((answers.collect(), effects))
    }
}

fn bodies(events: &[Event]) -> impl Iterator<Item = &Body> {
    events.iter().filter_map(|event| event.body.as_ref()?.body.as_ref())
}

/// The story of the call between its first intent and the next step.
fn resolution(seen: &Seen) -> Vec<&'static str> {
    let told = names(&seen.events).into_iter().filter(|name| *name != "CountersRebuilt");
    let from = told.skip_while(|name| *name != "RunClaimed").skip(1);
    from.take_while(|name| *name != "GenerationStarted").collect()
}

fn result(seen: &Seen) -> String {
    let returned = seen
        .events
        .iter()
        .find(|event| matches!(event.body.as_ref().and_then(|leaf| leaf.body.as_ref()), Some(Body::ToolReturned(_))));
    format!("{:?}", returned.and_then(|event| event.content.as_ref()).and_then(|content| content.tool_result.as_ref()))
}

async fn every_answer(stores: Stores) -> anyhow::Result<()> {
    let mut desk = Desk::open(stores).await?;

    let mut seen = desk.cut("result.in_hand@1").await?;
    desk.system.restart(0).await?;
    let (answers, effects) = desk.end(&mut seen).await.context("it happened")?;
    ensure!(answers == [ProbeAnswer::Happened] && effects == 1, "{answers:?} {effects}");
    ensure!(resolution(&seen) == ["CallDoubted", "CallProbed", "ToolReturned"], "{:?}", resolution(&seen));
    ensure!(result(&seen).contains("counted before"), "{}", result(&seen));

    let mut seen = desk.cut("call.sent@1").await?;
    desk.system.restart(0).await?;
    let (answers, effects) = desk.end(&mut seen).await.context("it did not happen")?;
    ensure!(answers == [ProbeAnswer::DidNotHappen] && effects == 1, "{answers:?} {effects}");
    let expected = ["CallDoubted", "CallProbed", "ToolIntent", "ToolReturned"];
    ensure!(resolution(&seen) == expected, "{:?}", resolution(&seen));

    for odd in ["hang", "die", r#"{"outcome": "PERHAPS"}"#] {
        let mut seen = desk.cut("result.in_hand@1").await?;
        desk.says(odd)?;
        desk.system.restart(0).await?;
        let (answers, effects) = desk.end(&mut seen).await.with_context(|| odd.to_owned())?;
        ensure!(answers == [ProbeAnswer::Unknown] && effects == 1, "{odd}: {answers:?} {effects}");
        ensure!(result(&seen).contains("OUTCOME_UNKNOWN"), "{odd}: {}", result(&seen));
        desk.says("")?;
    }
    Ok(())
}

/// The process dies a second time while the probe is being asked: the next one asks again.
async fn cut_while_asking(stores: Stores) -> anyhow::Result<()> {
    let mut desk = Desk::open(stores).await?;
    let mut seen = desk.cut("result.in_hand@1").await?;
    desk.says("hang")?;
    desk.system.restart(0).await?;
    wait::until(PATIENCE, || async { desk.journal("status").is_ok_and(|asked| !asked.is_empty()) })
        .await
        .context("nobody asks")?;
    desk.system.kill(0).await?;
    desk.says("")?;
    desk.system.restart(0).await?;
    let (answers, effects) = desk.end(&mut seen).await?;
    ensure!(answers == [ProbeAnswer::Happened] && effects == 1, "{answers:?} {effects}");
    let expected = ["CallDoubted", "RunClaimed", "CallProbed", "ToolReturned"];
    ensure!(resolution(&seen) == expected, "{:?}", resolution(&seen));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probed_call_on_embedded_stores() -> anyhow::Result<()> {
    every_answer(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probed_call_on_servers() -> anyhow::Result<()> {
    every_answer(Stores::Servers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_cut_on_embedded_stores() -> anyhow::Result<()> {
    cut_while_asking(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_cut_on_servers() -> anyhow::Result<()> {
    cut_while_asking(Stores::Servers).await
}
