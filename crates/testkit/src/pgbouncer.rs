//! A pgbouncer of one's own in transaction mode, on a free loopback port, gone with its process.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::postgres::{Account, Postgres};
use crate::supervisor::{self, Supervised};

const PAUSE: Duration = Duration::from_millis(20);
/// Looks at a starting server before it is given up: 10 s.
const LOOKS: u32 = 500;
/// Server connections for each database and user: few, so that clients really share them.
const POOL: u32 = 4;

/// A running pgbouncer. Dropping it stops and removes it.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    postgres_port: u16,
    _server: Supervised,
    /// Removes what a supervising shell did not; dropped after the server.
    _home: TempDir,
}

impl PgBouncer {
    /// Whether the program is there.
    #[must_use]
    pub fn is_installed() -> bool {
        program().is_some()
    }

    /// Starts one in front of a Postgres; each transaction may get another connection. Whoever connects is `login` on the
    /// other side.
    ///
    /// # Errors
    /// When pgbouncer is not installed (Debian: `pgbouncer`), or does not start; with the end of its log.
    pub fn start(postgres: &Postgres, login: &str) -> anyhow::Result<Self> {
        let program = program().context("pgbouncer is not to be found (Debian package `pgbouncer`)")?;
        let account = Account::find()?;
        let mut last = None;
        for _ in 0..5 {
            let home =
                tempfile::Builder::new().prefix("mar-pgbouncer-").tempdir().context("cannot make a directory")?;
            account.own(home.path())?;
            let port = crate::ports::free()?;
            let ini = home.path().join("pgbouncer.ini");
            fs::write(&ini, settings(postgres.port(), port, login))?;
            let log = home.path().join("log");
            let started = Supervised::spawn(&supervisor::Job {
                identity: account.words(),
                command: &[program.display().to_string(), ini.display().to_string()],
                // Its immediate shutdown.
                signal: "TERM",
                directory: home.path(),
                log: &log,
            })
            .context("cannot start pgbouncer")?;
            match wait_until_ready(port, &log) {
                Ok(()) => return Ok(Self { port, postgres_port: postgres.port(), _server: started, _home: home }),
                // Another process may take a free port first.
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no free port")))
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A URL of the Postgres behind it, with this pooler's port.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        url.replace(&format!(":{}", self.postgres_port), &format!(":{}", self.port))
    }
}

fn program() -> Option<PathBuf> {
    supervisor::find("pgbouncer", &[])
}

fn settings(postgres_port: u16, port: u16, login: &str) -> String {
    format!(
        "[databases]\n\
         * = host=127.0.0.1 port={postgres_port} user={login}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = transaction\n\
         max_client_conn = 500\n\
         default_pool_size = {POOL}\n"
    )
}

fn wait_until_ready(port: u16, log: &Path) -> anyhow::Result<()> {
    for _ in 0..LOOKS {
        let said = fs::read_to_string(log).unwrap_or_default();
        // Before its own log says so, whoever answers on the port may be someone else.
        if said.contains("process up") && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(());
        }
        if said.contains("FATAL") || said.contains("cannot listen") {
            bail!("pgbouncer does not start:\n{}", supervisor::tail(log));
        }
        thread::sleep(PAUSE);
    }
    bail!("pgbouncer is not ready after 10 s:\n{}", supervisor::tail(log))
}
