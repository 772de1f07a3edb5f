//! The testkit's own tests, over real sockets and processes.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]

#[cfg(test)]
mod rehearsal;
#[cfg(test)]
mod servers;
