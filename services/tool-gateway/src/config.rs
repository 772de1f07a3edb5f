//! `[tool_gateway]`. No key of it is reloadable.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use mar_alignment::{Layer, PolicyText, Stack, default_platform};
use mar_descriptor::VerifyingKeys;
use mar_runtime::ServiceName;
use mar_runtime::config::{ServiceConfig, Validate};
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};

use crate::call::elsewhere;

mod doubt;
mod upstream;

pub use doubt::{DoubtConfig, OnUnknown, ProbeConfig};
pub use upstream::{Kind, Restart, Setting, ToolConfig, UpstreamConfig};

/// `[tool_gateway]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address to serve on, `127.0.0.1:7444` by default.
    pub listen: SocketAddr,
    /// The platform's alignment policy in Cedar; without one, the built-in default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_policy: Option<PathBuf>,
    /// Public keys (Ed25519, SPKI PEM) whose signatures on descriptors count; several at once while they rotate.
    /// Without any, no descriptor verifies and every call is refused.
    pub descriptor_key_files: Vec<PathBuf>,
    /// Sources of tools by name, `[a-z][a-z0-9-]{0,31}`; not `caller` or `runtime`.
    pub upstreams: BTreeMap<String, UpstreamConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7444)),
            platform_policy: None,
            descriptor_key_files: Vec::new(),
            upstreams: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the keys of [`Config::descriptor_key_files`].
    pub(crate) fn load_keys(&self, found: &mut Violations) -> VerifyingKeys {
        let mut keys = VerifyingKeys::new();
        found.files("descriptor_key_files", &self.descriptor_key_files, |pem| keys.add_pem(pem));
        keys
    }

    /// Reads the platform's policy, or takes the default one.
    pub(crate) fn load_policy(&self, found: &mut Violations) -> Stack {
        let text = match &self.platform_policy {
            None => default_platform(),
            Some(path) => {
                let read = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
                let Some(text) = found.take("platform_policy", read) else { return Stack::default() };
                PolicyText { layer: Layer::Platform, name: "platform".to_owned(), version: 1, text }
            }
        };
        Stack::parse([text]).unwrap_or_else(|wrong| {
            for violation in wrong {
                found.field("platform_policy", violation.to_string());
            }
            Stack::default()
        })
    }
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.load_keys(violations);
        self.load_policy(violations);
        violations.within("upstreams", |found| {
            for (name, upstream) in &self.upstreams {
                found.require(is_upstream_name(name), name, "must match [a-z][a-z0-9-]{0,31}");
                let own = elsewhere::executor(name).is_none();
                found.require(own, name, "is the name of tools that no upstream of the gateway has");
                found.within(name, |found| upstream.validate(found));
            }
        });
    }
}

impl ServiceConfig for Config {
    const SERVICE: ServiceName = ServiceName::ToolGateway;

    fn listen(&self) -> SocketAddr {
        self.listen
    }
}

/// Whether `name` may name an upstream. It holds no dot, so the first dot of `upstream.tool` splits.
pub fn is_upstream_name(name: &str) -> bool {
    let rest = name.strip_prefix(|first: char| first.is_ascii_lowercase());
    rest.is_some_and(|rest| {
        rest.len() <= 31 && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

#[cfg(test)]
mod tests;
