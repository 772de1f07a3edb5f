//! `[runtime]`: what all services share.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ByteSize, Validate};
use crate::ServiceName;
use crate::auth::{AuthConfig, RunTokensConfig};
use crate::tls::TlsConfig;
use crate::violations::Violations;

/// `[runtime]`. No key of it is reloadable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// Who may call.
    pub auth: AuthConfig,
    /// TLS of the listener and to the peers.
    pub tls: TlsConfig,
    /// Which run tokens are accepted.
    pub run_tokens: RunTokensConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Bounds of every call.
    pub limits: LimitsConfig,
    /// Where the other services are.
    pub peers: PeersConfig,
}

impl Validate for RuntimeConfig {
    fn validate(&self, violations: &mut Violations) {
        violations.within("auth", |found| self.auth.validate(found));
        violations.within("tls", |found| self.tls.validate(found));
        violations.within("run_tokens", |found| self.run_tokens.validate(found));
        violations.within("telemetry", |found| self.telemetry.validate(found));
        violations.within("limits", |found| self.limits.validate(found));
        violations.within("peers", |found| self.peers.validate(found));
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// `[runtime.telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where traces go, OTLP over gRPC, such as `http://127.0.0.1:4317`. Nothing is exported without it.
    pub otlp_endpoint: Option<String>,
    /// The resource attribute `service.namespace`.
    pub service_namespace: String,
    /// `text` (default) or `json`.
    pub log_format: LogFormat,
    /// What is logged, in the syntax of tracing's `EnvFilter`; `info` by default. Nothing of the target `rmcp`, unless it is named.
    pub log_filter: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            service_namespace: "agentruntime".into(),
            log_format: LogFormat::default(),
            log_filter: "info".into(),
        }
    }
}

impl Validate for TelemetryConfig {
    fn validate(&self, violations: &mut Violations) {
        if let Some(endpoint) = &self.otlp_endpoint {
            validate_url(endpoint, "otlp_endpoint", violations);
        }
        let filter = tracing_subscriber::EnvFilter::builder().parse(&self.log_filter);
        violations.take("log_filter", filter);
    }
}

/// `[runtime.limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The largest gRPC message that is accepted: 4 MiB of content and 64 KiB around it by default, 1 KiB to 1 GiB.
    pub max_message: ByteSize,
    /// The largest message that the router takes, a prompt with the blobs that it names: 24 MiB by default, `max_message` at
    /// least, at most 1 GiB.
    pub max_prompt: ByteSize,
    /// The deadline of a unary call whose caller set none, 60 s by default.
    #[serde(with = "humantime_serde")]
    pub default_deadline: Duration,
    /// How long calls may go on after the signal to stop, 20 s by default.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_message: ByteSize::kib(4 * 1024 + 64),
            max_prompt: ByteSize::mib(24),
            default_deadline: Duration::from_secs(60),
            drain: Duration::from_secs(20),
        }
    }
}

impl LimitsConfig {
    /// The largest message that a service takes.
    pub fn message_to(&self, service: ServiceName) -> ByteSize {
        match service {
            ServiceName::Router => self.max_prompt.max(self.max_message),
            _ => self.max_message,
        }
    }

    /// What a prompt has room for besides a message of the usual size.
    pub fn prompt_room(&self) -> ByteSize {
        ByteSize::kib(self.message_to(ServiceName::Router).bytes().saturating_sub(self.max_message.bytes()) >> 10)
    }
}

impl Validate for LimitsConfig {
    fn validate(&self, violations: &mut Violations) {
        let fits = (ByteSize::kib(1)..=ByteSize::mib(1024)).contains(&self.max_message);
        violations.require(fits, "max_message", "must be 1KiB to 1GiB");
        violations.require(self.max_prompt <= ByteSize::mib(1024), "max_prompt", "must be at most 1GiB");
        violations.require(!self.default_deadline.is_zero(), "default_deadline", "must not be 0");
        violations.require(self.drain <= Duration::from_secs(3600), "drain", "must be at most 1h");
    }
}

/// `[runtime.peers]`: base URLs such as `http://127.0.0.1:7443`. In one process they are not used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersConfig {
    /// The session service.
    pub session: Option<String>,
    /// The router.
    pub router: Option<String>,
    /// The agent generator.
    pub agent_generator: Option<String>,
    /// The tool gateway.
    pub tool_gateway: Option<String>,
}

impl PeersConfig {
    /// Where `name` is, if that is configured.
    pub fn url(&self, name: ServiceName) -> Option<&str> {
        match name {
            ServiceName::Session => self.session.as_deref(),
            ServiceName::Router => self.router.as_deref(),
            ServiceName::AgentGenerator => self.agent_generator.as_deref(),
            ServiceName::ToolGateway => self.tool_gateway.as_deref(),
        }
    }
}

impl Validate for PeersConfig {
    fn validate(&self, violations: &mut Violations) {
        for name in ServiceName::ALL {
            if let Some(url) = self.url(name) {
                validate_url(url, name.table(), violations);
            }
        }
    }
}

fn validate_url(url: &str, field: &str, violations: &mut Violations) {
    let fits = url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    violations.require(fits, field, "must be a URL such as http://127.0.0.1:4317");
}

#[cfg(test)]
mod tests;
