//! One TOML for all services: tables `[session] [router] [agent_generator] [tool_gateway] [runtime]`.
//!
//! A service reads its own table and `runtime`. Later sources win: defaults, the file, `MAR_SESSION__STORE__URL` in
//! the environment, `--set session.store.url=…`. Everything that is wrong is reported at once, each by its key path.

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ServiceName;
use crate::violations::Violations;

mod bytes;
mod load;
mod runtime;
mod secret;

pub use bytes::ByteSize;
pub use load::{Loaded, Sources, dump, from_toml, load, toml_fault};
pub use runtime::{LimitsConfig, LogFormat, PeersConfig, RuntimeConfig, TelemetryConfig};
pub use secret::{SecretError, SecretRef};

/// Checks what the types cannot. Paths are relative to the value itself.
pub trait Validate {
    /// Records every violation.
    fn validate(&self, violations: &mut Violations);
}

/// A service's own table. Every key has a default, and unknown keys are refused (`deny_unknown_fields`).
pub trait ServiceConfig: Serialize + DeserializeOwned + Validate + Send + Sync + 'static {
    /// Whose table it is.
    const SERVICE: ServiceName;
    /// What `--help` says below the options, such as commands that the binary has besides.
    const AFTER_HELP: &'static str = "";

    /// The address to serve on, key `listen` of the table.
    fn listen(&self) -> SocketAddr;
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or is not TOML.
    #[error("{0}")]
    Unreadable(String),
    /// Keys are unknown or have wrong values; the paths start at the root of the file.
    #[error("{0}")]
    Invalid(Violations),
}

impl Error {
    /// One line for each thing that is wrong.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Unreadable(text) => vec![text.clone()],
            Self::Invalid(found) => found.iter().map(|one| format!("{}: {}", one.field, one.description)).collect(),
        }
    }
}

/// Reads and writes a [`std::time::Duration`] as `1h 30m`: `#[serde(with = "mar_runtime::config::duration")]`.
pub use humantime_serde as duration;

/// A duration in a list or an option, written as `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(#[serde(with = "humantime_serde")] pub std::time::Duration);
