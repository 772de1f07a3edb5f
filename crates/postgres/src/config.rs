//! Where Postgres is, what is before it and how long it may take.

use std::time::Duration;

use mar_runtime::config::Validate;
use mar_runtime::violations::Violations;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

/// What is between a service and Postgres.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooler {
    /// Nothing that shares connections.
    #[default]
    None,
    /// A proxy that gives each transaction another connection: nothing is prepared, every query is in a transaction that
    /// sets its role, tenant and timeouts itself.
    Transaction,
}

/// Where Postgres is and how long it may take.
#[derive(Debug, Clone)]
pub struct Config {
    /// `postgres://…` of the application: a login that is, or is a member of, the service's role.
    pub url: SecretString,
    /// `postgres://…` of the schema's owner, a direct connection; `None` where it is `url`.
    pub migrate_url: Option<SecretString>,
    /// Whether connecting brings the schema up to date.
    pub auto_migrate: bool,
    /// What is between.
    pub pooler: Pooler,
    /// Most connections at a time, 1 to 1000.
    pub max_connections: u32,
    /// How long a call may wait for a connection, connecting included.
    pub connect_timeout: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
}

impl Config {
    /// The address with the defaults: migrated when connecting, no pooler, 16 connections, 2 s to connect, 5 s per
    /// statement.
    #[must_use]
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            migrate_url: None,
            auto_migrate: true,
            pooler: Pooler::None,
            max_connections: 16,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
        }
    }

    /// After this a call has answered, if only that the store is unavailable. A server that is down answers after
    /// `connect_timeout`; the rest is for one that hangs in the middle of a transaction.
    #[must_use]
    pub fn bound(&self) -> Duration {
        self.connect_timeout.saturating_add(self.statement_timeout)
    }
}

/// Named by the keys of a store's table. `url` may name another store here: then nothing of Postgres's may be set.
impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        let owner = self.migrate_url.as_ref().map(|url| url.expose_secret());
        violations.require((1..=1_000).contains(&self.max_connections), "max_connections", "must be 1 to 1000");
        violations.require(owner.is_none_or(is_postgres), "migrate_url", "must be `postgres://…`");
        violations.require(
            is_postgres(self.url.expose_secret()) || (owner.is_none() && self.pooler == Pooler::None),
            "url",
            "must be `postgres://…` where migrate_url or pooler is set",
        );
        violations.require(
            self.pooler == Pooler::None || owner.is_some() || !self.auto_migrate,
            "migrate_url",
            "must be set behind a pooler: migrations need a direct connection",
        );
    }
}

/// Whether an address is one of Postgres.
#[must_use]
pub fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}
