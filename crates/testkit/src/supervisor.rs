//! A server process that cannot outlive its test process, however that ends.
//!
//! A small shell runs the server and reads from a pipe whose other end only this process holds. When this process is
//! gone, killed ones included, the pipe closes, and the shell stops the server and removes its directory.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SUPERVISE: &str = r#"
signal=$1 remove=$2 log=$3; shift 3
"$@" < /dev/null >> "$log" 2>&1 &
child=$!
read -r word || word=gone
kill -s "$signal" "$child" 2> /dev/null
wait "$child" 2> /dev/null
[ "$word" = keep ] || rm -rf "$remove"
"#;

/// What is run, and how it is stopped.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// Command words before the shell: another user's identity, or nothing.
    pub(crate) identity: &'a [String],
    /// The server and its arguments.
    pub(crate) command: &'a [String],
    /// The signal that stops the server, as `kill -s` takes it.
    pub(crate) signal: &'a str,
    /// Removed when the server's owner goes away; also the working directory.
    pub(crate) directory: &'a Path,
    pub(crate) log: &'a Path,
}

/// A supervised server. Dropping it stops the server and removes its directory.
#[derive(Debug)]
pub(crate) struct Supervised {
    shell: Child,
}

impl Supervised {
    pub(crate) fn spawn(job: &Job<'_>) -> io::Result<Self> {
        let shell = ["sh", "-c", SUPERVISE, "sh", job.signal].map(str::to_owned);
        let paths = [job.directory, job.log].map(|path| path.display().to_string());
        let mut words = job.identity.iter().chain(&shell).chain(&paths).chain(job.command);
        let program = words.next().ok_or_else(|| io::Error::other("nothing to run"))?;
        let shell = Command::new(program)
            .args(words)
            .current_dir(job.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal reaches the server through its owner's end, in order.
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// Stops the server and keeps its directory.
    pub(crate) fn stop_and_keep(mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            // A shell that is gone cannot be told, and need not be.
            drop(pipe.write_all(b"keep\n"));
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        if let Err(error) = self.shell.wait() {
            tracing::warn!(%error, "supervising shell is not to be waited for");
        }
    }
}

/// Sends a signal to a process by its id.
pub(crate) fn signal(pid: u32, name: &str) -> io::Result<()> {
    let status =
        Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\" 2> /dev/null", "sh", name, &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("process {pid} does not take SIG{name}"))) }
}

/// The last lines of a log, for an error text.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Finds a program on `PATH`, then in `more` places.
pub(crate) fn find(program: &str, more: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut folders = more.iter().cloned().chain(std::env::split_paths(&path)).chain(usual);
    folders.find_map(|folder| Some(folder.join(program)).filter(|file| file.is_file()))
}
