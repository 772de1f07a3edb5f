//! Death at every named point, and at random ones: what was acknowledged goes on, nothing is done twice in silence.

mod calls;
mod caller;
mod counters;
mod drain;
mod ending;
mod oracle;
mod points;
mod random;
mod scene;
