//! The binary, and a runtime of its own for each test.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command as StdCommand, Output, Stdio};
use std::time::Duration;

use mar_testkit::process::{Process, Signal};
use mar_testkit::rehearsal::{Rehearsal, Script};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

/// What a loaded machine may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `mar` without anything of this process's environment that it listens to.
pub fn mar(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mar"));
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("MAR_") || text.starts_with("OPENAI_") || text == "NO_COLOR" {
            command.env_remove(&name);
        }
    }
    command
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub async fn say(mut command: Command) -> Said {
    let Output { status, stdout, stderr } = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

/// A running `mar up`.
pub struct Up {
    pub process: Process,
    pub url: String,
    pub rehearsal: Rehearsal,
    pub folder: TempDir,
}

impl Up {
    /// With the built-in agent for a model and two documents to search.
    pub async fn start() -> Self {
        Self::playing(Script::default()).await
    }

    pub async fn scripted(script: &str) -> Self {
        Self::playing(Script::parse(script).unwrap()).await
    }

    async fn playing(script: Script) -> Self {
        Self::with(script, &[]).await
    }

    pub async fn with(script: Script, more: &[&str]) -> Self {
        let rehearsal = Rehearsal::start(script).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        std::fs::create_dir(&docs).unwrap();
        std::fs::write(docs.join("moon.md"), "# Moon\n\nThe moon is 384,400 km away from the earth.\n").unwrap();
        std::fs::write(docs.join("sun.md"), "# Sun\n\nThe sun is a star.\n").unwrap();
        let (process, url) = serve(folder.path(), &rehearsal.api_url(), "127.0.0.1:0", more).await;
        Self { process, url, rehearsal, folder }
    }

    /// The same runtime again, after it was stopped, at the same address.
    pub async fn restart(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        let (process, url) = serve(self.folder.path(), &self.rehearsal.api_url(), &address, &[]).await;
        assert_eq!(url, self.url);
        self.process = process;
    }

    /// `mar` with this endpoint.
    pub fn mar(&self, args: &[&str]) -> Command {
        let mut command = mar(args);
        command.env("MAR_ENDPOINT", &self.url);
        command
    }

    pub async fn say(&self, args: &[&str]) -> Said {
        say(self.mar(args)).await
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Ends as Ctrl-C does; answers the exit code.
    pub async fn stop(mut self) -> i32 {
        self.process.signal(Signal::Int).unwrap();
        self.process.wait(PATIENCE).await.unwrap().code().unwrap()
    }
}

async fn serve(folder: &Path, model: &str, listen: &str, more: &[&str]) -> (Process, String) {
    let data = folder.join("data");
    let docs = folder.join("docs");
    let (data, docs) = (data.to_str().unwrap(), docs.to_str().unwrap());
    let args = ["up", "--data", data, "--docs", docs, "--model-url", model, "--listen", listen];
    let process = Process::spawn("mar up", mar(&[&args, more].concat())).unwrap();
    let line = process.wait_for_line("mar is up on", PATIENCE).await.unwrap();
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    (process, url)
}

/// `mar` on a terminal of its own, which is what `script` makes; answers all that was shown.
pub fn on_terminal(url: &str, line: &str, variables: &[(&str, &str)]) -> Said {
    answering(url, line, variables, "")
}

/// [`on_terminal`], where somebody has typed.
pub fn answering(url: &str, line: &str, variables: &[(&str, &str)], typed: &str) -> Said {
    let line = format!("{} {line}", env!("CARGO_BIN_EXE_mar"));
    let mut command = StdCommand::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env_remove("NO_COLOR").env("TERM", "xterm").env("MAR_ENDPOINT", url);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.envs(variables.iter().copied());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    Said { code: output.status.code().unwrap_or(-1), out, err: String::new() }
}
