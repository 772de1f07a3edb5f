//! `[runtime.tls]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::material::Material;
use crate::config::Validate;
use crate::violations::Violations;

/// What callers have to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// Nothing: nobody is asked for a certificate.
    #[default]
    None,
    /// A caller may show a certificate; one that `ca_file` does not vouch for is refused.
    Optional,
    /// A caller without a certificate that `ca_file` vouches for is refused.
    Required,
}

/// `[runtime.tls]`. The files are read again when they change; the keys are not reloadable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM file with this process's certificate, and those that lead to the authority after it. Callers and peers are shown
    /// it. Without it callers are served in plain text.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with its private key.
    pub key_file: Option<PathBuf>,
    /// PEM file with the authorities that vouch for peers and callers; for peers the system's where there is none.
    pub ca_file: Option<PathBuf>,
    /// `none` (default), `optional` or `required`.
    pub client_certificates: ClientCertificates,
}

impl TlsConfig {
    /// Whether callers are served over TLS.
    pub fn serves(&self) -> bool {
        self.certificate_file.is_some()
    }
}

impl Validate for TlsConfig {
    fn validate(&self, violations: &mut Violations) {
        let pair = self.certificate_file.is_some() == self.key_file.is_some();
        violations.require(pair, "key_file", "must be set where certificate_file is, and nowhere else");
        let asks = self.client_certificates != ClientCertificates::None;
        violations.require(
            !asks || (self.serves() && self.ca_file.is_some()),
            "client_certificates",
            "must be used with certificate_file and ca_file",
        );
        if pair
            && (!asks || self.ca_file.is_some())
            && let Err(error) = Material::read(self)
        {
            violations.field(error.field(), crate::status::chain(&error));
        }
    }
}
