//! `[router]`. No key of it is reloadable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ::http::{HeaderName, HeaderValue};
use mar_descriptor::{TrustTier, VerifyingKeys};
use mar_runtime::ServiceName;
use mar_runtime::config::{SecretRef, ServiceConfig, Validate};
use mar_runtime::violations::Violations;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::catalogue::Catalogue;
use crate::dispatch::RetryConfig;
use crate::policy::{self, PolicyConfig, RoutingPolicies};
use crate::provider::http::{HeaderMap, HttpConfig};
use crate::provider::openai::{Bounds, Dialect, MaxTokensField, SystemRole};

/// The router's own table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfig {
    /// The address to serve on, `127.0.0.1:7442` by default.
    pub listen: SocketAddr,
    /// The catalogue file; the one that is compiled in by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<PathBuf>,
    /// PEM files with the public keys of those whose descriptors are accepted. With none, no descriptor is.
    pub descriptor_key_files: Vec<PathBuf>,
    /// The routing policy of requests that name none, `balanced` by default.
    pub default_routing_policy: String,
    /// The least trust tier of environments that are not named in `environments`, `PRODUCTION` by default.
    pub default_min_trust_tier: String,
    /// The least trust tier by environment; `dev` is `UNVERIFIED`, `staging` is `ALIGNED` and `prod` is `PRODUCTION`
    /// unless set here.
    pub environments: BTreeMap<String, String>,
    /// How failed attempts are followed up.
    pub retry: RetryConfig,
    /// The HTTP client of all providers.
    pub http: HttpConfig,
    /// Model providers by the name that the catalogue uses.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Routing policies by name, besides `balanced`.
    pub routing_policies: BTreeMap<String, PolicyConfig>,
}

/// `[router.providers.<name>]`: a server that speaks OpenAI's chat completions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// What clients of the API want, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// The key, sent as bearer token. None: the server asks for none. While it is missing the provider's
    /// models are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
    /// The field that bounds the output: `max_tokens` (default) or `max_completion_tokens`.
    #[serde(default)]
    pub max_tokens_field: MaxTokensField,
    /// The role of the agent's instructions: `system` (default) or `developer`.
    #[serde(default)]
    pub system_role: SystemRole,
    /// Whether the server knows `stream_options.include_usage`, true by default.
    #[serde(default = "yes")]
    pub stream_usage: bool,
    /// Further headers. Not for secrets: they are shown by `--dump-config`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How long the provider may take, and how much it may send.
    #[serde(default)]
    pub bounds: Bounds,
}

fn yes() -> bool {
    true
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7442)),
            catalogue: None,
            descriptor_key_files: Vec::new(),
            default_routing_policy: policy::BALANCED.to_owned(),
            default_min_trust_tier: TrustTier::Production.as_str().to_owned(),
            environments: BTreeMap::new(),
            retry: RetryConfig::default(),
            http: HttpConfig::default(),
            providers: BTreeMap::new(),
            routing_policies: BTreeMap::new(),
        }
    }
}

impl ProviderConfig {
    /// A server without a key.
    pub fn at(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: None,
            max_tokens_field: MaxTokensField::default(),
            system_role: SystemRole::default(),
            stream_usage: true,
            headers: BTreeMap::new(),
            bounds: Bounds::default(),
        }
    }

    /// The URL, if it is one.
    pub fn url(&self) -> Option<Url> {
        let url = Url::parse(&self.base_url).ok()?;
        let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none();
        fits.then_some(url)
    }

    /// The further headers; those that are none are violations and left out.
    pub fn header_map(&self, found: &mut Violations) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                (Ok(name), Ok(value)) => {
                    map.insert(name, value);
                }
                _ => {
                    found.field(&format!("headers.{name}"), "is no header that can be sent");
                }
            }
        }
        map
    }

    /// In what the server differs.
    pub fn dialect(&self) -> Dialect {
        Dialect { max_tokens: self.max_tokens_field, system_role: self.system_role, stream_usage: self.stream_usage }
    }

    fn validate(&self, found: &mut Violations) {
        let text = "must be a URL such as https://api.openai.com/v1";
        found.require(self.url().is_some(), "base_url", text);
        self.header_map(found);
        let bounds = self.bounds;
        let spans = [bounds.first_byte, bounds.idle, bounds.total];
        found.require(spans.iter().all(|span| !span.is_zero()), "bounds", "must have no time of 0");
        found.require(bounds.max_answer.bytes() > 0, "bounds.max_answer", "must not be 0");
    }
}

impl RouterConfig {
    /// Reads the catalogue.
    ///
    /// # Errors
    /// The file cannot be read, or everything that is wrong with it, relative to `catalogue`.
    pub fn load_catalogue(&self) -> Result<Catalogue, Violations> {
        let Some(path) = &self.catalogue else {
            return Catalogue::built_in();
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Catalogue::parse(&text),
            Err(error) => {
                let mut found = Violations::new();
                found.field("", format!("{} cannot be read: {error}", path.display()));
                Err(found)
            }
        }
    }

