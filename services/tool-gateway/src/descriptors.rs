//! Descriptors that have been verified here, with their policies ready to decide, kept by tenant and hash.

use std::sync::Arc;

use mar_alignment::{Layer, PolicyText, Stack};
use mar_descriptor::{Descriptor, Hash, SealedDescriptor, VerifiedDescriptor, VerifyingKeys, verify};
use moka::sync::Cache;
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;

use crate::error::Error;

/// Canonical bytes that are kept, counted several times for what is made of them.
const KEPT_BYTES: u64 = 64 << 20;

/// A verified descriptor.
#[derive(Debug)]
pub struct Sealed {
    verified: VerifiedDescriptor,
    policies: Stack,
}

impl Sealed {
    /// What was sealed.
    pub fn descriptor(&self) -> &Descriptor {
        self.verified.descriptor()
    }

    /// Its hash.
    pub fn hash(&self) -> Hash {
        self.verified.hash()
    }

    /// Its alignment policies.
    pub fn policies(&self) -> &Stack {
        &self.policies
    }
}

/// Verifies descriptors and keeps them.
#[derive(Debug)]
pub struct Descriptors {
    keys: VerifyingKeys,
    kept: Cache<(String, Hash), Arc<Sealed>>,
}

impl Descriptors {
    /// Accepts what one of these keys has signed.
    pub fn new(keys: VerifyingKeys) -> Self {
        let weight = |_: &(String, Hash), held: &Arc<Sealed>| {
            u32::try_from(held.verified.canonical().len().saturating_mul(4)).unwrap_or(u32::MAX)
        };
        Self { keys, kept: Cache::builder().weigher(weight).max_capacity(KEPT_BYTES).build() }
    }

    /// The descriptor of this hash: one that is kept, else `offered` if it verifies and is the one.
    ///
    /// # Errors
    /// [`Error::DescriptorRequired`] without either, [`Error::DescriptorInvalid`] when `offered` is not it.
    pub fn resolve(&self, tenant: &str, hash: Hash, offered: Option<SealedDescriptor>) -> Result<Arc<Sealed>, Error> {
        let key = (tenant.to_owned(), hash);
        if let Some(held) = self.kept.get(&key) {
            return Ok(held);
        }
        let offered = offered.ok_or_else(|| Error::DescriptorRequired(hash.to_string()))?;
        if offered.hash != hash {
            return Err(Error::DescriptorInvalid("it is not the descriptor of the run token".into()));
        }
        let verified = verify(&offered, &self.keys).map_err(|error| Error::DescriptorInvalid(error.into()))?;
        let policies = policies(verified.descriptor())?;
        let sealed = Arc::new(Sealed { verified, policies });
        self.kept.insert(key, Arc::clone(&sealed));
        Ok(sealed)
    }
}

fn policies(descriptor: &Descriptor) -> Result<Stack, Error> {
    let mut texts = Vec::new();
    for sealed in &descriptor.policy.alignment_policy {
        let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
            sealed.layer.as_str().into_deserializer();
        let layer = Layer::deserialize(name).map_err(|error| Error::DescriptorInvalid(error.into()))?;
        let (name, version, text) = (sealed.name.clone(), sealed.version, sealed.text.clone());
        texts.push(PolicyText { layer, name, version, text });
    }
    Stack::parse(texts).map_err(|found| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        Error::DescriptorInvalid(lines.join("; ").into())
    })
}
