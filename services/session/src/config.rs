//! `[session]`. No key of it is reloadable.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mar_descriptor::{SigningKey, VerifyingKeys};
use mar_postgres::{Config as PostgresConfig, Pooler, is_postgres};
use mar_proto::types::HaltingPolicy;
use mar_runtime::ServiceName;
use mar_runtime::config::{SecretRef, ServiceConfig, Validate};
use mar_runtime::status::chain;
use mar_runtime::violations::Violations;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::hooks::Hook;
use crate::runs::{Limits, Replicas};
use crate::store::hook::Hooked;
use crate::tenants::Tenants;
use crate::verify::Keys;

mod blobs;
mod hook;
pub(crate) mod tenant;

pub use blobs::BlobsConfig;
pub use hook::HookConfig;
pub use tenant::{TenantConfig, TenantConfigs};

/// `[session]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address to serve on, `127.0.0.1:7441` by default.
    pub listen: SocketAddr,
    /// The Ed25519 private key (PKCS#8 PEM) that signs run tokens and run seals. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<SecretRef>,
    /// Public keys (Ed25519, SPKI PEM) whose seals count besides those of `signing_key`: the keys of earlier seals. Only
    /// VerifyRun asks.
    pub seal_key_files: Vec<PathBuf>,
    /// Public keys whose descriptors count when a run is verified. Without any, VerifyRun leaves signatures on
    /// descriptors unchecked and says so.
    pub descriptor_key_files: Vec<PathBuf>,
    /// Where sessions, runs and events are kept.
    pub store: StoreConfig,
    /// Where halting counters are kept.
    pub counters: CountersConfig,
    /// Limits of a task that states none.
    pub halting: HaltingConfig,
    /// What a run sees of its session's earlier runs.
    pub history: HistoryConfig,
    /// What callers stream in.
    pub blobs: BlobsConfig,
    /// How replicas know of each other.
    pub replicas: ReplicasConfig,
    /// What holds for a tenant, by its name.
    pub tenants: TenantConfigs,
}

/// `[session.history]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// Tokens at the most, reckoned by the byte, which no tokenizer exceeds: 8,192 by default, at most 1,000,000; 0 shows
    /// nothing.
    pub max_tokens: i64,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { max_tokens: Limits::default().history_tokens }
    }
}

/// `[session.replicas]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicasConfig {
    /// How often a replica shows that it is alive and looks for runs that nobody executes, 500 ms by default; 50 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Runs of a replica that shows no sign of life for so long are taken over, 2 s by default; at least 3 heartbeats, at most
    /// 10 min.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

/// `[session.store]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `postgres://…`, or `sqlite:` and a path; `sqlite:session.db` by default.
    pub url: String,
    /// Most connections to Postgres at a time, 16 by default.
    pub max_connections: u32,
    /// `postgres://…` of the schema's owner, a direct connection, for `session migrate`; `url` without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrate_url: Option<String>,
    /// Whether the service brings the schema up to date when it starts: by default where there is no `migrate_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_migrate: Option<bool>,
    /// What is between the service and Postgres: `none`, the default, or `transaction` for a proxy that gives each
    /// transaction another connection.
    pub pooler: Pooler,
}

/// `[session.counters]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CountersConfig {
    /// `redis://…` (`rediss://…` with TLS), `redis+cluster://host:port,host:port…` (`rediss+cluster://…`) with some nodes of a
    /// cluster, or `memory:` for counters of this process; `memory:` by default.
    pub url: String,
    /// The authorities that TLS trusts (PEM); the system's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// `[session.halting]`: platform defaults of the halting policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HaltingConfig {
    /// Turns, 16 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<i64>,
    /// Tool calls, 64 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tool_calls: Option<i64>,
    /// Input tokens, 1,000,000 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<i64>,
    /// Output tokens, 200,000 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<i64>,
    /// Cost in nano-USD, 1,000,000,000 (1 USD) by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_nano_usd: Option<i64>,
}

/// Which store a configuration names.
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// Postgres by its URL.
    Postgres(SecretString),
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// Which counters a configuration names.
#[derive(Clone, Debug)]
pub enum CountersKind {
    /// Redis by its URL.
    Redis(SecretString),
    /// Counters of this process, rebuilt from the log after a restart.
    Memory,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7441)),
            signing_key: None,
            seal_key_files: Vec::new(),
            descriptor_key_files: Vec::new(),
            store: StoreConfig::default(),
            counters: CountersConfig::default(),
            halting: HaltingConfig::default(),
            history: HistoryConfig::default(),
            blobs: BlobsConfig::default(),
            replicas: ReplicasConfig::default(),
            tenants: TenantConfigs::new(),
        }
    }
}

impl Default for ReplicasConfig {
    fn default() -> Self {
        let Replicas { heartbeat, patience } = Replicas::default();
        Self { heartbeat, patience }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "sqlite:session.db".to_owned(),
            max_connections: 16,
            migrate_url: None,
            auto_migrate: None,
            pooler: Pooler::None,
        }
    }
}

impl Default for CountersConfig {
    fn default() -> Self {
        Self { url: "memory:".to_owned(), ca_file: None }
    }
}

impl StoreConfig {
    /// Which store it is; none when the URL is neither.
    pub fn kind(&self) -> Option<StoreKind> {
        if is_postgres(&self.url) {
            return Some(StoreKind::Postgres(self.url.clone().into()));
        }
        let path = self.url.strip_prefix("sqlite:")?;
        let path = path.strip_prefix("//").unwrap_or(path);
        (!path.is_empty() && path != ":memory:").then(|| StoreKind::Sqlite(path.into()))
    }

    /// How Postgres is used, where it is the store.
    pub fn postgres(&self) -> Option<PostgresConfig> {
        matches!(self.kind(), Some(StoreKind::Postgres(_))).then(|| self.as_postgres())
    }

