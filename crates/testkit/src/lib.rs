//! What tests, offline development and load need around the runtime, as real parts:
//!
//! - [`rehearsal`]: an OpenAI-compatible server whose answers are scripted by a file. It is not a model.
//! - [`postgres`], [`pgbouncer`] and [`redis`]: own servers on free loopback ports, gone with their process.
//! - [`door`]: a stable address in front of servers that take each other's place.
//! - [`process`]: child binaries with captured output, killed by their own pid.
//! - [`usage`]: what a process has used.
//! - [`ports`] and [`wait`]: free loopback ports, and waiting on a condition instead of sleeping.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time for real processes and servers")]

pub mod door;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod rehearsal;
mod supervisor;
pub mod usage;
pub mod wait;
