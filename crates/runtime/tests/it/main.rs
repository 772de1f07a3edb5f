//! Real calls through the layers, each over TCP and in process.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]

#[cfg(test)]
mod auth;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod together;
#[cfg(test)]
mod trace;
