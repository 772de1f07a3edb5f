//! `session migrate`: brings the schema up to date as its owner, before a version is rolled out.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use mar_runtime::ServiceName;
use mar_runtime::config::{self, ServiceConfig, Validate};
use mar_runtime::process::{Failure, ServiceArgs, install_crypto};
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};

use crate::config::StoreConfig;

/// The first argument that asks for a migration.
pub const COMMAND: &str = "migrate";

/// What a migration reads of `[session]`: it needs no key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    store: StoreConfig,
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        violations.within("store", |found| self.store.validate(found));
    }
}

impl ServiceConfig for Config {
    const SERVICE: ServiceName = ServiceName::Session;

    /// Nothing is served.
    fn listen(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }
}

/// Migrates with the service's own arguments, the word `migrate` taken out. Exit codes are the service's.
pub fn main_from(args: Vec<OsString>) -> ExitCode {
    let command =
        ServiceArgs::command().name("session migrate").bin_name("session migrate").version(env!("CARGO_PKG_VERSION"));
    let command = command.about("Brings the schema of [session.store] up to date, as the owner in migrate_url");
    let args = match command.try_get_matches_from(args).and_then(|found| ServiceArgs::from_arg_matches(&found)) {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            // Nowhere to say that it could not be said.
            let _ = error.print();
            return ExitCode::from(if asked { 0 } else { 64 });
        }
    };
    let said = |line: &str| {
        // Nowhere to say that it could not be said.
        let _ = writeln!(std::io::stderr().lock(), "session migrate: {line}");
    };
    match run(&args) {
        Ok(line) => {
            said(&line);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            failure.lines().iter().for_each(|line| said(line));
            ExitCode::from(failure.code())
        }
    }
}

fn run(args: &ServiceArgs) -> Result<String, Failure> {
    let loaded = config::load::<Config>(&args.sources(ServiceName::Session.table()))?;
    if args.dump_config {
        return config::dump(&loaded).map_err(Into::into);
    }
    if args.check_config {
        return Ok("the configuration is right".to_owned());
    }
    let Some(store) = loaded.service.store.postgres() else {
        return Ok("the store is a file, which the service migrates when it opens it".to_owned());
    };
    install_crypto();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    let version = tokio.block_on(store.migrate()).map_err(|error| Failure::unavailable("the session store", error))?;
    Ok(format!("the schema has version {version}"))
}
