//! `[session.tenants.NAME.hooks.HOOK]`: where to tell what happens in the tenant's sessions. Not reloadable.

use std::collections::BTreeSet;
use std::time::Duration;

use mar_runtime::config::{SecretRef, Validate};
use mar_runtime::status::chain;
use mar_runtime::violations::Violations;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::hooks::{Address, Hook, Key, NoticeKind};

/// `[session.tenants.NAME.hooks.HOOK]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HookConfig {
    /// `https://…` or `http://…` of a webhook, `grpcs://host:port` or `grpc://host:port` of an `EventSinkService`. Required.
    pub url: String,
    /// What notices are signed with, at least 16 bytes; `whsec_` and Base64, or the bytes themselves. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Only these kinds; all by default.
    pub kinds: BTreeSet<NoticeKind>,
    /// Attempts before a notice is dead, 12 by default; 1 to 100.
    pub max_attempts: i32,
    /// Pause before the second attempt, doubled with each up to 10 min; 1 s by default, 10 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// How long one attempt may take, 10 s by default; 100 ms to 20 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for HookConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            secret: None,
            kinds: BTreeSet::new(),
            max_attempts: 12,
            retry: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
        }
    }
}

impl HookConfig {
    /// The hook as the service uses it.
    pub(crate) fn hook(&self, tenant: &str, name: &str) -> Result<Hook, String> {
        Ok(Hook {
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            address: Address::parse(&self.url)?,
            key: self.key()?,
            kinds: self.kinds.clone(),
            max_attempts: self.max_attempts,
            retry: self.retry,
            timeout: self.timeout,
        })
    }

    fn key(&self) -> Result<Key, String> {
        let place = self.secret.as_ref().ok_or("must name the secret that notices are signed with")?;
        let secret = place.resolve().map_err(|error| chain(&error))?;
        Key::parse(secret.expose_secret()).map_err(str::to_owned)
    }
}

impl Validate for HookConfig {
    fn validate(&self, found: &mut Violations) {
        found.take("url", Address::parse(&self.url));
        found.take("secret", self.key());
        found.require((1..=100).contains(&self.max_attempts), "max_attempts", "must be 1 to 100");
        let pauses = Duration::from_millis(10)..=Duration::from_secs(600);
        found.require(pauses.contains(&self.retry), "retry", "must be 10ms to 10m");
        let spans = Duration::from_millis(100)..=Duration::from_secs(20);
        found.require(spans.contains(&self.timeout), "timeout", "must be 100ms to 20s");
    }
}
