//! What the four binaries share: arguments, configuration, telemetry, the listener, signals and exit codes.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done, or stopped by a signal after draining |
//! | 64 | the arguments or the configuration are wrong; nothing was bound |
//! | 69 | something that is needed is not available: an address in use, a store that cannot be reached |
//! | 70 | a fault of the program |

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Loaded, RuntimeConfig, ServiceConfig, Sources};
use crate::status::chain;
use crate::{peer, server, telemetry};

/// The arguments of a service.
#[derive(Clone, Debug, Default, Parser)]
#[command(about = "A service of mcp-agent-runtime, configured by its table of one TOML file", long_about = None)]
pub struct ServiceArgs {
    /// The TOML file with the tables of all services
    #[arg(long, env = "MAR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrides one key, such as session.store.url=…; may be repeated
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    pub set: Vec<String>,
    /// The address to serve on, instead of the configured one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Says what is wrong with the configuration and exits
    #[arg(long)]
    pub check_config: bool,
    /// Prints the effective configuration without secrets and exits
    #[arg(long)]
    pub dump_config: bool,
}

impl ServiceArgs {
    /// Where the configuration of the service with this table comes from, the process's environment included.
    pub fn sources(&self, table: &str) -> Sources {
        let mut set = self.set.clone();
        set.extend(self.listen.map(|listen| format!("{table}.listen=\"{listen}\"")));
        Sources { file: self.config.clone(), env: Vec::new(), set }.with_process_env()
    }
}

/// Why a process ends early. Each has its exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong: 64.
    #[error("the configuration is wrong")]
    Config(Vec<String>),
    /// Something that is needed is not available: 69.
    #[error("{what} is not available")]
    Unavailable {
        /// What is needed, such as `the session store`.
        what: String,
        /// Why it is not there.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A fault of the program: 70.
    #[error("a fault of the program")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// Something needed is not there.
    pub fn unavailable(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { what: what.into(), source: source.into() }
    }

    /// A fault of the program.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(_) => 64,
            Self::Unavailable { .. } => 69,
            Self::Internal(_) => 70,
        }
    }

    /// What a person reads.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(lines) => lines.clone(),
            other => vec![chain(other)],
        }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::Config(error.lines())
    }
}

impl From<server::StackError> for Failure {
    fn from(error: server::StackError) -> Self {
        Self::Config(vec![chain(&error)])
    }
}

impl From<peer::Error> for Failure {
    fn from(error: peer::Error) -> Self {
        Self::Config(vec![chain(&error)])
    }
}

impl From<telemetry::Error> for Failure {
    fn from(error: telemetry::Error) -> Self {
        Self::Config(vec![chain(&error)])
    }
}

/// What a service starts with.
#[derive(Debug)]
pub struct Start<C> {
    /// The service's table.
    pub config: C,
    /// `[runtime]`.
    pub runtime: RuntimeConfig,
    /// Bound, not yet accepting.
    pub listener: TcpListener,
    /// Cancelled by SIGTERM or SIGINT.
    pub shutdown: CancellationToken,
}

/// The whole `main` of a service: `fn main() -> ExitCode { mar_runtime::main(mar_router::start) }`.
pub fn main<C, F, Fut>(start: F) -> ExitCode
where
    C: ServiceConfig,
    F: FnOnce(Start<C>) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    main_from(std::env::args_os(), start)
}

/// [`main`] with arguments of the caller's.
pub fn main_from<C, F, Fut>(args: impl IntoIterator<Item = OsString>, start: F) -> ExitCode
where
    C: ServiceConfig,
    F: FnOnce(Start<C>) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let name = C::SERVICE.as_str();
    let command = ServiceArgs::command().name(name).version(env!("CARGO_PKG_VERSION")).after_help(C::AFTER_HELP);
    let args = match command.try_get_matches_from(args).and_then(|found| ServiceArgs::from_arg_matches(&found)) {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            // Nowhere to say that it could not be said.
            let _ = error.print();
            return ExitCode::from(if asked { 0 } else { 64 });
        }
    };
    match run(&args, start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut out = std::io::stderr().lock();
            for line in failure.lines() {
                let _ = writeln!(out, "{name}: {line}");
            }
            ExitCode::from(failure.code())
        }
    }
}

fn run<C, F, Fut>(args: &ServiceArgs, start: F) -> Result<(), Failure>
where
    C: ServiceConfig,
    F: FnOnce(Start<C>) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let loaded: Loaded<C> = config::load(&args.sources(C::SERVICE.table()))?;
    if args.dump_config {
        let text = config::dump(&loaded)?;
        return std::io::stdout().write_all(text.as_bytes()).map_err(Failure::internal);
    }
    if args.check_config {
        return Ok(());
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::internal)?;
    tokio.block_on(serve(loaded, start))
}

async fn serve<C, F, Fut>(loaded: Loaded<C>, start: F) -> Result<(), Failure>
where
    C: ServiceConfig,
    F: FnOnce(Start<C>) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    install_crypto();
    let telemetry = telemetry::install(C::SERVICE.as_str(), &loaded.runtime.telemetry)?;
    let tasks = TaskTracker::new();
    let result = async {
        let shutdown = on_signal(&tasks)?;
        let address = loaded.service.listen();
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Failure::unavailable(format!("the address {address}"), source))?;
        start(Start { config: loaded.service, runtime: loaded.runtime, listener, shutdown }).await
    }
    .await;
    if let Err(failure) = &result {
        tracing::error!(error = failure.lines().join("; "), "ended early");
    }
    telemetry.shutdown().await;
    result
}

/// Makes ring the process's TLS provider, which every TLS client needs. Doing it again changes nothing.
pub fn install_crypto() {
    // An error says that a provider is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A token that SIGTERM and SIGINT cancel.
///
/// # Errors
/// The handlers cannot be installed.
pub fn on_signal(tasks: &TaskTracker) -> Result<CancellationToken, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
            _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
        }
        token.cancel();
    });
    Ok(shutdown)
}
