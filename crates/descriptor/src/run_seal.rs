//! What a finished run is bound to.

use serde::{Deserialize, Serialize};

use crate::{
    chain::Head,
    commitment::Commitment,
    document,
    error::Error,
    hash::{Hash, domain},
    key::{SigningKey, VerifyingKeys},
    statement::{Statement, sign_statement, verify_statement},
};

/// The media type that a run seal is signed as.
pub const PAYLOAD_TYPE: &str = "application/vnd.mcp-agent-runtime.run-seal.v1+json";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// With an answer that fits.
    Succeeded,
    /// With an error.
    Failed,
    /// At a limit.
    Halted,
    /// By policy.
    Denied,
    /// By the caller.
    Cancelled,
}

/// Everything that a finished run is bound to; its hash is the run seal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSeal {
    /// The agent that ran; none when the run ended before one was synthesised.
    pub descriptor_hash: Option<Hash>,
    /// The commitment to the task's input.
    pub input_commitment: Commitment,
    /// The commitment to the session as of admission.
    pub session_commitment: Commitment,
    /// How the run ended.
    pub outcome: Outcome,
    /// The end of the run's event chain, which binds every event in it.
    pub head: Head,
}

impl RunSeal {
    /// The canonical form that is hashed and signed.
    ///
    /// # Errors
    /// [`Error::Canonical`] when the head's number is beyond 2^53−1.
    pub fn canonical(&self) -> Result<Vec<u8>, Error> {
        document::canonical(self)
    }

    /// The run seal itself.
    ///
    /// # Errors
    /// Like [`RunSeal::canonical`].
    pub fn hash(&self) -> Result<Hash, Error> {
        Ok(Hash::of(domain::RUN_SEAL, &self.canonical()?))
    }

    /// Reads a run seal from its exact canonical form.
    ///
    /// # Errors
    /// [`Error::Canonical`] or [`Error::Shape`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        document::parse(bytes)
    }

    /// Signs the seal.
    ///
    /// # Errors
    /// Like [`RunSeal::canonical`].
    pub fn sign(&self, key: &SigningKey) -> Result<Statement, Error> {
        Ok(sign_statement(PAYLOAD_TYPE, &self.canonical()?, key))
    }

    /// Verifies a signed seal and reads it.
    ///
    /// # Errors
    /// Those of [`verify_statement`] and [`RunSeal::parse`].
    pub fn verify(statement: &Statement, keys: &VerifyingKeys) -> Result<Self, Error> {
        verify_statement(statement, PAYLOAD_TYPE, keys)?;
        Self::parse(&statement.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_seal() -> RunSeal {
        RunSeal {
            descriptor_hash: Some(Hash::of(domain::DESCRIPTOR, b"{}")),
            input_commitment: Commitment::from_bytes([1; 32]),
            session_commitment: Commitment::from_bytes([2; 32]),
            outcome: Outcome::Succeeded,
            head: Head::genesis(Hash::ZERO).next(b"leaf"),
        }
    }

    #[test]
    fn every_field_is_bound() {
        let seal = run_seal();
        let others = [
            RunSeal { descriptor_hash: None, ..seal.clone() },
            RunSeal { input_commitment: Commitment::from_bytes([3; 32]), ..seal.clone() },
            RunSeal { session_commitment: Commitment::from_bytes([3; 32]), ..seal.clone() },
            RunSeal { outcome: Outcome::Halted, ..seal.clone() },
            RunSeal { head: Head { seq: 2, ..seal.head }, ..seal.clone() },
            RunSeal { head: Head { hash: Hash::ZERO, ..seal.head }, ..seal.clone() },
        ];
        for other in others {
            assert_ne!(other.hash().unwrap(), seal.hash().unwrap(), "{other:?}");
        }
    }

    #[test]
    fn signs_and_reads_back() {
        let key = SigningKey::from_seed(&[6; 32]);
        let mut statement = run_seal().sign(&key).unwrap();
        assert_eq!(RunSeal::verify(&statement, &key.verifying_keys()).unwrap(), run_seal());
        statement.payload[20] ^= 1;
        assert!(matches!(RunSeal::verify(&statement, &key.verifying_keys()), Err(Error::BadSignature(_))));
        assert!(RunSeal::parse(br#"{"head":null}"#).is_err());
    }
}
