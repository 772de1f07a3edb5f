//! A child process in a process group of its own, which ends with whoever holds it.

use std::process::Stdio;
use std::time::Duration;

use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop, ProcessGroup};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};

use crate::config::UpstreamConfig;
use crate::upstream::ConnectError;

/// How long a child may take to end by itself when its input ends.
const GRACE: Duration = Duration::from_secs(2);
/// What a child sees of the gateway's own environment.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];
/// The longest piece of a child's standard error that is logged as one line, in bytes.
const MAX_LOG_LINE: usize = 1_024;
/// Lines of a child's standard error that are logged; the rest is read and dropped.
const MAX_LOG_LINES: usize = 2_000;

/// A running child. Dropping it kills its whole group.
#[derive(Debug)]
pub(super) struct Process {
    child: Box<dyn ChildWrapper>,
}

/// A child's streams.
pub(super) struct Streams {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

impl Process {
    pub(super) fn spawn(config: &UpstreamConfig) -> Result<(Self, Streams), ConnectError> {
        let mut command = CommandWrap::from(command(config)?);
        command.wrap(ProcessGroup::leader()).wrap(KillOnDrop);
        let child = command.spawn().map_err(|error| ConnectError::new("the server cannot be started", error))?;
        let mut process = Self { child };
        let streams = (process.child.stdin().take(), process.child.stdout().take(), process.child.stderr().take());
        let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
            return Err(ConnectError::bare("the server has no streams"));
        };
        Ok((process, Streams { stdin, stdout, stderr }))
    }

    /// Waits a little for a child whose input has ended, then kills what is left of its group.
    #[expect(clippy::disallowed_methods, reason = "an adapter of real processes waits in real time")]
    pub(super) async fn end(&mut self) {
        let _ = tokio::time::timeout(GRACE, self.child.wait()).await;
        self.kill();
        let _ = tokio::time::timeout(GRACE, self.child.wait()).await;
    }

    fn kill(&mut self) {
        // It fails when no process of the group is left.
        let _ = self.child.start_kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command(config: &UpstreamConfig) -> Result<Command, ConnectError> {
    let mut command = Command::new(config.command.as_deref().unwrap_or_default());
    command.args(&config.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear();
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for (name, value) in &config.env {
        let value = value.resolve().map_err(|error| ConnectError::new("a secret cannot be read", error))?;
        command.env(name, value.expose_secret());
    }
    if let Some(folder) = &config.cwd {
        command.current_dir(folder);
    }
    Ok(command)
}

/// Logs what a child writes to its standard error, at debug and bounded, and goes on reading so that it never blocks.
pub(super) async fn log(stderr: impl AsyncRead + Unpin, upstream: String) {
    let mut from = BufReader::new(stderr);
    let mut line: Vec<u8> = Vec::with_capacity(MAX_LOG_LINE);
    let mut lines = 0;
    let mut buffer = [0; 4096];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        for byte in &buffer[..count] {
            if *byte != b'\n' && line.len() < MAX_LOG_LINE {
                line.push(*byte);
            } else if *byte == b'\n' {
                if lines < MAX_LOG_LINES {
                    tracing::debug!(upstream.name = %upstream, line = %String::from_utf8_lossy(&line), "server says");
                }
                lines += 1;
                line.clear();
            }
        }
    }
}
