//! The real binary against a real runtime: `mar up` with a rehearsal for a model.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]

#[cfg(test)]
mod approvals;
#[cfg(test)]
mod blobs;
#[cfg(test)]
mod callers;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod delegation;
#[cfg(test)]
mod forks;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod holding;
#[cfg(test)]
mod interrupts;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod up;
#[cfg(test)]
mod usage;
