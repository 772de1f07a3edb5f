//! The system that dies: its tools, its model, and what the tools remember.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use mar_proto::session::Task;
use mar_proto::types::HaltingPolicy;
use mar_testkit::process::built_binary;
use mar_tests::caller::Caller;
use mar_tests::oracle::Scars;
use mar_tests::{Deployment, Options, Shape, Stores, task};

/// Upstream whose calls are declared idempotent.
pub const SURE: &str = "sure";
/// Upstream whose calls are not.
pub const ONCE: &str = "once";
/// Steps that a run may take: those of a medley and no more, so that one that is counted twice halts the run.
pub const MAX_STEPS: i64 = 2;
/// Tool calls that a run may make, as with steps.
pub const MAX_TOOL_CALLS: i64 = 3;

/// What the model does: it calls the tools that the question names, then answers in many small pieces.
const SCRIPT: &str = r#"
[defaults]
chunk_size = 8
chunk_delay = "{pace}"
[[rule]]
match = { last_role = "tool" }
reply = { text = "All tools have been asked, and this is what they had to say about it." }
[[rule]]
match = { contains = "linger" }
reply = { hang = true }
[[rule]]
match = { contains = "window" }
reply = { tool_calls = [{ name = "caller_look", arguments = {} }] }
[[rule]]
match = { contains = "medley" }
reply = { tool_calls = [
  { name = "docs_search", arguments = { query = "harbour of Marel" } },
  { name = "sure_count", arguments = {} },
  { name = "once_count", arguments = {} },
] }
[[rule]]
match = { contains = "search" }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour of Marel" } }] }
[[rule]]
match = { contains = "sure" }
reply = { tool_calls = [{ name = "sure_count", arguments = {} }] }
[[rule]]
match = { contains = "once" }
reply = { tool_calls = [{ name = "once_count", arguments = {} }] }
"#;

/// A running system with three upstreams.
pub struct Scene {
    /// The system.
    pub system: Deployment,
}

impl Scene {
    /// One process on embedded stores, or four on servers. `pace` lies between two chunks of the model.
    pub async fn start(stores: Stores, pace: &str) -> anyhow::Result<Self> {
        let shape = match stores {
            Stores::Embedded => Shape::One,
            Stores::Servers => Shape::Four,
        };
        let options = Options::new(shape, stores).script(SCRIPT.replace("{pace}", pace)).extra(upstreams()?);
        let system = Deployment::start(options).await?;
        let scene = Self { system };
        scene.caller().await?.wait_for_tools().await?;
        Ok(scene)
    }

    /// A caller.
    pub async fn caller(&self) -> anyhow::Result<Caller> {
        Ok(Caller { client: self.system.client().await?, gateway: self.system.endpoint(3) })
    }

    /// Ends the process that hosts session as `kill -9` does, and starts it again to die at `wish`.
    pub async fn arm(&mut self, wish: &str) -> anyhow::Result<()> {
        self.system.kill(0).await?;
        self.system.restart_with(0, vec![("MAR_CRASH_AT", wish.to_owned())]).await?;
        self.caller().await?.wait_for_tools().await
    }

    /// Waits until session has died by itself, and starts it again to die at `wish`.
    pub async fn rearm(&mut self, wish: &str) -> anyhow::Result<()> {
        self.system.wait_for_crash().await?;
        self.system.restart_with(0, vec![("MAR_CRASH_AT", wish.to_owned())]).await
    }

    /// How often an upstream was called with each key.
    pub fn journal(&self, upstream: &str) -> anyhow::Result<BTreeMap<String, usize>> {
        let text = std::fs::read_to_string(self.system.folder().join(upstream).join("journal"))
            .with_context(|| format!("{upstream} has no journal"))?;
        let mut calls = BTreeMap::new();
        for line in text.lines() {
            if let Some((key, _)) = line.strip_prefix("count ").and_then(|rest| rest.split_once(' ')) {
                *calls.entry(key.to_owned()).or_default() += 1;
            }
        }
        Ok(calls)
    }

    /// The tools and the model remember of a run with this mark what its log allows.
    pub fn judge(&self, scars: &Scars, mark: &str) -> anyhow::Result<()> {
        self.calls_hold(SURE, scars)?;
        self.calls_hold(ONCE, scars)?;
        let heard = self.heard(mark);
        ensure!(heard.len() <= scars.generations, "{} requests for {} generations", heard.len(), scars.generations);
        let told = heard.last().is_some_and(|conversation| conversation.contains("OUTCOME_UNKNOWN"));
        ensure!(told == (scars.unknown > 0), "the model was told {told}, unknown are {}", scars.unknown);
        Ok(())
    }

    /// An upstream was called at most as often as the log intends: once with each key where it is not idempotent.
    pub fn calls_hold(&self, upstream: &str, scars: &Scars) -> anyhow::Result<()> {
        let journal = self.journal(upstream)?;
        let tool = format!("tools/{upstream}.count");
        for ((name, key), issued) in &scars.keys {
            let called = journal.get(key).copied().unwrap_or(0);
            if *name == tool {
                ensure!(called <= *issued, "{upstream} was called {called} times with {key}, intended {issued}");
                ensure!(upstream != ONCE || called <= 1, "{upstream} was called {called} times with {key}");
            } else {
                ensure!(called == 0, "{upstream} was called with a key of {name}");
            }
        }
        Ok(())
    }

    /// The conversations that the model was given for questions with this mark.
    pub fn heard(&self, mark: &str) -> Vec<String> {
        let requests = self.system.rehearsal.requests();
        let bodies = requests.iter().map(|request| request.body["messages"].to_string());
        bodies.filter(|body| body.contains(mark)).collect()
    }

    /// The last lines of the process that hosts session.
    pub fn tail(&self) -> String {
        let log = self.system.log();
        log[log.len().saturating_sub(40)..].join("\n")
    }
}

fn upstreams() -> anyhow::Result<String> {
    let program = built_binary("examples/scripted_mcp")?;
    let mut text = String::new();
    for (name, idempotent) in [(SURE, true), (ONCE, false)] {
        let program = program.display();
        text.push_str(&format!(
            r#"
[tool_gateway.upstreams.{name}]
kind = "mcp_stdio"
command = "sh"
args = ["-c", "mkdir -p {{folder}}/{name} && exec {program} stdio {{folder}}/{name}"]
trust_tier = "ALIGNED"
trusted = true
idempotent = {idempotent}
restart = {{ min = "50ms", max = "1s" }}
"#
        ));
    }
    Ok(text)
}

/// A question that names its tools and carries a mark of its own.
pub fn ask(tools: &str, mark: &str) -> Task {
    ask_within(tools, mark, MAX_STEPS, MAX_TOOL_CALLS)
}

/// The same under other limits.
pub fn ask_within(tools: &str, mark: &str, steps: i64, calls: i64) -> Task {
    let limits = HaltingPolicy { max_steps: Some(steps), max_tool_calls: Some(calls), ..HaltingPolicy::default() };
    let question = task::question(&format!("Do the {tools} for me, please. Mark: {mark}."));
    let tools = task::selectors(&["docs.search", "sure.count", "once.count"]);
    task::limited(Task { tools, ..question }, limits)
}
