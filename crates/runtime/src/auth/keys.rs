//! Ed25519 key pairs as PEM: how they are made, written and read.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use crate::clock::{Ids, random};

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no Ed25519 key in the expected PEM form.
    #[error("not an Ed25519 key in PEM form ({expected})")]
    Malformed {
        /// Which form was expected.
        expected: &'static str,
    },
    /// The key could not be written as PEM.
    #[error("the key could not be written as PEM")]
    Encoding,
}

/// A key pair as texts.
#[derive(Debug)]
pub struct KeyPair {
    /// PKCS#8, label `PRIVATE KEY`.
    pub private_pem: SecretString,
    /// SubjectPublicKeyInfo, label `PUBLIC KEY`.
    pub public_pem: String,
    /// The key's id in tokens: the first 16 hexadecimal digits of the public key's SHA-256.
    pub kid: String,
}

/// A new key pair.
///
/// # Errors
/// [`Error::Encoding`], which does not happen with well-formed keys.
pub fn generate(ids: &dyn Ids) -> Result<KeyPair, Error> {
    let key = SigningKey::from_bytes(&random::<32>(ids));
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| Error::Encoding)?;
    let public_pem = key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(|_| Error::Encoding)?;
    Ok(KeyPair { private_pem: SecretString::from(private.as_str()), public_pem, kid: kid(&key.verifying_key()) })
}

/// Writes the pair: the private file with mode 0600, neither over an existing file.
///
/// # Errors
/// What the file system says, such as that a file exists.
pub fn write(pair: &KeyPair, private: &Path, public: &Path) -> io::Result<()> {
    let create = |path, mode| OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    create(private, 0o600)?.write_all(pair.private_pem.expose_secret().as_bytes())?;
    create(public, 0o644)?.write_all(pair.public_pem.as_bytes())
}

/// The id of the key pair that `private_pem` belongs to.
///
/// # Errors
/// [`Error::Malformed`].
pub fn kid_of_private(private_pem: &str) -> Result<String, Error> {
    let key = SigningKey::from_pkcs8_pem(private_pem).map_err(|_| Error::Malformed { expected: "PKCS#8" })?;
    Ok(kid(&key.verifying_key()))
}

/// The id of the key pair that `public_pem` belongs to.
///
/// # Errors
/// [`Error::Malformed`].
pub fn kid_of_public(public_pem: &str) -> Result<String, Error> {
    let key = ed25519_dalek::VerifyingKey::from_public_key_pem(public_pem)
        .map_err(|_| Error::Malformed { expected: "SubjectPublicKeyInfo" })?;
    Ok(kid(&key))
}

fn kid(key: &ed25519_dalek::VerifyingKey) -> String {
    hex::encode(&Sha256::digest(key.as_bytes())[..8])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::clock::SystemIds;

    #[test]
    fn a_pair_has_one_id_and_a_private_mode() {
        let pair = generate(&SystemIds).unwrap();
        assert_eq!(kid_of_private(pair.private_pem.expose_secret()).unwrap(), pair.kid);
        assert_eq!(kid_of_public(&pair.public_pem).unwrap(), pair.kid);
        assert!(kid_of_private(&pair.public_pem).is_err());

        let folder = tempfile::tempdir().unwrap();
        let (private, public) = (folder.path().join("key.pem"), folder.path().join("key.pub.pem"));
        write(&pair, &private, &public).unwrap();
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write(&pair, &private, &public).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
