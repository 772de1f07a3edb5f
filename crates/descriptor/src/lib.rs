//! The sealed form of what an agent is, and the proofs that hang on it.
//!
//! This crate owns the canonical form of JSON documents, the hashes over it, the agent descriptor with its sections, the
//! signatures that seal it, the hash chain of a run's events and the seals of finished runs
//! and sessions. It performs no I/O, reads no
//! clock and draws no randomness: the same bytes in give the same bytes out, here and in every client language. The golden
//! vectors that say so live in `proto/descriptor/v1/`.
//!
//! **Invariant:** a document is checked before it is canonicalised. Duplicate keys, fractions and integers beyond
//! ±(2^53−1) are refused, because canonicalisers (and many JSON parsers) drop or round them silently.
//!
//! **Invariant:** a [`VerifiedDescriptor`] exists only after its hash, a signature by a known key, its canonical form and
//! its contents were checked.
//!
//! Pieces: [`canonical`] (strict parser, RFC 8785), [`mod@hash`], [`mod@descriptor`] (types, section hashes, validation),
//! [`key`] and [`statement`] (Ed25519, DSSE), [`mod@seal`], [`chain`], [`commitment`], [`run_seal`],
//! [`session_seal`].

pub mod canonical;
pub mod chain;
pub mod commitment;
pub mod decimal;
pub mod descriptor;
pub mod error;
pub mod hash;
pub mod key;
pub mod run_seal;
pub mod seal;
pub mod session_seal;
pub mod statement;

mod digest;
mod document;

pub use chain::{Head, event_hash};
pub use commitment::{Commitment, Salt, SaltKey};
pub use descriptor::{
    AdmittedModel, AgentSection, Descriptor, Doubt, HaltingSection, MetadataSection, ModelRole, ModelSection,
    PolicyLayer, PolicyRef, PolicySection, Probe, PromptSection, RecipeRef, Requirement, RolePrompt, Sampling,
    SealedTool, TrustTier, Violation, Violations,
};
pub use error::Error;
pub use hash::{Hash, domain};
pub use key::{SigningKey, VerifyingKeys};
pub use run_seal::{Outcome, RunSeal};
pub use seal::{SealedDescriptor, VerifiedDescriptor, seal, verify};
pub use session_seal::SessionSeal;
pub use statement::{Signature, Statement, sign_statement, verify_statement};