    /// Reads the public keys.
    pub fn load_keys(&self, found: &mut Violations) -> VerifyingKeys {
        let mut keys = VerifyingKeys::new();
        found.files("descriptor_key_files", &self.descriptor_key_files, |pem| keys.add_pem(pem));
        keys
    }

    /// The least tier of an environment.
    pub fn min_trust_tier(&self, environment: &str) -> TrustTier {
        let built_in = match environment {
            "dev" => Some(TrustTier::Unverified),
            "staging" => Some(TrustTier::Aligned),
            "prod" => Some(TrustTier::Production),
            _ => None,
        };
        let own = self.environments.get(environment).and_then(|tier| tier.parse().ok());
        let default = || self.default_min_trust_tier.parse().ok();
        own.or(built_in).or_else(default).unwrap_or(TrustTier::Production)
    }
}

impl Validate for RouterConfig {
    fn validate(&self, found: &mut Violations) {
        if let Err(wrong) = self.load_catalogue() {
            found.within("catalogue", |found| found.extend(wrong));
        }
        self.load_keys(found);
        let tier = |tier: &str| tier.parse::<TrustTier>();
        found.take("default_min_trust_tier", tier(&self.default_min_trust_tier));
        for (name, least) in &self.environments {
            found.take(&format!("environments.{name}"), tier(least));
        }
        found.within("retry", |found| self.retry.validate(found));
        found.require(!self.http.connect_timeout.is_zero(), "http.connect_timeout", "must not be 0");
        for (name, provider) in &self.providers {
            found.within(&format!("providers.{name}"), |found| provider.validate(found));
        }
        for (name, policy) in &self.routing_policies {
            found.within(&format!("routing_policies.{name}"), |found| policy.validate(found));
        }
        let known = RoutingPolicies::try_new(&self.routing_policies, &self.default_routing_policy);
        found.require(known.is_some(), "default_routing_policy", "is not among the routing policies");
    }
}

impl ServiceConfig for RouterConfig {
    const SERVICE: ServiceName = ServiceName::Router;

    fn listen(&self) -> SocketAddr {
        self.listen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        let mut found = Violations::new();
        RouterConfig::default().validate(&mut found);
        assert!(found.is_empty(), "{found}");
    }

    #[test]
    fn a_default_policy_that_cannot_be_read_is_not_said_to_be_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mar.toml");
        let text = "[router]\ndefault_routing_policy = \"cheap\"\n[router.routing_policies.cheap]\nversion = \"1\"";
        std::fs::write(&path, text).unwrap();
        let sources = mar_runtime::config::Sources { file: Some(path), ..Default::default() };
        let lines = mar_runtime::config::load::<RouterConfig>(&sources).unwrap_err().lines();
        assert!(lines.len() == 2, "{lines:?}");
        assert!(lines[0].starts_with("router.routing_policies.cheap.version: invalid type"), "{lines:?}");
        assert_eq!(lines[1], "router.routing_policies.cheap.weights: is missing");
    }

    #[test]
    fn every_problem_is_named_by_its_path() {
        let text = r#"
            catalogue = "/no/such/file"
            descriptor_key_files = ["/no/such/key"]
            default_routing_policy = "fast"
            environments = { dev = "SOME" }
            retry = { base = "2s", max = "1s" }
            [providers.x]
            base_url = "nowhere"
            headers = { "a b" = "c" }
            bounds = { idle = "0s" }
            [routing_policies.cheap]
            version = 1
            weights = { quality = 1, price = 1, latency = 1 }
        "#;
        let config: RouterConfig = toml::from_str(text).unwrap();
        let mut found = Violations::new();
        config.validate(&mut found);
        let fields: Vec<_> = found.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "catalogue",
                "descriptor_key_files[0]",
                "environments.dev",
                "retry.base",
                "providers.x.base_url",
                "providers.x.headers.a b",
                "providers.x.bounds",
                "routing_policies.cheap.weights",
                "default_routing_policy",
            ]
        );
    }

    #[test]
    fn environments_ask_for_tiers() {
        let mut config = RouterConfig::default();
        assert_eq!(config.min_trust_tier("dev"), TrustTier::Unverified);
        assert_eq!(config.min_trust_tier("staging"), TrustTier::Aligned);
        assert_eq!(config.min_trust_tier("prod"), TrustTier::Production);
        assert_eq!(config.min_trust_tier("lab"), TrustTier::Production);
        config.environments.insert("lab".into(), "EXPERIMENTAL".into());
        assert_eq!(config.min_trust_tier("lab"), TrustTier::Experimental);
    }

    #[test]
    fn keys_are_known_and_typos_are_not() {
        assert!(toml::from_str::<RouterConfig>("lisen = \"127.0.0.1:1\"").is_err());
        let provider = "[providers.o]\nbase_url = \"https://x/v1\"\napi_key = { env = \"K\" }\nmax_tokens_field = \"max_completion_tokens\"";
        let config: RouterConfig = toml::from_str(provider).unwrap();
        assert_eq!(config.providers["o"].max_tokens_field, MaxTokensField::MaxCompletionTokens);
    }
}
