//! Bad input and dead parts: the right code, a reason, every violation; and a log that tells why.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]

#[cfg(test)]
mod configuration;
#[cfg(test)]
mod fallback;
#[cfg(test)]
mod input;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod provider;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod rpcs;
#[cfg(test)]
mod stopping;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod story;
#[cfg(test)]
mod tenants;
#[cfg(test)]
mod upstreams;
