//! Where sealed descriptors are kept, by tenant and hash.

use std::fmt;

use async_trait::async_trait;
use mar_descriptor::{Hash, SealedDescriptor};
use time::OffsetDateTime;

pub mod postgres;
pub mod sqlite;

pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;

/// Why the store gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or the answer was lost. Doing it again is safe.
    #[error("store is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// It holds something that this version cannot have written.
    #[error("stored descriptor {0} cannot be read")]
    Corrupt(Hash),
}

/// A descriptor as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// With the signature of its last sealing.
    pub descriptor: SealedDescriptor,
    /// When it was first sealed.
    pub create_time: OffsetDateTime,
}

/// The store's contract; one suite runs over every implementation.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Answers when the store can be reached.
    async fn ping(&self) -> Result<(), Error>;

    /// Stores a descriptor. Storing it again keeps its first time and takes the newer signatures, so that a rotated key
    /// takes over.
    async fn descriptor_put(
        &self,
        tenant: &str,
        descriptor: &SealedDescriptor,
        now: OffsetDateTime,
    ) -> Result<(), Error>;

    /// Reads a descriptor of the tenant. One of another tenant is not there.
    async fn descriptor_get(&self, tenant: &str, hash: Hash) -> Result<Option<Stored>, Error>;
}

/// Rows hold the standard DSSE envelope: canonical bytes and signatures in one text that others can verify too.
fn read(hash: Hash, envelope: &str, create_time: OffsetDateTime) -> Result<Stored, Error> {
    let descriptor = SealedDescriptor::from_envelope(envelope).map_err(|_| Error::Corrupt(hash))?;
    if descriptor.hash == hash { Ok(Stored { descriptor, create_time }) } else { Err(Error::Corrupt(hash)) }
}

fn write(descriptor: &SealedDescriptor) -> Result<String, Error> {
    descriptor.to_envelope().map_err(|_| Error::Corrupt(descriptor.hash))
}

#[cfg(test)]
mod tests;
