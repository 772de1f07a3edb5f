//! Engines for durable steps that people use today, with the same number of workflows and of commits at a time. Their steps
//! do nothing: no counters, no chain of hashes, no decision.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use mar_testkit::postgres::Postgres;

/// An engine and its durable steps per second.
pub struct Peer {
    pub name: &'static str,
    /// Workflows at a time.
    pub width: usize,
    pub rate: f64,
}

/// What a peer is to do.
#[derive(Clone, Copy)]
pub struct Job {
    /// Workflows at a time.
    pub workflows: usize,
    /// Durable steps of each.
    pub steps: i64,
    /// How often.
    pub rounds: usize,
}

impl Job {
    fn arguments(self) -> [String; 3] {
        [self.workflows.to_string(), self.steps.to_string(), self.rounds.to_string()]
    }
}

/// Restate with its own log, and DBOS on the same Postgres; `installed` is where `scripts/bench.sh` has put them.
pub fn measure(installed: &Path, postgres: &Postgres, job: Job) -> anyhow::Result<Vec<Peer>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers");
    let url = postgres.database()?.to_string();
    let mut dbos = Command::new(installed.join("python/bin/python"));
    dbos.arg(here.join("dbos_steps.py")).arg(url).args(job.arguments());

    let state = tempfile::tempdir()?;
    // Beside its modules: the language looks for them from the script on.
    let script = installed.join("restate_steps.mjs");
    std::fs::copy(here.join("restate_steps.mjs"), &script)?;
    let mut restate = Command::new("node");
    restate.arg(script).arg(installed.join("node_modules/.bin/restate-server")).arg(state.path());
    restate.args(job.arguments()).env("RESTATE_LOGGING", "ERROR");
    let peer = |name, command| anyhow::Ok(Peer { name, width: job.workflows, rate: rate(command)? });
    Ok(vec![peer("Restate", restate)?, peer("DBOS", dbos)?])
}

/// A peer's script ends with its steps and the seconds that they took.
fn rate(mut command: Command) -> anyhow::Result<f64> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().context("a peer says nothing")?;
    let (steps, seconds) = last.split_once(' ').with_context(|| format!("not two numbers: {last}"))?;
    Ok(steps.parse::<f64>()? / seconds.parse::<f64>()?)
}
