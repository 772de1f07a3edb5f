//! The descriptor crate through its public face: contents, properties, the published schema and the golden vectors.

#[cfg(test)]
mod contents;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod vectors;
