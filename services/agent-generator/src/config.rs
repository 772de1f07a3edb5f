//! `[agent_generator]`. No key of it is reloadable.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mar_alignment::{Layer, Policy, PolicyText, default_platform};
use mar_descriptor::SigningKey;
use mar_postgres::{Config as PostgresConfig, Pooler, is_postgres};
use mar_runtime::ServiceName;
use mar_runtime::config::{SecretRef, ServiceConfig, Validate};
use mar_runtime::status::chain;
use mar_runtime::violations::Violations;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::recipe::Catalogue;

/// `[agent_generator]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address to serve on, `127.0.0.1:7443` by default.
    pub listen: SocketAddr,
    /// The platform's alignment policy in Cedar; without one, the built-in default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_policy: Option<PathBuf>,
    /// A folder of recipes beside those in the binary, a subfolder each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipes: Option<PathBuf>,
    /// The Ed25519 private key (PKCS#8 PEM) that seals descriptors. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<SecretRef>,
    /// The most tools of one agent, 128 by default, 1 to 1000.
    pub max_tools: usize,
    /// Where descriptors are kept.
    pub store: StoreConfig,
}

/// `[agent_generator.store]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `postgres://…`, or `sqlite:` and a path; `sqlite:agent-generator.db` by default.
    pub url: String,
    /// Most connections to Postgres at a time, 8 by default.
    pub max_connections: u32,
    /// `postgres://…` of the schema's owner, a direct connection, for `agent-generator migrate`; `url` without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrate_url: Option<String>,
    /// Whether the service brings the schema up to date when it starts: by default where there is no `migrate_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_migrate: Option<bool>,
    /// What is between the service and Postgres: `none`, the default, or `transaction` for a proxy that gives each
    /// transaction another connection.
    pub pooler: Pooler,
}

/// Which store a configuration names.
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// Postgres by its URL.
    Postgres(SecretString),
    /// A SQLite file.
    Sqlite(PathBuf),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7443)),
            platform_policy: None,
            recipes: None,
            signing_key: None,
            max_tools: 128,
            store: StoreConfig::default(),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "sqlite:agent-generator.db".to_owned(),
            max_connections: 8,
            migrate_url: None,
            auto_migrate: None,
            pooler: Pooler::None,
        }
    }
}

impl StoreConfig {
    /// Which store it is; none when the URL is neither.
    #[must_use]
    pub fn kind(&self) -> Option<StoreKind> {
        if is_postgres(&self.url) {
            return Some(StoreKind::Postgres(self.url.clone().into()));
        }
        let path = self.url.strip_prefix("sqlite:")?;
        let path = path.strip_prefix("//").unwrap_or(path);
        (!path.is_empty() && path != ":memory:").then(|| StoreKind::Sqlite(path.into()))
    }

    /// How Postgres is used, where it is the store.
    #[must_use]
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

impl Config {
    /// The platform's policy layer.
    ///
    /// # Errors
    /// What is wrong with the file, or with its policy, line by line.
    pub fn load_policy(&self) -> Result<Arc<Policy>, Vec<String>> {
        let text = match &self.platform_policy {
            Some(path) => {
                PolicyText { layer: Layer::Platform, name: "platform".to_owned(), version: 1, text: read(path)? }
            }
            None => default_platform(),
        };
        Policy::parse(text).map(Arc::new).map_err(|found| found.iter().map(ToString::to_string).collect())
    }

    /// The recipes of the binary and of the folder.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, line by line.
    pub fn load_recipes(&self) -> Result<Catalogue, Vec<String>> {
        let catalogue = Catalogue::embedded();
        let catalogue = match &self.recipes {
            Some(folder) => catalogue.and_then(|catalogue| catalogue.with_folder(folder)),
            None => catalogue,
        };
        catalogue.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    /// The key that seals.
    ///
    /// # Errors
    /// It is not configured, cannot be read, or is no key. Never holds key material.
    pub fn load_key(&self) -> Result<SigningKey, String> {
        let place = self.signing_key.as_ref().ok_or("must name the key that seals descriptors")?;
        let pem = place.resolve().map_err(|error| chain(&error))?;
        SigningKey::from_pem(pem.expose_secret()).map_err(|error| error.to_string())
    }
}

fn read(path: &Path) -> Result<String, Vec<String>> {
    std::fs::read_to_string(path).map_err(|error| vec![format!("{}: {error}", path.display())])
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        if let Err(lines) = self.load_policy() {
            for line in lines {
                violations.field("platform_policy", line);
            }
        }
        for line in self.load_recipes().err().unwrap_or_default() {
            violations.field("recipes", line);
        }
        violations.take("signing_key", self.load_key());
        violations.require((1..=1_000).contains(&self.max_tools), "max_tools", "must be 1 to 1000");
        violations.within("store", |found| self.store.validate(found));
    }
}

impl ServiceConfig for Config {
    const SERVICE: ServiceName = ServiceName::AgentGenerator;
    const AFTER_HELP: &'static str =
        "Commands:\n  agent-generator migrate  brings the schema of the store up to date, as its owner";

