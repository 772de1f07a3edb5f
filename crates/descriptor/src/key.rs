//! Ed25519 keys: one that signs, and the set that verifies.

use std::{collections::BTreeMap, fmt};

use ed25519_dalek::{
    Signer,
    pkcs8::{
        DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes, spki::der::pem::LineEnding,
    },
};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::error::Error;

/// A key that seals. Its secret is never printed and is wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    key_id: String,
}

impl SigningKey {
    /// The key with this seed. The caller draws the seed from a secure source.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::new(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Reads a PKCS#8 private key (RFC 8410) in PEM, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// [`Error::Key`] when the text is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(pem.trim_start())
            .map_err(|e| Error::Key(format!("not an Ed25519 private key in PKCS#8 PEM ({e})")))?;
        Ok(Self::new(key))
    }

    /// Writes the private key as PKCS#8 PEM.
    ///
    /// # Errors
    /// [`Error::Key`] when the encoder fails.
    pub fn to_pem(&self) -> Result<SecretString, Error> {
        // Without the public key inside this is PKCS#8 version 1, which older OpenSSL releases read too.
        let pair = KeypairBytes { secret_key: self.key.to_bytes(), public_key: None };
        let pem = pair
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|e| Error::Key(format!("private key cannot be written ({e})")))?;
        Ok(SecretString::from(pem.as_str()))
    }

    /// Writes the public key as SPKI PEM.
    ///
    /// # Errors
    /// [`Error::Key`] when the encoder fails.
    pub fn public_pem(&self) -> Result<String, Error> {
        self.key
            .verifying_key()
            .to_public_key_pem(LineEnding::LF)
            .map_err(|e| Error::Key(format!("public key cannot be written ({e})")))
    }

    /// The public key's 32 bytes.
    #[must_use]
    pub fn public_bytes(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The first 16 hex digits of the SHA-256 of the public key.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// A set that holds this key's public half alone.
    #[must_use]
    pub fn verifying_keys(&self) -> VerifyingKeys {
        VerifyingKeys { keys: BTreeMap::from([(self.key_id.clone(), self.key.verifying_key())]) }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    fn new(key: ed25519_dalek::SigningKey) -> Self {
        let key_id = key_id(key.verifying_key().as_bytes());
        Self { key, key_id }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// The public keys whose signatures count. Several at once let keys rotate without a gap.
#[derive(Clone, Debug, Default)]
pub struct VerifyingKeys {
    keys: BTreeMap<String, ed25519_dalek::VerifyingKey>,
}

impl VerifyingKeys {
    /// No key: nothing verifies.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads SPKI public keys in PEM, one text per key.
    ///
    /// # Errors
    /// [`Error::Key`] for the first text that is not such a key.
    pub fn from_pems<'a>(pems: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut keys = Self::new();
        for pem in pems {
            keys.add_pem(pem)?;
        }
        Ok(keys)
    }

    /// Adds an SPKI public key in PEM and returns its id.
    ///
    /// # Errors
    /// [`Error::Key`] when the text is anything else, or the key is a weak one.
    pub fn add_pem(&mut self, pem: &str) -> Result<String, Error> {
        let key = ed25519_dalek::VerifyingKey::from_public_key_pem(pem.trim_start())
            .map_err(|e| Error::Key(format!("not an Ed25519 public key in SPKI PEM ({e})")))?;
        self.add(key)
    }

    /// Adds a public key by its 32 bytes and returns its id.
    ///
    /// # Errors
    /// [`Error::Key`] when the bytes are no key, or a weak one.
    pub fn add_bytes(&mut self, bytes: &[u8; 32]) -> Result<String, Error> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes)
            .map_err(|_| Error::Key("not an Ed25519 public key".to_owned()))?;
        self.add(key)
    }

    /// Adds all keys of another set.
    pub fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
    }

    /// Whether the set holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The ids of the keys, in order.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// None when the key is not in the set, else whether the signature fits.
    pub(crate) fn check(&self, key_id: &str, message: &[u8], signature: &[u8]) -> Option<bool> {
        let key = self.keys.get(key_id)?;
        let fits =
            ed25519_dalek::Signature::from_slice(signature).is_ok_and(|sig| key.verify_strict(message, &sig).is_ok());
        Some(fits)
    }

    fn add(&mut self, key: ed25519_dalek::VerifyingKey) -> Result<String, Error> {
        if key.is_weak() {
            return Err(Error::Key("public key is of small order".to_owned()));
        }
        let key_id = key_id(key.as_bytes());
        self.keys.insert(key_id.clone(), key);
        Ok(key_id)
    }
}

fn key_id(public: &[u8; 32]) -> String {
    let mut id = hex::encode(Sha256::digest(public));
    id.truncate(16);
    id
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn pem_round_trips() {
        let key = SigningKey::from_seed(&[7; 32]);
        let pem = key.to_pem().unwrap();
        assert!(pem.expose_secret().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert_eq!(SigningKey::from_pem(pem.expose_secret()).unwrap().key_id(), key.key_id());
        let keys = VerifyingKeys::from_pems([key.public_pem().unwrap().as_str()]).unwrap();
        assert_eq!(keys.key_ids().collect::<Vec<_>>(), [key.key_id()]);
        assert_eq!(key.key_id().len(), 16);
    }

    /// The example keys of RFC 8410 §10, written as other tools write them.
    #[test]
    fn pem_is_that_of_rfc_8410() {
        let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let key = SigningKey::from_pem(private).unwrap();
        assert_eq!(key.to_pem().unwrap().expose_secret(), private);
        assert_eq!(key.public_pem().unwrap(), public);
    }

    #[test]
    fn refuses_what_is_no_key() {
        let key = SigningKey::from_seed(&[7; 32]);
        let public = key.public_pem().unwrap();
        for bad in ["", "hello", &public, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(matches!(SigningKey::from_pem(bad), Err(Error::Key(_))), "{bad}");
        }
        let private = key.to_pem().unwrap();
        for bad in ["", "hello", private.expose_secret()] {
            assert!(matches!(VerifyingKeys::from_pems([bad]), Err(Error::Key(_))));
        }
        // The identity point is of small order: with it anybody could sign.
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(VerifyingKeys::new().add_bytes(&identity).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", SigningKey::from_seed(&[0xAB; 32]));
        assert!(!shown.to_lowercase().contains("abab") && !shown.contains("171"), "{shown}");
    }
}
