//! Descriptors that have been verified here, kept by tenant and hash.

use std::sync::Arc;

use mar_descriptor::{Hash, SealedDescriptor, VerifiedDescriptor, VerifyingKeys, verify};
use moka::sync::Cache;

use crate::error::Error;

/// Canonical bytes that are kept.
const KEPT_BYTES: u64 = 64 << 20;

/// Verifies descriptors and keeps them.
#[derive(Debug)]
pub struct Descriptors {
    keys: VerifyingKeys,
    kept: Cache<(String, Hash), Arc<VerifiedDescriptor>>,
}

impl Descriptors {
    /// Accepts what one of these keys has signed.
    pub fn new(keys: VerifyingKeys) -> Self {
        let weight = |_: &(String, Hash), held: &Arc<VerifiedDescriptor>| {
            // Parsed, a descriptor takes about as much again.
            u32::try_from(held.canonical().len().saturating_mul(2)).unwrap_or(u32::MAX)
        };
        Self { keys, kept: Cache::builder().weigher(weight).max_capacity(KEPT_BYTES).build() }
    }

    /// The descriptor of this hash: one that is kept, else `offered` if it verifies and is the one.
    ///
    /// # Errors
    /// [`Error::DescriptorRequired`] without either, [`Error::DescriptorInvalid`] when `offered` is not it.
    pub fn resolve(
        &self,
        tenant: &str,
        hash: Hash,
        offered: Option<SealedDescriptor>,
    ) -> Result<Arc<VerifiedDescriptor>, Error> {
        let key = (tenant.to_owned(), hash);
        if let Some(held) = self.kept.get(&key) {
            return Ok(held);
        }
        let offered = offered.ok_or(Error::DescriptorRequired)?;
        if offered.hash != hash {
            return Err(Error::DescriptorInvalid(None));
        }
        let verified = verify(&offered, &self.keys).map_err(|error| Error::DescriptorInvalid(Some(error)))?;
        let verified = Arc::new(verified);
        self.kept.insert(key, Arc::clone(&verified));
        Ok(verified)
    }
}
