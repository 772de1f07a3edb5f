//! An own Postgres cluster on a free loopback port, gone with its process.

mod cluster;
mod database;
pub mod standby;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use self::cluster::Binaries;
use self::database::Psql;

pub(crate) use self::cluster::Account;
pub use self::database::Database;
use crate::supervisor::{self, Supervised};

static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();

/// What is wanted of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    durable: bool,
    version: Option<u32>,
    settings: Vec<(String, String)>,
}

impl Builder {
    /// Writes to disk before a commit returns, as in production. Without it `fsync` and `full_page_writes` are off: what is
    /// committed survives a killed server, not a killed machine.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// A major version, instead of the newest of the system's: see [`Postgres::has_version`].
    #[must_use]
    pub const fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }

    /// A server setting, as in `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Creates the cluster and starts it. Blocks, for a second or two.
    ///
    /// # Errors
    /// When Postgres is not installed (Debian: `postgresql`), or does not start; with the end of its log.
    pub fn start(self) -> anyhow::Result<Postgres> {
        Postgres::create(&self)
    }
}

/// A running cluster with trust authentication for the user `postgres`. Dropping it stops and removes it.
#[derive(Debug)]
pub struct Postgres {
    binaries: Binaries,
    account: Account,
    directory: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    server: Mutex<Option<Supervised>>,
    /// Removes what a supervising shell did not; dropped after the server.
    _home: TempDir,
}

impl Postgres {
    /// Starts a cluster without durability, for tests.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start() -> anyhow::Result<Self> {
        Self::builder().start()
    }

    /// Whether a major version is installed: by Debian, or under `.tools/postgres-N` by `scripts/install-tools.sh`.
    #[must_use]
    pub fn has_version(version: u32) -> bool {
        Binaries::of_version(version).is_ok()
    }

    /// Starts to describe a cluster.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The one cluster that the tests of this process share; use [`Postgres::database`] for a database of one's own.
    ///
    /// # Errors
    /// As [`Builder::start`]; the same error each time.
    pub fn shared() -> anyhow::Result<&'static Self> {
        let shared = SHARED.get_or_init(|| Self::start().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn create(wanted: &Builder) -> anyhow::Result<Self> {
        let binaries = match wanted.version {
            Some(version) => Binaries::of_version(version)?,
            None => Binaries::find()?,
        };
        let account = Account::find()?;
        let home = tempfile::Builder::new().prefix("mar-postgres-").tempdir().context("cannot make a directory")?;
        account.own(home.path())?;
        cluster::init(&binaries, &account, home.path())?;
        let mut settings = cluster::settings(wanted.durable);
        settings.extend(wanted.settings.iter().cloned());
        let mut postgres = Self {
            binaries,
            account,
            directory: home.path().to_owned(),
            port: 0,
            settings,
            server: Mutex::new(None),
            _home: home,
        };
        postgres.start_on_some_port()?;
        Ok(postgres)
    }

    /// Another process may take a free port before Postgres does.
    fn start_on_some_port(&mut self) -> anyhow::Result<()> {
        let mut last = None;
        for _ in 0..5 {
            self.port = crate::ports::free()?;
            match self.resume() {
                Ok(()) => return Ok(()),
                Err(error) if supervisor::tail(&self.log()).contains("could not bind") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no free port")))
    }

    /// Starts the server again after [`Postgres::stop`] or [`Postgres::crash`], on the same port with the same data. Does
    /// nothing when it runs.
    ///
    /// # Errors
    /// When it does not start; with the end of its log.
    pub fn resume(&self) -> anyhow::Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_some() {
            return Ok(());
        }
        let command = cluster::command(&self.binaries, &self.data(), self.port, &self.settings);
        let job = supervisor::Job {
            identity: self.account.words(),
            command: &command,
            // Postgres's immediate shutdown.
            signal: "QUIT",
            directory: &self.directory,
            log: &self.log(),
        };
        drop(std::fs::remove_file(self.log()));
        let started = Supervised::spawn(&job).context("cannot start postgres")?;
        if let Err(error) = cluster::wait_until_ready(&self.data(), &self.log()) {
            started.stop_and_keep();
            return Err(error);
        }
        *server = Some(started);
        Ok(())
    }

    /// Stops the server at once, as a lost server; the data stays.
    pub fn stop(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = server.take() {
            running.stop_and_keep();
        }
    }

    /// Kills the server's main process with SIGKILL; the data stays.
    ///
    /// # Errors
    /// When it does not run.
    pub fn crash(&self) -> anyhow::Result<()> {
        supervisor::signal(self.pid()?, "KILL")?;
        self.stop();
        Ok(())
    }

    /// The server's main process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        cluster::pid(&self.data()).context("postgres does not run")
    }

    /// The database `postgres`, as in `postgres://postgres@127.0.0.1:5432/postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        self.psql().url()
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates an empty database with a name of its own.
    ///
    /// # Errors
    /// When the server does not run or refuses.
    pub fn database(&self) -> anyhow::Result<Database> {
        Database::create(self.psql())
    }

    /// Runs SQL with `psql` in the database `postgres`; answers its unaligned output.
    ///
    /// # Errors
    /// When the server does not run or refuses.
    pub fn execute(&self, sql: &str) -> anyhow::Result<String> {
        self.psql().execute(sql)
    }

    fn psql(&self) -> Psql {
        Psql { program: self.binaries.path("psql"), port: self.port }
    }

    /// Where `psql`, `pgbench` and the others of this version are.
    #[must_use]
    pub fn binaries(&self) -> &Path {
        self.binaries.folder()
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }
}
