//! What can go wrong with a sealed document.

use crate::{canonical, descriptor::Violations, hash::Hash};

/// Why a document, key or signature was refused. No error here is worth a retry with the same input.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not an acceptable canonical document.
    #[error("document has no acceptable canonical form")]
    Canonical(#[from] canonical::Error),
    /// Well-formed JSON that does not have the fields the document must have, or has others.
    #[error("document does not have the expected shape")]
    Shape(#[source] serde_json::Error),
    /// The document has the right shape and forbidden contents; every violation is listed.
    #[error("document violates its rules: {0}")]
    Invalid(Violations),
    /// The bytes hash to something else than was stated.
    #[error("hash is {actual}, stated was {stated}")]
    HashMismatch {
        /// The hash that came with the bytes.
        stated: Hash,
        /// The hash of the bytes.
        actual: Hash,
    },
    /// The text is not a DSSE envelope that this crate reads.
    #[error("malformed envelope: {0}")]
    Envelope(String),
    /// The envelope is for another kind of payload than the reader expects.
    #[error("payload type is `{actual}`, expected `{expected}`")]
    PayloadType {
        /// What the reader accepts.
        expected: String,
        /// What the envelope says.
        actual: String,
    },
    /// None of the signatures is by a key in the verifying set.
    #[error("no signature by a known key, signed by [{}]", .0.join(", "))]
    UnknownKey(Vec<String>),
    /// A known key is named, and its signature does not fit the bytes.
    #[error("bad signature by key {0}")]
    BadSignature(String),
    /// A key could not be read or written. The text never holds key material.
    #[error("unusable key: {0}")]
    Key(String),
    /// A hash or commitment in text form is malformed.
    #[error("malformed digest: {0}")]
    Digest(String),
}