    fn as_postgres(&self) -> PostgresConfig {
        PostgresConfig {
            migrate_url: self.migrate_url.clone().map(Into::into),
            auto_migrate: self.auto_migrate.unwrap_or(self.migrate_url.is_none()),
            pooler: self.pooler,
            max_connections: self.max_connections,
            ..PostgresConfig::new(self.url.clone().into())
        }
    }
}

impl Validate for StoreConfig {
    fn validate(&self, violations: &mut Violations) {
        violations.require(self.kind().is_some(), "url", "must be `postgres://…`, or `sqlite:` and a path");
        self.as_postgres().validate(violations);
    }
}

impl CountersConfig {
    /// Which counters they are; none when the URL is neither.
    pub fn kind(&self) -> Option<CountersKind> {
        let schemes = ["redis://", "rediss://", "redis+cluster://", "rediss+cluster://"];
        if schemes.iter().any(|scheme| self.url.starts_with(scheme)) {
            return Some(CountersKind::Redis(self.url.clone().into()));
        }
        (self.url == "memory:").then_some(CountersKind::Memory)
    }
}

impl HaltingConfig {
    /// The limits that bind, with what is configured as the default.
    pub fn limits(&self) -> Limits {
        let limits = Limits::default();
        let built_in = limits.default;
        let default = HaltingPolicy {
            max_steps: self.max_steps.or(built_in.max_steps),
            max_tool_calls: self.max_tool_calls.or(built_in.max_tool_calls),
            max_input_tokens: self.max_input_tokens.or(built_in.max_input_tokens),
            max_output_tokens: self.max_output_tokens.or(built_in.max_output_tokens),
            max_cost_nano_usd: self.max_cost_nano_usd.or(built_in.max_cost_nano_usd),
            ..built_in
        };
        Limits { default, ..limits }
    }
}

impl Config {
    /// The private key as PEM.
    ///
    /// # Errors
    /// It is not configured or cannot be read. Never holds key material.
    pub fn key_pem(&self) -> Result<SecretString, String> {
        let place = self.signing_key.as_ref().ok_or("must name the key that signs run tokens and seals")?;
        place.resolve().map_err(|error| chain(&error))
    }

    /// The key that seals runs.
    ///
    /// # Errors
    /// Like [`Config::key_pem`], and when the file holds no key.
    pub fn seal_key(&self) -> Result<SigningKey, String> {
        SigningKey::from_pem(self.key_pem()?.expose_secret()).map_err(|error| error.to_string())
    }
}

impl Config {
    /// The keys that VerifyRun knows: the public half of the one that seals, and what the files hold.
    ///
    /// # Errors
    /// A file that cannot be read or holds no key.
    pub fn verifying_keys(&self, seal_key: &SigningKey) -> Result<Keys, String> {
        let mut seals = seal_key.verifying_keys();
        seals.extend(read_keys(&self.seal_key_files)?);
        let descriptors = read_keys(&self.descriptor_key_files)?;
        Ok(Keys { seals, descriptors: (!self.descriptor_key_files.is_empty()).then_some(descriptors) })
    }
}

impl Config {
    /// The limits that bind, with what is configured.
    pub fn limits(&self) -> Limits {
        let blobs = self.blobs.limits();
        Limits { history_tokens: self.history.max_tokens, blobs, ..self.halting.limits() }
    }

    /// The hooks of all tenants.
    ///
    /// # Errors
    /// A secret that cannot be read, or an address that is none. Never holds the secret.
    pub fn hooks(&self) -> Result<Vec<Hook>, String> {
        tenant::hooks(&self.tenants)
    }

    /// The names of each tenant's hooks.
    pub fn hooked(&self) -> Hooked {
        tenant::hooked(&self.tenants)
    }

    /// What holds for each tenant.
    pub fn tenants(&self) -> Tenants {
        tenant::tenants(&self.tenants)
    }
}

fn read_keys(files: &[PathBuf]) -> Result<VerifyingKeys, String> {
    let mut keys = VerifyingKeys::new();
    for path in files {
        let pem =
            std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        keys.add_pem(&pem).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(keys)
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        violations.take("signing_key", self.seal_key());
        violations.take("seal_key_files", read_keys(&self.seal_key_files));
        violations.take("descriptor_key_files", read_keys(&self.descriptor_key_files));
        violations.within("store", |found| self.store.validate(found));
        violations.require(
            self.counters.kind().is_some(),
            "counters.url",
            "must be `redis://…`, `redis+cluster://…` or `memory:`",
        );
        let ReplicasConfig { heartbeat, patience } = self.replicas;
        let beats = (Duration::from_millis(50)..=Duration::from_secs(60)).contains(&heartbeat);
        violations.require(beats, "replicas.heartbeat", "must be 50ms to 1m");
        let patient = patience >= heartbeat.saturating_mul(3) && patience <= Duration::from_secs(600);
        violations.require(patient, "replicas.patience", "must be at least 3 heartbeats and at most 10m");
        violations.within("halting", |found| {
            self.halting.limits().complete(None, found);
        });
        let history = (0..=1_000_000).contains(&self.history.max_tokens);
        violations.require(history, "history.max_tokens", "must be 0 to 1000000");
        violations.within("blobs", |found| self.blobs.validate(found));
        violations.within("tenants", |found| tenant::validate(&self.tenants, found));
    }
}

impl ServiceConfig for Config {
    const SERVICE: ServiceName = ServiceName::Session;
    const AFTER_HELP: &'static str =
        "Commands:\n  session migrate  brings the schema of the store up to date, as its owner";

    fn listen(&self) -> SocketAddr {
        self.listen
    }
}
