//! Page sizes and opaque page tokens.
//!
//! A token carries where the next page starts and a digest that binds it to the request that it came from: tenant,
//! method and filter. A token that was cut, altered, or taken from another tenant's or another filter's list is refused.
//! The digest is no signature: a token grants nothing, since every read is scoped to the caller's tenant anyway.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::violations::Violations;

/// Entries of a page when the request does not say.
pub const DEFAULT_SIZE: usize = 50;
/// The most entries of a page; a larger wish is cut to it.
pub const MAX_SIZE: usize = 500;

const DIGEST_BYTES: usize = 16;
const DOMAIN: &[u8] = b"mcp-agent-runtime/page-token/v1\n";

/// What a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(Vec<u8>);

impl Scope {
    /// The scope of a list: who asks, the RPC's name, and every field that changes which entries are listed and how
    /// they are ordered. `page_size` is no such field.
    pub fn new(tenant: &str, method: &str, filter: &[&str]) -> Self {
        let mut bytes = Vec::new();
        for part in [tenant, method].iter().chain(filter) {
            // Lengths keep ("ab", "c") and ("a", "bc") apart.
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Self(bytes)
    }
}

/// Reads `page_size`: 0 is the default, more than the maximum is the maximum, negative is a violation.
pub fn size(wish: i32, violations: &mut Violations) -> usize {
    match usize::try_from(wish) {
        Ok(0) => DEFAULT_SIZE,
        Ok(size) => size.min(MAX_SIZE),
        Err(_) => {
            violations.field("page_size", "must not be negative");
            DEFAULT_SIZE
        }
    }
}

/// The token of the page that starts at `cursor`. A cursor that cannot be written as JSON gives an empty token, which
/// ends the list.
pub fn encode<T: Serialize>(cursor: &T, scope: &Scope) -> String {
    let Ok(cursor) = serde_json::to_vec(cursor) else {
        tracing::error!("page cursor cannot be written as JSON");
        return String::new();
    };
    let mut token = digest(&cursor, scope).to_vec();
    token.extend_from_slice(&cursor);
    URL_SAFE_NO_PAD.encode(token)
}

/// Reads `page_token`: none for the first page; a token that is not of this list is a violation.
pub fn decode<T: DeserializeOwned>(token: &str, scope: &Scope, violations: &mut Violations) -> Option<T> {
    if token.is_empty() {
        return None;
    }
    let cursor = open(token, scope);
    if cursor.is_none() {
        violations.field("page_token", "is not a token of this list; start again without one");
    }
    cursor
}

fn open<T: DeserializeOwned>(token: &str, scope: &Scope) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (found, cursor) = bytes.split_at_checked(DIGEST_BYTES)?;
    if found != digest(cursor, scope) {
        return None;
    }
    serde_json::from_slice(cursor).ok()
}

fn digest(cursor: &[u8], scope: &Scope) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update((scope.0.len() as u64).to_be_bytes());
    hash.update(&scope.0);
    hash.update(cursor);
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&hash.finalize()[..DIGEST_BYTES]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(token: &str, scope: &Scope) -> bool {
        let mut violations = Violations::new();
        let cursor: Option<(i64, String)> = decode(token, scope, &mut violations);
        cursor.is_none() && violations.iter().any(|violation| violation.field == "page_token")
    }

    #[test]
    fn a_token_opens_for_its_own_list_only() {
        let cursor = (7, "run".to_owned());
        let scope = Scope::new("acme", "ListRuns", &["state=RUNNING"]);
        let token = encode(&cursor, &scope);
        let mut violations = Violations::new();
        assert_eq!(decode(&token, &scope, &mut violations), Some(cursor));
        assert!(violations.is_empty());

        assert!(refused(&token, &Scope::new("other", "ListRuns", &["state=RUNNING"])));
        assert!(refused(&token, &Scope::new("acme", "ListSessions", &["state=RUNNING"])));
        assert!(refused(&token, &Scope::new("acme", "ListRuns", &["state=FAILED"])));
        assert!(refused(&token, &Scope::new("acmeListRuns", "", &["state=RUNNING"])));
    }

    #[test]
    fn an_altered_token_is_refused() {
        let scope = Scope::new("acme", "ListRuns", &[]);
        let token = encode(&(7, "run"), &scope);
        let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(refused(&URL_SAFE_NO_PAD.encode(&bytes), &scope), "byte {at}");
            bytes[at] ^= 1;
        }
        for junk in ["x", "%%%", "AAAA", &token[..token.len() - 2]] {
            assert!(refused(junk, &scope), "{junk}");
        }
    }

    #[test]
    fn sizes_are_clamped() {
        let mut violations = Violations::new();
        assert_eq!([0, 7, 9_999].map(|wish| size(wish, &mut violations)), [DEFAULT_SIZE, 7, MAX_SIZE]);
        assert!(violations.is_empty());
        size(-1, &mut violations);
        assert!(!violations.is_empty());
    }
}
