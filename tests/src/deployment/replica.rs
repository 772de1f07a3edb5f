//! Further replicas of session.

use std::net::SocketAddr;
use std::path::PathBuf;

use mar_testkit::process::Process;
use tokio::process::Command;

use super::START;
use crate::client::Client;

/// Another replica of session. Dropping it ends its process.
pub struct Replica {
    /// Its process.
    pub process: Process,
    /// Its URL.
    pub endpoint: String,
}

impl Replica {
    /// A client of it.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.endpoint.clone()).await
    }
}

/// Starts replicas of session beside a deployment of processes of their own on servers.
#[derive(Debug, Clone)]
pub struct Launcher {
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    pub(super) folder: PathBuf,
}

impl Launcher {
    /// A replica at this port, with these arguments and this environment.
    ///
    /// # Errors
    /// It does not serve.
    pub async fn start(&self, port: u16, args: &[String], env: &[(&'static str, String)]) -> anyhow::Result<Replica> {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config).current_dir(&self.folder).args(args);
        command.env("MAR_SESSION__LISTEN", format!("127.0.0.1:{port}"));
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let mut process = Process::spawn("session", command)?;
        process.wait_for_port(SocketAddr::from(([127, 0, 0, 1], port)), START).await?;
        Ok(Replica { process, endpoint: format!("http://127.0.0.1:{port}") })
    }
}
