//! Placeholder.
pub mod counters;
pub mod run;
pub mod store;
