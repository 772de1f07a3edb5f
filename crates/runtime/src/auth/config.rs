//! `[runtime.auth]` and `[runtime.run_tokens]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{api_key, keys};
use crate::config::Validate;
use crate::violations::Violations;

/// How calls are authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A call without a credential is made by tenant `dev`. On loopback only.
    #[default]
    Dev,
    /// Every call needs an API key or a run token.
    ApiKeys,
}

/// `[runtime.auth]`. Not reloadable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// `dev` (default) or `api_keys`.
    pub mode: Mode,
    /// The keys that are accepted, in both modes.
    pub api_keys: Vec<ApiKeyConfig>,
}

/// One API key. The key itself is shown once, when it is made, and is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// The part of the key between `mar_` and the next underscore: `[a-z0-9-]{1,64}`.
    pub id: String,
    /// SHA-256 of the whole key, 64 hexadecimal digits.
    pub sha256: String,
    /// The caller's tenant.
    pub tenant: String,
    /// The caller's principal.
    pub principal: String,
    /// The caller's groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The caller's scopes; `*` is all.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The caller's environment.
    pub environment: String,
    /// When the key ends, RFC 3339; never by default.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub not_after: Option<OffsetDateTime>,
}

impl AuthConfig {
    /// Refuses to listen beyond loopback without configured authentication. `listen_path` is the key that gave the
    /// address, such as `router.listen`.
    pub fn validate_listen(&self, listen: SocketAddr, listen_path: &str, violations: &mut Violations) {
        if listen.ip().is_loopback() {
            return;
        }
        if self.mode == Mode::Dev {
            let text = format!("must be \"api_keys\" because {listen_path} = \"{listen}\" is not loopback");
            violations.field("runtime.auth.mode", text);
        } else if self.api_keys.is_empty() {
            let text = format!("must not be empty because {listen_path} = \"{listen}\" is not loopback");
            violations.field("runtime.auth.api_keys", text);
        }
    }
}

impl Validate for AuthConfig {
    fn validate(&self, violations: &mut Violations) {
        if let Err(found) = api_key::Ring::try_new(&self.api_keys) {
            violations.extend(found);
        }
    }
}

/// `[runtime.run_tokens]`. Not reloadable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunTokensConfig {
    /// PEM files with session's public keys, at most two, so that one can replace the other. With none, no run token
    /// is accepted.
    pub verification_key_files: Vec<PathBuf>,
}

impl Validate for RunTokensConfig {
    fn validate(&self, violations: &mut Violations) {
        let count = self.verification_key_files.len();
        violations.require(count <= 2, "verification_key_files", "must hold at most two files");
        violations.files("verification_key_files", &self.verification_key_files, keys::kid_of_public);
    }
}
