//! Sealing a descriptor, and the one way back to it.

use crate::{
    descriptor::Descriptor,
    error::Error,
    hash::{Hash, domain},
    key::{SigningKey, VerifyingKeys},
    statement::{self, Signature, Statement, sign_statement},
};

/// The media type that a descriptor is signed as.
pub const PAYLOAD_TYPE: &str = "application/vnd.mcp-agent-runtime.descriptor.v1+json";

/// A descriptor as it travels: claims until [`verify`] has checked them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedDescriptor {
    /// The stated hash.
    pub hash: Hash,
    /// The canonical bytes, verbatim.
    pub canonical: Vec<u8>,
    /// Signatures over the canonical bytes as [`PAYLOAD_TYPE`].
    pub signatures: Vec<Signature>,
}

impl SealedDescriptor {
    /// The standard DSSE envelope in JSON.
    ///
    /// # Errors
    /// [`Error::Envelope`] when it cannot be written.
    pub fn to_envelope(&self) -> Result<String, Error> {
        let statement = Statement {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: self.canonical.clone(),
            signatures: self.signatures.clone(),
        };
        statement.to_json()
    }

    /// Reads a DSSE envelope in JSON and computes the hash of what it holds. Nothing is verified.
    ///
    /// # Errors
    /// [`Error::Envelope`] or [`Error::PayloadType`].
    pub fn from_envelope(text: &str) -> Result<Self, Error> {
        let statement = Statement::from_json(text)?;
        if statement.payload_type != PAYLOAD_TYPE {
            return Err(Error::PayloadType { expected: PAYLOAD_TYPE.to_owned(), actual: statement.payload_type });
        }
        let hash = Hash::of(domain::DESCRIPTOR, &statement.payload);
        Ok(Self { hash, canonical: statement.payload, signatures: statement.signatures })
    }
}

/// A descriptor that passed [`verify`]; there is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDescriptor {
    descriptor: Descriptor,
    hash: Hash,
    canonical: Vec<u8>,
    signers: Vec<String>,
}

impl VerifiedDescriptor {
    /// What was sealed.
    #[must_use]
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its hash.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// Its canonical bytes.
    #[must_use]
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// The ids of the known keys whose signatures fit; at least one.
    #[must_use]
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// The descriptor alone.
    #[must_use]
    pub fn into_descriptor(self) -> Descriptor {
        self.descriptor
    }
}

/// Validates, canonicalises, hashes and signs a descriptor.
///
/// # Errors
/// [`Error::Invalid`] with every violation, or [`Error::Canonical`].
pub fn seal(descriptor: &Descriptor, key: &SigningKey) -> Result<SealedDescriptor, Error> {
    descriptor.validate().map_err(Error::Invalid)?;
    let canonical = descriptor.canonical()?;
    let hash = Hash::of(domain::DESCRIPTOR, &canonical);
    let Statement { payload, signatures, .. } = sign_statement(PAYLOAD_TYPE, &canonical, key);
    Ok(SealedDescriptor { hash, canonical: payload, signatures })
}

/// Checks the stated hash, a signature by a known key, the canonical form and the contents, in this order, so that
/// nothing is parsed that nobody known has signed.
///
/// # Errors
/// [`Error::HashMismatch`], [`Error::UnknownKey`], [`Error::BadSignature`], [`Error::Canonical`], [`Error::Shape`] or
/// [`Error::Invalid`].
pub fn verify(sealed: &SealedDescriptor, keys: &VerifyingKeys) -> Result<VerifiedDescriptor, Error> {
    let hash = Hash::of(domain::DESCRIPTOR, &sealed.canonical);
    if hash != sealed.hash {
        return Err(Error::HashMismatch { stated: sealed.hash, actual: hash });
    }
    let signers = statement::verify_signatures(PAYLOAD_TYPE, &sealed.canonical, &sealed.signatures, keys)?;
    let descriptor = Descriptor::parse(&sealed.canonical)?;
    descriptor.validate().map_err(Error::Invalid)?;
    Ok(VerifiedDescriptor { descriptor, hash, canonical: sealed.canonical.clone(), signers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (SealedDescriptor, SigningKey) {
        let key = SigningKey::from_seed(&[3; 32]);
        (seal(&Descriptor::default(), &key).unwrap(), key)
    }

    #[test]
    fn seals_and_verifies_through_the_envelope() {
        let (sealed, key) = sealed();
        let read = SealedDescriptor::from_envelope(&sealed.to_envelope().unwrap()).unwrap();
        assert_eq!(read, sealed);
        let verified = verify(&read, &key.verifying_keys()).unwrap();
        assert_eq!(verified.descriptor(), &Descriptor::default());
        assert_eq!((verified.hash(), verified.canonical()), (sealed.hash, sealed.canonical.as_slice()));
        assert_eq!(verified.signers(), [key.key_id()]);
    }

    #[test]
    fn a_changed_claim_is_refused() {
        let (good, key) = sealed();
        let keys = key.verifying_keys();
        let wrong_hash = SealedDescriptor { hash: Hash::ZERO, ..good.clone() };
        assert!(matches!(verify(&wrong_hash, &keys), Err(Error::HashMismatch { .. })));
        let mut wrong_bytes = good.clone();
        *wrong_bytes.canonical.last_mut().unwrap() = b' ';
        assert!(matches!(verify(&wrong_bytes, &keys), Err(Error::HashMismatch { .. })));
        wrong_bytes.hash = Hash::of(domain::DESCRIPTOR, &wrong_bytes.canonical);
        assert!(matches!(verify(&wrong_bytes, &keys), Err(Error::BadSignature(_))));
        let unsigned = SealedDescriptor { signatures: Vec::new(), ..good.clone() };
        assert!(matches!(verify(&unsigned, &keys), Err(Error::UnknownKey(_))));
        let stranger = SigningKey::from_seed(&[4; 32]).verifying_keys();
        assert!(matches!(verify(&good, &stranger), Err(Error::UnknownKey(_))));
    }

    #[test]
    fn a_signature_does_not_excuse_the_contents() {
        let key = SigningKey::from_seed(&[3; 32]);
        let forge = |bytes: &[u8]| SealedDescriptor {
            hash: Hash::of(domain::DESCRIPTOR, bytes),
            canonical: bytes.to_vec(),
            signatures: sign_statement(PAYLOAD_TYPE, bytes, &key).signatures,
        };
        let keys = key.verifying_keys();
        assert!(matches!(verify(&forge(b"{ }"), &keys), Err(Error::Canonical(_))));
        assert!(matches!(verify(&forge(b"{}"), &keys), Err(Error::Shape(_))));
        let mut invalid = Descriptor::default();
        invalid.halting.max_steps = -1;
        assert!(matches!(verify(&forge(&invalid.canonical().unwrap()), &keys), Err(Error::Invalid(_))));
        assert!(matches!(seal(&invalid, &key), Err(Error::Invalid(_))));
    }

    #[test]
    fn a_statement_of_another_kind_is_no_descriptor() {
        let key = SigningKey::from_seed(&[3; 32]);
        let other = sign_statement("application/other", &Descriptor::default().canonical().unwrap(), &key);
        assert!(matches!(SealedDescriptor::from_envelope(&other.to_json().unwrap()), Err(Error::PayloadType { .. })));
    }
}
