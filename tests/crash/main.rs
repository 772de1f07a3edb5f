//! Death at every named point, and at random ones: what was acknowledged goes on, nothing is done twice in silence.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]

mod calls;
mod cancelled;
mod children;
mod commands;
mod counters;
mod drain;
mod ending;
mod forking;
mod occasion;
mod panics;
mod parking;
mod points;
mod probed;
mod random;
mod scene;
mod summing;
mod takeover;
mod twice;
