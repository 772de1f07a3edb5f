//! What an ended session is bound to.

use serde::{Deserialize, Serialize};

use crate::{
    chain::Head,
    document,
    error::Error,
    hash::{Hash, domain},
    key::{SigningKey, VerifyingKeys},
    statement::{Statement, sign_statement, verify_statement},
};

/// The media type of a signed session seal.
pub const PAYLOAD_TYPE: &str = "application/vnd.mcp-agent-runtime.session-seal.v1+json";

/// What an ended session is bound to: its run seals, in the order in which the runs were admitted, and its own log. Its size
/// does not depend on the number of runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSeal {
    /// The session's id, so that the seal of one session cannot stand for another.
    pub session: String,
    /// How many runs it had, at most 2^53−1.
    pub runs: u64,
    /// [`run_seals_hash`] of the hashes of their seals.
    pub run_seals: Hash,
    /// The last entry of the session's log.
    pub head: Head,
}

/// The hash over the hashes of run seals, 32 bytes each, one after the other.
#[must_use]
pub fn run_seals_hash(seals: &[Hash]) -> Hash {
    let parts: Vec<&[u8]> = seals.iter().map(|seal| &seal.as_bytes()[..]).collect();
    Hash::of_parts(domain::RUN_SEALS, &parts)
}

impl SessionSeal {
    /// The seal over these run seals, given in the order in which their runs were admitted.
    #[must_use]
    pub fn over(session: String, seals: &[Hash], head: Head) -> Self {
        Self { session, runs: seals.len() as u64, run_seals: run_seals_hash(seals), head }
    }

    /// The document that is hashed and signed.
    ///
    /// # Errors
    /// When a number is too large for the canonical form.
    pub fn canonical(&self) -> Result<Vec<u8>, Error> {
        document::canonical(self)
    }

    /// The seal itself: SHA-256 over the domain line and the canonical form.
    ///
    /// # Errors
    /// As [`SessionSeal::canonical`].
    pub fn hash(&self) -> Result<Hash, Error> {
        Ok(Hash::of(domain::SESSION_SEAL, &self.canonical()?))
    }

    /// Reads a canonical document.
    ///
    /// # Errors
    /// When the bytes are not canonical or not a session seal.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        document::parse(bytes)
    }

    /// Signs the seal. The same seal and key give the same signature.
    ///
    /// # Errors
    /// As [`SessionSeal::canonical`].
    pub fn sign(&self, key: &SigningKey) -> Result<Statement, Error> {
        Ok(sign_statement(PAYLOAD_TYPE, &self.canonical()?, key))
    }

    /// Verifies a signed seal and reads it.
    ///
    /// # Errors
    /// When it is a statement of another kind, no known key signed it, or it is not a session seal.
    pub fn verify(statement: &Statement, keys: &VerifyingKeys) -> Result<Self, Error> {
        verify_statement(statement, PAYLOAD_TYPE, keys)?;
        Self::parse(&statement.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_seal;

    fn seals() -> [Hash; 2] {
        [Hash::of(domain::RUN_SEAL, b"a"), Hash::of(domain::RUN_SEAL, b"b")]
    }

    fn session_seal() -> SessionSeal {
        SessionSeal::over("session".to_owned(), &seals(), Head::genesis(Hash::ZERO).next(b"leaf"))
    }

    #[test]
    fn every_field_and_the_order_of_runs_are_bound() {
        let seal = session_seal();
        let [a, b] = seals();
        let over = |seals: &[Hash]| SessionSeal::over(seal.session.clone(), seals, seal.head);
        let others = [
            SessionSeal { session: "other".to_owned(), ..seal.clone() },
            SessionSeal { runs: 3, ..seal.clone() },
            SessionSeal { head: Head { seq: 2, ..seal.head }, ..seal.clone() },
            SessionSeal { head: Head { hash: Hash::ZERO, ..seal.head }, ..seal.clone() },
            over(&[b, a]),
            over(&[a]),
            over(&[]),
            over(&[a, b, b]),
        ];
        for other in others {
            assert_ne!(other.hash().unwrap(), seal.hash().unwrap(), "{other:?}");
        }
        assert_eq!(over(&[a, b]), seal);
    }

    #[test]
    fn signs_and_reads_back_and_is_no_run_seal() {
        let key = SigningKey::from_seed(&[6; 32]);
        let keys = key.verifying_keys();
        let mut statement = session_seal().sign(&key).unwrap();
        assert_eq!(statement, session_seal().sign(&key).unwrap(), "a repeated seal is another");
        assert_eq!(SessionSeal::verify(&statement, &keys).unwrap(), session_seal());
        assert!(matches!(run_seal::RunSeal::verify(&statement, &keys), Err(Error::PayloadType { .. })));
        statement.payload[20] ^= 1;
        assert!(matches!(SessionSeal::verify(&statement, &keys), Err(Error::BadSignature(_))));
        assert!(SessionSeal::parse(br#"{"head":null}"#).is_err());
    }

    #[test]
    fn a_number_that_canonical_json_cannot_hold_is_refused() {
        assert!(SessionSeal { runs: 1 << 53, ..session_seal() }.hash().is_err());
    }
}
