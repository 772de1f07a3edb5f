//! `mar`: all four services in one process (`mar up`), and the command line that talks to a runtime.
//!
//! Commands but `up`, `rehearse` and `keys` are clients of the public API and need nothing but an endpoint. Results go to
//! standard output, the way there to standard error; with `--json` there is one object on standard output and nothing
//! else. Exit codes are listed in [`exit`].
//!
//! Pieces: [`args`], [`up`] (host), [`run`] (a task and its way), [`runs`], [`approvals`], [`sessions`], [`hooks`], [`models`], [`tools`],
//! [`render`], [`rehearse`], [`keys`]; [`endpoint`] (clients), [`progress`] (live or in lines), [`report`] and [`table`]
//! (what is printed), [`waiting`] (what a run waits for), [`out`] (the streams), [`failure`] and [`exit`].

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

pub mod approvals;
pub mod args;
pub mod blobs;
pub mod certs;
pub mod doubt;
pub mod endpoint;
pub mod exit;
pub mod failure;
pub mod hooks;
pub mod keys;
pub mod models;
pub mod out;
pub mod progress;
pub mod rehearse;
pub mod render;
pub mod report;
mod results;
pub mod run;
pub mod runs;
pub mod sessions;
pub mod slices;
mod summaries;
pub mod table;
pub mod tools;
pub mod up;
pub mod waiting;

use args::{Cli, Command};
use exit::Exit;
use failure::Failure;
use out::Out;

/// The whole of `mar`.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nowhere to say that it could not be said.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { Exit::Done } else { Exit::Usage }.code());
        }
    };
    let out = Out::new(cli.color);
    let as_json = cli.command.wants_json();
    let exit = match execute(cli.command, out) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.report(&out, as_json);
            failure.exit()
        }
    };
    out.flush();
    ExitCode::from(exit.code())
}

fn execute(command: Command, out: Out) -> Result<Exit, Failure> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let tokio = threads.map_err(|error| Failure::new(Exit::Internal, format!("no threads can be started: {error}")))?;
    mar_runtime::process::install_crypto();
    let exit = tokio.block_on(async {
        match command {
            Command::Up(args) => up::up(args, out).await,
            Command::Run(args) => run::run(*args, out).await,
            Command::Runs { command } => runs::runs(command, out).await,
            Command::Approvals { command } => approvals::approvals(command, out).await,
            Command::Sessions { command } => sessions::sessions(command, out).await,
            Command::Blobs { command } => blobs::blobs(command, out).await,
            Command::Hooks { command } => hooks::hooks(command, out).await,
            Command::Models { command } => models::models(command, out).await,
            Command::Tools { command } => tools::tools(command, out).await,
            Command::Render(args) => render::render(args, out).await,
            Command::Rehearse(args) => rehearse::rehearse(args, out).await,
            Command::Keys { command } => keys::keys(command, out),
            Command::Certs { command } => certs::certs(command, out),
        }
    });
    // What still hangs, such as a name that is being looked up, is not waited for.
    tokio.shutdown_background();
    exit
}
