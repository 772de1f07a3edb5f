//! The whole system under test, as its users meet it: real processes, real stores, real gRPC, and a rehearsed model.
//!
//! The binaries have to be built before: `cargo test --workspace` does, `cargo build --workspace --bins --examples` before a
//! test of this crate alone.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time for real processes")]

pub mod caller;
pub mod catalogue;
pub mod client;
pub mod deltas;
pub mod deployment;
pub mod dice;
pub mod oracle;
pub mod steps;
pub mod task;

pub use client::{Client, Followed};
pub use deployment::{Deployment, Launcher, Options, Replica, Shape, Stores};
