//! An own Redis or Valkey server on a free loopback port, without persistence, gone with its process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::supervisor::{self, Supervised};

pub mod cluster;

/// Numbered databases of a server; [`Redis::database`] hands them out.
const DATABASES: u16 = 4_096;
const PAUSE: Duration = Duration::from_millis(10);
/// Looks at a starting server before it is given up: 10 s.
const LOOKS: u32 = 1_000;
const PATIENCE: Duration = Duration::from_secs(5);

static SHARED: OnceLock<Result<Redis, String>> = OnceLock::new();

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    /// Arguments beyond the usual ones.
    more: Vec<String>,
    next_database: AtomicU16,
    server: Mutex<Option<Supervised>>,
    /// Removes what a supervising shell did not; dropped after the server.
    _home: TempDir,
}

impl Redis {
    /// Starts a server of its own. Blocks, for some milliseconds.
    ///
    /// # Errors
    /// When Redis is not installed (Debian: `redis-server`), or does not start; with the end of its log.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// Like [`Redis::start`], with more arguments for the server, as in `["--maxmemory", "2mb"]`.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_with(more: &[&str]) -> anyhow::Result<Self> {
        let program = supervisor::find("redis-server", &[]);
        let program =
            program.context("redis-server is not to be found: install Redis (Debian package `redis-server`)")?;
        Self::launch(program, more)
    }

    /// Starts a Valkey server of its own, which speaks the same protocol.
    ///
    /// # Errors
    /// When Valkey is not installed (`scripts/install-tools.sh`), or does not start; with the end of its log.
    pub fn start_valkey() -> anyhow::Result<Self> {
        let tools = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/bin"));
        let program = supervisor::find("valkey-server", &[tools]);
        Self::launch(program.context("valkey-server is not to be found: scripts/install-tools.sh installs it")?, &[])
    }

    fn launch(program: PathBuf, more: &[&str]) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("mar-redis-").tempdir().context("cannot make a directory")?;
        let directory = home.path().to_owned();
        let mut redis = Self {
            program,
            directory,
            port: 0,
            more: more.iter().map(|&word| word.to_owned()).collect(),
            next_database: AtomicU16::new(1),
            server: Mutex::new(None),
            _home: home,
        };
        let mut last = None;
        // Another process may take a free port before Redis does.
        for _ in 0..5 {
            redis.port = crate::ports::free()?;
            match redis.resume() {
                Ok(()) => return Ok(redis),
                Err(error) if supervisor::tail(&redis.log()).contains("in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no free port")))
    }

    /// The one server that the tests of this process share; use [`Redis::database`] for keys of one's own.
    ///
    /// # Errors
    /// As [`Redis::start`]; the same error each time.
    pub fn shared() -> anyhow::Result<&'static Self> {
        let shared = SHARED.get_or_init(|| Self::start().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Starts the server again after [`Redis::stop`], empty, on the same port. Does nothing when it runs.
    ///
    /// # Errors
    /// When it does not start; with the end of its log.
    pub fn resume(&self) -> anyhow::Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_some() {
            return Ok(());
        }
        let port = self.port.to_string();
        let databases = DATABASES.to_string();
        let program = self.program.display().to_string();
        let words = [
            &program,
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
            "--databases",
            &databases,
        ];
        drop(std::fs::remove_file(self.log()));
        let started = Supervised::spawn(&supervisor::Job {
            identity: &[],
            command: &words.iter().map(|&word| word.to_owned()).chain(self.more.iter().cloned()).collect::<Vec<_>>(),
            signal: "KILL",
            directory: &self.directory,
            log: &self.log(),
        })
        .context("cannot start redis-server")?;
        if let Err(error) = self.wait_until_ready() {
            started.stop_and_keep();
            return Err(error);
        }
        *server = Some(started);
        Ok(())
    }

    /// Kills the server; its data is lost.
    pub fn stop(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = server.take() {
            running.stop_and_keep();
        }
    }

    /// Kills the server and starts an empty one on the same port.
    ///
    /// # Errors
    /// As [`Redis::resume`].
    pub fn restart(&self) -> anyhow::Result<()> {
        self.stop();
        self.resume()
    }

    /// Removes all keys of all databases.
    ///
    /// # Errors
    /// When the server does not run.
    pub fn flush(&self) -> anyhow::Result<()> {
        let said = self.command("FLUSHALL")?;
        if said == "+OK" { Ok(()) } else { bail!("FLUSHALL: {said}") }
    }

    /// Sends one command in the inline form (no spaces inside an argument); answers the first line of the reply as the
    /// server sends it, as in `+PONG` or `:3`.
    ///
    /// # Errors
    /// When the server does not run or does not answer within five seconds.
    pub fn command(&self, command: &str) -> anyhow::Result<String> {
        Self::line(&mut self.send(command)?)
    }

    /// Like [`Redis::command`]; answers the text of a bulk reply, as of `INFO`.
    ///
    /// # Errors
    /// As [`Redis::command`], and when the reply is another one.
    pub fn text(&self, command: &str) -> anyhow::Result<String> {
        let mut stream = self.send(command)?;
        let line = Self::line(&mut stream)?;
        let length = line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok());
        let mut text = vec![0; length.with_context(|| format!("{command}: {line}"))?];
        stream.read_exact(&mut text).context("redis does not answer")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Processor time that the server has spent, as it says.
    ///
    /// # Errors
    /// As [`Redis::text`].
    pub fn processor(&self) -> anyhow::Result<Duration> {
        let said = self.text("INFO cpu")?;
        let seconds = |name: &str| -> anyhow::Result<f64> {
            let found = said.lines().find_map(|line| line.trim().strip_prefix(name));
            Ok(found.with_context(|| format!("no {name} in {said}"))?.parse()?)
        };
        Ok(Duration::from_secs_f64(seconds("used_cpu_sys:")? + seconds("used_cpu_user:")?))
    }

    fn send(&self, command: &str) -> anyhow::Result<TcpStream> {
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("redis does not run")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(command.as_bytes())?;
        stream.write_all(b"\r\n")?;
        Ok(stream)
    }

    fn line(stream: &mut TcpStream) -> anyhow::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            stream.read_exact(&mut byte).context("redis does not answer")?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Database 0, as in `redis://127.0.0.1:6379/0`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(0)
    }

    /// The URL of a numbered database, 0 to 4,095.
    #[must_use]
    pub fn url_of(&self, database: u16) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a database that nobody else was given.
    ///
    /// # Errors
    /// When all 4,095 are given out.
    pub fn database(&self) -> anyhow::Result<String> {
        let number = self.next_database.fetch_add(1, Ordering::Relaxed);
        if number >= DATABASES {
            bail!("all {DATABASES} Redis databases are given out");
        }
        Ok(self.url_of(number))
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        for _ in 0..LOOKS {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            // Before its own log says so, whoever answers on the port may be someone else.
            if log.contains("eady to accept connections") && self.command("PING").is_ok_and(|said| said == "+PONG") {
                return Ok(());
            }
            if log.contains("in use") || log.contains("FATAL") {
                bail!("redis does not start:\n{}", supervisor::tail(&self.log()));
            }
            thread::sleep(PAUSE);
        }
        bail!("redis is not ready after 10 s:\n{}", supervisor::tail(&self.log()))
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }
}
