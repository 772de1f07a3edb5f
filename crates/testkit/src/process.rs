//! Child binaries with captured output, stopped by their own pid.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::supervisor;

/// How long the last output of a process that has ended is waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A signal for a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks to end.
    Term,
    /// Asks to end, as Ctrl-C does.
    Int,
    /// Ends at once.
    Kill,
    /// Freezes, for a peer that hangs.
    Stop,
    /// Goes on after [`Signal::Stop`].
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    lines: watch::Receiver<usize>,
    readers: JoinSet<()>,
}

impl Process {
    /// Starts `command` with its standard output and error captured line by line. Standard input is empty unless the
    /// command says otherwise.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(name: impl Into<String>, mut command: Command) -> anyhow::Result<Self> {
        let name = name.into();
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let (counted, lines) = watch::channel(0);
        let counted = Arc::new(counted);
        let mut readers = JoinSet::new();
        if let Some(output) = child.stdout.take() {
            readers.spawn(capture(output, Arc::clone(&log), Arc::clone(&counted)));
        }
        if let Some(errors) = child.stderr.take() {
            readers.spawn(capture(errors, Arc::clone(&log), counted));
        }
        Ok(Self { name, child, log, lines, readers })
    }

    /// The process id; none once its end was seen by [`Process::wait`].
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// All lines so far, of standard output and error as they came.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line that contains `part`, earlier lines included; answers it.
    ///
    /// # Errors
    /// When the output ends or the time is over before; with the last lines.
    pub async fn wait_for_line(&self, part: &str, within: Duration) -> anyhow::Result<String> {
        let mut lines = self.lines.clone();
        let mut seen = 0;
        let waiting = async {
            loop {
                let count = *lines.borrow_and_update();
                let found = {
                    let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                    log[seen..].iter().find(|line| line.contains(part)).cloned()
                };
                if let Some(line) = found {
                    return Some(line);
                }
                seen = count;
                if lines.changed().await.is_err() && *lines.borrow() == count {
                    return None;
                }
            }
        };
        match tokio::time::timeout(within, waiting).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => bail!("{} ended its output without `{part}`:\n{}", self.name, self.tail()),
            Err(_) => bail!("{} has not said `{part}` within {within:?}:\n{}", self.name, self.tail()),
        }
    }

    /// Waits until something accepts connections at `address`.
    ///
    /// # Errors
    /// When the child ends or the time is over before; with the last lines.
    pub async fn wait_for_port(&mut self, address: SocketAddr, within: Duration) -> anyhow::Result<()> {
        let waiting = async {
            loop {
                if TcpStream::connect(address).await.is_ok() {
                    return Ok(());
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!("{} ended with {status} and no listener:\n{}", self.name, self.tail());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(within, waiting).await {
            Ok(done) => done,
            Err(_) => bail!("{} does not listen on {address} within {within:?}:\n{}", self.name, self.tail()),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the child has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().with_context(|| format!("{} has ended", self.name))?;
        supervisor::signal(pid, signal.name()).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for the child's end.
    ///
    /// # Errors
    /// When it has not ended in time; it goes on running then.
    pub async fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => {
                // What it wrote last may still be on its way; a child of its own may hold the pipe open for ever.
                let read = async { while self.readers.join_next().await.is_some() {} };
                let _ = tokio::time::timeout(LAST_WORDS, read).await;
                Ok(status?)
            }
            Err(_) => bail!("{} has not ended within {within:?}:\n{}", self.name, self.tail()),
        }
    }

    /// Kills the child with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    fn tail(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log[log.len().saturating_sub(20)..].join("\n")
    }
}

async fn capture(output: impl AsyncRead + Unpin, log: Arc<Mutex<Vec<String>>>, counted: Arc<watch::Sender<usize>>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        let count = {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(text);
            log.len()
        };
        counted.send_replace(count);
    }
}

/// A binary of this workspace that cargo has built into the target directory of the running test.
///
/// # Errors
/// When it is not there, with the command that builds it.
pub fn built_binary(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("the running program has no path")?;
    let mut folders = test.ancestors().skip(1).take(2);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()));
    found.with_context(|| format!("{name} is not beside {}: run `cargo build --bin {name}`", test.display()))
}
