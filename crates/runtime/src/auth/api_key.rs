//! API keys: `mar_<id>_<secret>`, known by their SHA-256.

use std::collections::HashMap;
use std::hint::black_box;

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tonic::Status;

use super::config::ApiKeyConfig;
use super::{Caller, unauthenticated};
use crate::clock::{Ids, random};
use crate::violations::Violations;

const PREFIX: &str = "mar_";
const REFUSED: &str = "the key is unknown or has expired";

/// Whether a credential has the form of a key.
pub fn looks_like_one(credential: &str) -> bool {
    credential.starts_with(PREFIX)
}

/// A new key for `id` and the hash that belongs in the configuration.
pub fn generate(id: &str, ids: &dyn Ids) -> (String, String) {
    let key = format!("{PREFIX}{id}_{}", hex::encode(random::<32>(ids)));
    let hash = hex::encode(Sha256::digest(&key));
    (key, hash)
}

/// The configured keys by id.
#[derive(Debug, Default)]
pub struct Ring {
    keys: HashMap<String, Key>,
}

#[derive(Debug)]
struct Key {
    hash: [u8; 32],
    caller: Caller,
    not_after: Option<OffsetDateTime>,
}

impl Ring {
    /// Reads the configured keys.
    ///
    /// # Errors
    /// Every violation, with paths such as `api_keys[1].sha256`.
    pub fn try_new(configs: &[ApiKeyConfig]) -> Result<Self, Violations> {
        let mut found = Violations::new();
        let mut keys = HashMap::new();
        for (index, config) in configs.iter().enumerate() {
            found.item("api_keys", index, |found| {
                let Some(key) = Key::try_new(config, found) else {
                    return;
                };
                if keys.insert(config.id.clone(), key).is_some() {
                    found.field("id", format!("\"{}\" is used twice", config.id));
                }
            });
        }
        found.into_result(Self { keys })
    }

    /// The caller that holds `key`.
    ///
    /// # Errors
    /// UNAUTHENTICATED, with one text for every cause.
    pub fn caller(&self, key: &str, now: OffsetDateTime) -> Result<Caller, Status> {
        let id = key.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map(|(id, _)| id);
        let found = id.and_then(|id| self.keys.get(id));
        let presented: [u8; 32] = Sha256::digest(key).into();
        // An unknown id costs as much as a wrong secret.
        let expected = found.map_or([0; 32], |key| key.hash);
        let same = constant_time_eq(&presented, &expected);
        found
            .filter(|key| same && key.not_after.is_none_or(|end| now < end))
            .map(|key| key.caller.clone())
            .ok_or_else(|| unauthenticated(REFUSED))
    }
}

impl Key {
    fn try_new(config: &ApiKeyConfig, found: &mut Violations) -> Option<Self> {
        let id = &config.id;
        let fits = (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        found.require(fits, "id", "must be 1 to 64 of a-z, 0-9 and -");
        for (name, value) in
            [("tenant", &config.tenant), ("principal", &config.principal), ("environment", &config.environment)]
        {
            found.require(!value.is_empty(), name, "must not be empty");
        }
        let mut hash = [0; 32];
        if hex::decode_to_slice(&config.sha256, &mut hash).is_err() {
            found.field("sha256", "must be 64 hexadecimal digits: the SHA-256 of the whole key");
            return None;
        }
        let caller = Caller {
            tenant: config.tenant.clone(),
            principal: config.principal.clone(),
            end_user: None,
            groups: config.groups.iter().cloned().collect(),
            scopes: config.scopes.iter().cloned().collect(),
            environment: config.environment.clone(),
        };
        Some(Self { hash, caller, not_after: config.not_after })
    }
}

/// Compares without telling by its time where the first difference is.
fn constant_time_eq(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let difference = left.iter().zip(right).fold(0, |sum, (left, right)| black_box(sum | (left ^ right)));
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SequentialIds;

    fn config(id: &str, sha256: String) -> ApiKeyConfig {
        ApiKeyConfig {
            id: id.into(),
            sha256,
            tenant: "acme".into(),
            principal: "ci".into(),
            groups: vec!["builders".into()],
            scopes: vec!["runs.write".into()],
            environment: "prod".into(),
            not_after: Some(OffsetDateTime::UNIX_EPOCH + time::Duration::days(10)),
        }
    }

    #[test]
    fn a_key_yields_its_caller_until_it_ends() {
        let (key, hash) = generate("ci", &SequentialIds::default());
        let ring = Ring::try_new(&[config("ci", hash)]).unwrap();
        let caller = ring.caller(&key, OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!((caller.tenant.as_str(), caller.environment.as_str()), ("acme", "prod"));
        assert!(caller.require_scope("runs.write").is_ok());
        let refused = caller.require_scope("policies.write").unwrap_err();
        assert_eq!(crate::status::metadata(&refused)["scope"], "policies.write");

        let end = OffsetDateTime::UNIX_EPOCH + time::Duration::days(10);
        assert!(ring.caller(&key, end).is_err());
    }

    #[test]
    fn wrong_and_unknown_keys_are_refused_alike() {
        let (key, hash) = generate("ci", &SequentialIds::default());
        let ring = Ring::try_new(&[config("ci", hash)]).unwrap();
        let mut texts = std::collections::BTreeSet::new();
        for wrong in [format!("{key}0"), "mar_ci_".into(), "mar_".into(), "mar_other_00".into(), "mar_ci".into()] {
            texts.insert(ring.caller(&wrong, OffsetDateTime::UNIX_EPOCH).unwrap_err().message().to_owned());
        }
        assert_eq!(texts.len(), 1);
    }

    #[test]
    fn every_bad_entry_is_named() {
        let (_, hash) = generate("a", &SequentialIds::default());
        let bad = ApiKeyConfig { tenant: String::new(), ..config("No_Good", "abc".into()) };
        let found = Ring::try_new(&[config("a", hash.clone()), config("a", hash), bad]).unwrap_err();
        let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["api_keys[1].id", "api_keys[2].id", "api_keys[2].tenant", "api_keys[2].sha256"]);
    }
}
