//! The real binary against a real runtime: `mar up` with a rehearsal for a model.

mod commands;
mod harness;
mod interrupts;
mod runs;
mod terminal;
mod up;
mod usage;
