//! A service's command `migrate`: brings its schema up to date as its owner, before a version is rolled out.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use mar_runtime::config::{self, ServiceConfig};
use mar_runtime::process::{Failure, ServiceArgs, install_crypto};

use crate::{Config, Schema};

/// The first argument that asks for a migration.
pub const COMMAND: &str = "migrate";

/// Migrates with the service's own arguments, the word `migrate` taken out. Exit codes are the service's. `C` is what is
/// read of the service's table, and `store` finds Postgres in it: a migration needs no key.
pub fn main_from<C: ServiceConfig>(
    args: Vec<OsString>,
    schema: &'static Schema,
    store: impl FnOnce(&C) -> Option<Config>,
) -> ExitCode {
    let name = format!("{} {COMMAND}", schema.program);
    let table = C::SERVICE.table();
    let about = format!("Brings the schema of [{table}.store] up to date, as the owner in migrate_url");
    let command = ServiceArgs::command().name(schema.program).bin_name(&name).display_name(&name).about(about);
    let command = command.version(env!("CARGO_PKG_VERSION"));
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
        let _ = writeln!(std::io::stderr().lock(), "{name}: {line}");
    };
    match run(&args, schema, store) {
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

fn run<C: ServiceConfig>(
    args: &ServiceArgs,
    schema: &'static Schema,
    store: impl FnOnce(&C) -> Option<Config>,
) -> Result<String, Failure> {
    let loaded = config::load::<C>(&args.sources(C::SERVICE.table()))?;
    if args.dump_config {
        return config::dump(&loaded).map_err(Into::into);
    }
    if args.check_config {
        return Ok("the configuration is right".to_owned());
    }
    let Some(store) = store(&loaded.service) else {
        return Ok("the store is a file, which the service migrates when it opens it".to_owned());
    };
    install_crypto();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    let migrated = tokio.block_on(schema.migrate(&store));
    let version = migrated.map_err(|error| Failure::unavailable(schema.holds, error))?;
    Ok(format!("the schema has version {version}"))
}
