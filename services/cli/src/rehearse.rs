//! `mar rehearse`: the scripted stand-in for a model as a process.

use std::path::Path;

use mar_runtime::process::on_signal;
use mar_runtime::status::chain;
use mar_testkit::rehearsal::{Rehearsal, Script, ScriptError};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::args::RehearseArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::Out;

/// Where a rehearsal plays unless it is told otherwise; `mar up` looks there.
pub const DEFAULT: &str = "127.0.0.1:7419";

/// The script in `file`, or the built-in agent.
///
/// # Errors
/// The script is refused; each mistake is told with its rule and key.
pub fn script(file: Option<&Path>) -> Result<Script, Failure> {
    match file {
        Some(file) => Script::load(file).map_err(refused),
        None => Ok(Script::default()),
    }
}

fn refused(error: ScriptError) -> Failure {
    let ScriptError::Invalid(mistakes) = error else { return Failure::usage(chain(&error)) };
    let all = mistakes.iter().map(|one| Failure::usage(one.to_string()));
    Failure::together(all.collect()).err().unwrap_or_else(|| Failure::usage("the script is refused"))
}

/// `mar rehearse`.
///
/// # Errors
/// The script is refused, or the address is taken.
pub async fn rehearse(args: RehearseArgs, out: Out) -> Result<Exit, Failure> {
    let file = args.script.or(args.script_option);
    let script = script(file.as_deref())?;
    let shutdown = on_signal(&TaskTracker::new())?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::new(Exit::Unavailable, format!("the address {} is not available: {error}", args.listen))
    })?;
    let address = listener.local_addr().map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let models = script.models().join(", ");
    out.line(format!("rehearsal on http://{address}/v1 (not a model; plays as: {models})"));
    Rehearsal::serve(listener, script, shutdown.cancelled_owned())
        .await
        .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    Ok(Exit::Done)
}
