//! `agent-generator migrate`: brings the schema up to date as its owner, before a version is rolled out.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use mar_postgres::migrate;
use mar_runtime::ServiceName;
use mar_runtime::config::{ServiceConfig, Validate};
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};

use crate::config::StoreConfig;
use crate::store::postgres::SCHEMA;

pub use mar_postgres::migrate::COMMAND;

/// What a migration reads of `[agent_generator]`: it needs no key.
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
    const SERVICE: ServiceName = ServiceName::AgentGenerator;

    /// Nothing is served.
    fn listen(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }
}

/// Migrates with the service's own arguments, the word `migrate` taken out. Exit codes are the service's.
#[must_use]
pub fn main_from(args: Vec<OsString>) -> ExitCode {
    migrate::main_from(args, &SCHEMA, |config: &Config| config.store.postgres())
}
