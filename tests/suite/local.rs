//! `deploy/local/up.sh`, as somebody who tries the four processes uses it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_testkit::process::{Process, Signal, built_binary};
use mar_testkit::rehearsal::{Rehearsal, Script};
use mar_testkit::{ports, wait};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

/// How long servers of its own and four processes may take on a loaded machine.
const START: Duration = Duration::from_secs(60);
/// Longer than the script gives each part.
const STOP: Duration = Duration::from_secs(30);
const QUESTION: &str = "What is a halting policy?";
/// Where no server is.
const NOBODY: &str = "http://127.0.0.1:1/v1";

/// What one start of the script is given: all of it differs from what a user of this machine may have running.
struct Local<'a> {
    folder: &'a Path,
    ports: &'a [u16],
    model: String,
}

impl Local<'_> {
    fn url(&self, service: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[service])
    }

    /// The script on these ports, with the programs that the tests use.
    fn up(&self) -> anyhow::Result<Process> {
        let bin = built_binary("mar")?;
        let target = bin.parent().and_then(Path::parent).context("no target folder")?;
        let mut command = Command::new(root().join("deploy/local/up.sh"));
        command.arg("--no-build").stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MAR_")) {
            command.env_remove(name);
        }
        command.env("CARGO_TARGET_DIR", target).env("MAR_LOCAL_DIR", self.folder);
        command.env("MAR_ROUTER__PROVIDERS__REHEARSAL__BASE_URL", &self.model);
        // Who tries the tests may have a key, and a model on the usual port.
        command.env_remove("OPENAI_API_KEY").env("MAR_ROUTER__PROVIDERS__LOCAL__BASE_URL", NOBODY);
        for (service, name) in ["SESSION", "ROUTER", "AGENT_GENERATOR", "TOOL_GATEWAY"].into_iter().enumerate() {
            command.env(format!("MAR_{name}__LISTEN"), format!("127.0.0.1:{}", self.ports[service]));
            command.env(format!("MAR_RUNTIME__PEERS__{name}"), self.url(service));
        }
        Process::spawn("deploy/local/up.sh", command)
    }

    /// What `mar … --json` answers.
    async fn mar(&self, service: usize, args: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(built_binary("mar")?);
        command.args(args).args(["--json", "--endpoint", &self.url(service)]).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "mar {args:?}: {} {said}", output.status);
        Ok(serde_json::from_str(&said)?)
    }

    /// Does `what` while the script runs, and stops it in any case, by its own pid.
    /// It is handed what the script said at its start.
    async fn during<T>(&self, what: impl AsyncFnOnce(Vec<String>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut script = self.up()?;
        let ready = script.wait_for_line("Ctrl-C stops all four", START).await;
        let done = match ready {
            Ok(_) => what(script.log()).await,
            Err(error) => Err(error),
        };
        let log = script.log().join("\n");
        // Where the script has ended by itself, `wait` tells with what.
        let _ = script.signal(Signal::Term);
        let status = script.wait(STOP).await?;
        let done = done.with_context(|| log.clone())?;
        ensure!(status.success(), "ended with {status}:\n{log}");
        for port in self.ports {
            let address = SocketAddr::from(([127, 0, 0, 1], *port));
            ensure!(TcpStream::connect(address).await.is_err(), "{address} still answers");
        }
        ensure!(!self.folder.join("stores/urls").exists(), "the stores are stopped and still named");
        Ok(done)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_and_their_stores_start_run_stop_and_start_again() -> anyhow::Result<()> {
    let rehearsal = Rehearsal::start(Script::default()).await?;
    let folder = tempfile::tempdir()?;
    // The user postgres has to reach its data, else they would not outlast the first stop.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let ports = ports::free_many(4)?;
    let local = Local { folder: folder.path(), ports: &ports, model: rehearsal.api_url() };

    let run = local
        .during(async |said| {
            let offered = || async {
                let listed = local.mar(3, &["tools", "list", "docs.*"]).await;
                listed.is_ok_and(|listed| listed["tools"].as_array().is_some_and(|tools| !tools.is_empty()))
            };
            wait::until(START, offered).await?;
            let line = said.iter().find_map(|line| line.strip_prefix("Try:  ")).context("nothing to try")?;
            ensure!(line.contains(QUESTION) && line.ends_with("--model rehearsal"), "what answers is named: {line}");
            let output =
                Command::new("bash").args(["-c", &format!("{line} --json")]).stdin(Stdio::null()).output().await?;
            ensure!(output.status.success(), "what is to be tried fails: {output:?}");
            let run: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(run["state"] == "SUCCEEDED" && run["seal"]["hash"].is_string(), "{run:#}");
            ensure!(run["answer"]["citations"].as_array().is_some_and(|cited| !cited.is_empty()), "{run:#}");
            Ok(run)
        })
        .await?;

    // Other servers on other ports, the same data; and no model any more.
    rehearsal.shutdown().await;
    let name = run["run"].as_str().context("a run without a name")?;
    let again = async |said: Vec<String>| {
        for part in ["No model answers yet", "OPENAI_API_KEY=", "scripts/serve-model.sh large 8080", "mar rehearse"] {
            ensure!(said.iter().any(|line| line.contains(part)), "{part} in {said:?}");
        }
        ensure!(!said.iter().any(|line| line.starts_with("Try:")), "it would fail: {said:?}");
        local.mar(0, &["runs", "show", name]).await
    };
    let shown = local.during(again).await?;
    assert_eq!((&shown["seal"], &shown["answer"]), (&run["seal"], &run["answer"]));
    Ok(())
}

#[tokio::test]
async fn a_wrong_option_starts_nothing() -> anyhow::Result<()> {
    let output = Command::new(root().join("deploy/local/up.sh")).arg("--relase").output().await?;
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: deploy/local/up.sh"));
    Ok(())
}
