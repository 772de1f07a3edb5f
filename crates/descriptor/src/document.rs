//! Documents that are hashed and signed in their canonical form.

use serde::{Serialize, de::DeserializeOwned};

use crate::{canonical, error::Error};

/// The canonical form of a document.
pub(crate) fn canonical(document: &impl Serialize) -> Result<Vec<u8>, Error> {
    let value = serde_json::to_value(document).map_err(Error::Shape)?;
    Ok(canonical::to_canonical(&value)?)
}

/// Reads a document from its exact canonical form: one document has one hash.
pub(crate) fn parse<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let document: T = serde_json::from_value(canonical::parse_canonical(bytes)?).map_err(Error::Shape)?;
    // serde reads an absent optional field as none; written out it is null, and the hash another.
    if canonical(&document)? != bytes {
        return Err(canonical::Error::NotCanonical.into());
    }
    Ok(document)
}