    fn listen(&self) -> SocketAddr {
        self.listen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_by_url() {
        let kind = |url: &str| StoreConfig { url: url.to_owned(), ..StoreConfig::default() }.kind();
        assert!(matches!(kind("postgres://u@h/d"), Some(StoreKind::Postgres(_))));
        assert!(matches!(kind("sqlite:a/b.db"), Some(StoreKind::Sqlite(path)) if path == Path::new("a/b.db")));
        assert!(matches!(kind("sqlite:///a/b.db"), Some(StoreKind::Sqlite(path)) if path == Path::new("/a/b.db")));
        for bad in ["", "sqlite:", "sqlite::memory:", "mysql://h", "a.db"] {
            assert!(kind(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn behind_a_pooler_somebody_else_migrates() {
        let wrong = |change: fn(&mut StoreConfig)| {
            let mut config = StoreConfig { url: "postgres://app@h/d".to_owned(), ..StoreConfig::default() };
            change(&mut config);
            let mut found = Violations::new();
            config.validate(&mut found);
            found.iter().map(|one| one.field.clone()).collect::<Vec<_>>()
        };
        assert_eq!(wrong(|config| config.pooler = Pooler::Transaction), ["migrate_url"]);
        assert_eq!(wrong(|config| config.migrate_url = Some("mysql://h".to_owned())), ["migrate_url"]);
        assert!(wrong(|config| config.url = "sqlite:a.db".to_owned()).is_empty());
        assert_eq!(
            wrong(|config| {
                config.url = "sqlite:a.db".to_owned();
                config.migrate_url = Some("postgres://owner@h/d".to_owned());
            }),
            ["url"]
        );
        assert!(StoreConfig::default().postgres().is_none());
        let owner = || Some("postgres://owner@h/d".to_owned());
        let migrates = |migrate_url: Option<String>, auto_migrate| {
            let url = "postgres://app@h/d".to_owned();
            StoreConfig { url, migrate_url, auto_migrate, ..StoreConfig::default() }.postgres().unwrap().auto_migrate
        };
        assert!(migrates(None, None) && migrates(owner(), Some(true)));
        assert!(!migrates(owner(), None) && !migrates(None, Some(false)));
    }

    #[test]
    fn a_platform_rule_that_nobody_would_ask_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.cedar");
        std::fs::write(&policy, "permit (principal, action == Action::\"startSession\", resource);").unwrap();
        let lines = Config { platform_policy: Some(policy), ..Config::default() }.load_policy().unwrap_err();
        assert!(lines.len() == 1 && lines[0].contains("startSession, which no service decides yet"), "{lines:?}");
    }

    #[test]
    fn every_recipe_that_is_refused_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            let recipe = folder.path().join(name);
            std::fs::create_dir(&recipe).unwrap();
            std::fs::write(recipe.join("recipe.toml"), "name = \nversion = 1").unwrap();
            std::fs::write(recipe.join("system.jinja"), "s").unwrap();
            std::fs::write(recipe.join("task.jinja"), "{{ input }}").unwrap();
        }
        let config = Config { recipes: Some(folder.path().to_owned()), ..Config::default() };
        let mut found = Violations::new();
        config.validate(&mut found);
        let lines: Vec<_> = found.iter().filter(|one| one.field == "recipes").map(|one| &one.description).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (line, recipe) in lines.into_iter().zip(["one", "two"]) {
            assert!(line.starts_with(&format!("recipe {recipe}: recipe.toml line 1, column ")), "{line}");
            assert!(!line.contains('\n') && !line.contains('^'), "{line}");
        }
    }

    #[test]
    fn everything_wrong_is_named_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.cedar");
        std::fs::write(&policy, "permit (principal, action, resource) when { nonsense };").unwrap();
        let config = Config {
            platform_policy: Some(policy),
            recipes: Some(folder.path().join("none")),
            signing_key: None,
            max_tools: 0,
            store: StoreConfig { url: "x".into(), max_connections: 0, ..StoreConfig::default() },
            ..Config::default()
        };
        let mut found = Violations::new();
        config.validate(&mut found);
        let fields: std::collections::BTreeSet<_> = found.iter().map(|one| one.field.as_str()).collect();
        let expected = ["max_tools", "platform_policy", "recipes", "signing_key", "store.max_connections", "store.url"];
        assert_eq!(fields.into_iter().collect::<Vec<_>>(), expected);
    }
}
