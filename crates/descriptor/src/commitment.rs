//! Commitments to payloads that must be able to disappear.
//!
//! An event's leaf is kept for ever and holds no personal payload, only HMAC(salt, payload). Each salt comes from the
//! session's one salt key, so a single payload can be opened by giving away its salt alone, and destroying the key makes
//! every commitment of the session meaningless while all chains still verify.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac, digest::Output};
use sha2::Sha256;

use crate::digest::written_out;

const PREFIX: &str = "hmac-sha256:";

/// A session's salt key. Never printed; the holder stores it encrypted and destroys it to erase the session.
#[derive(Clone)]
pub struct SaltKey([u8; 32]);

impl SaltKey {
    /// The key that these bytes are. The caller draws them from a secure source.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes, for storing them encrypted.
    #[must_use]
    pub const fn expose_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The salt of one field of one event: HMAC-SHA256 over run, number and field, each with its length in front (eight
    /// bytes, big endian) so that no two triples are written alike. The number is eight bytes, big endian.
    #[must_use]
    pub fn salt(&self, run: &str, seq: i64, field: &str) -> Salt {
        let mut mac = keyed(&self.0);
        for part in [run.as_bytes(), &seq.to_be_bytes(), field.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Salt(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for SaltKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltKey(..)")
    }
}

/// The salt of one field of one event. Giving it away opens this one commitment.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt([u8; 32]);

impl Salt {
    /// The salt that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The salt's bytes, for opening a commitment to somebody.
    #[must_use]
    pub const fn expose_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The commitment to a payload.
    #[must_use]
    pub fn commit(&self, payload: &[u8]) -> Commitment {
        let mut mac = keyed(&self.0);
        mac.update(payload);
        Commitment(mac.finalize().into_bytes().into())
    }

    /// Whether this salt and payload open the commitment, in constant time.
    #[must_use]
    pub fn opens(&self, commitment: &Commitment, payload: &[u8]) -> bool {
        let mut mac = keyed(&self.0);
        mac.update(payload);
        mac.verify(&Output::<Hmac<Sha256>>::from(commitment.0)).is_ok()
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// What stands in a leaf for a payload; its text form is `hmac-sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commitment([u8; 32]);

impl Commitment {
    /// The commitment that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The commitment's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

written_out!(Commitment, PREFIX);

/// HMAC pads a key that is shorter than the block with zeros (RFC 2104 §2); done here it cannot fail on the length.
fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    Hmac::new(&block.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_hmac_sha256() {
        let mut expected = <Hmac<Sha256> as KeyInit>::new_from_slice(&[5; 32]).unwrap();
        expected.update(b"payload");
        let expected: [u8; 32] = expected.finalize().into_bytes().into();
        assert_eq!(Salt::from_bytes([5; 32]).commit(b"payload").as_bytes(), &expected);
    }

    #[test]
    fn no_two_places_share_a_salt() {
        let key = SaltKey::from_bytes([9; 32]);
        let salts = [("a", 1, "bc"), ("ab", 1, "c"), ("a", 2, "bc"), ("a", -1, "bc"), ("", 1, "abc"), ("a", 1, "")]
            .map(|(run, seq, field)| *key.salt(run, seq, field).expose_bytes());
        let unique: std::collections::BTreeSet<_> = salts.iter().collect();
        assert_eq!(unique.len(), salts.len());
        assert_ne!(SaltKey::from_bytes([8; 32]).salt("a", 1, "bc"), key.salt("a", 1, "bc"));
    }

    #[test]
    fn opens_only_with_its_salt_and_payload() {
        let key = SaltKey::from_bytes([9; 32]);
        let salt = key.salt("run", 3, "result");
        let commitment = salt.commit(b"secret");
        assert!(salt.opens(&commitment, b"secret"));
        assert!(!salt.opens(&commitment, b"secres"));
        assert!(!key.salt("run", 4, "result").opens(&commitment, b"secret"));
        assert_eq!(commitment.to_string().parse::<Commitment>().unwrap(), commitment);
        assert!("sha256:00".parse::<Commitment>().is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = SaltKey::from_bytes([0xAB; 32]);
        assert_eq!(format!("{key:?} {:?}", key.salt("r", 1, "f")), "SaltKey(..) Salt(..)");
    }
}
