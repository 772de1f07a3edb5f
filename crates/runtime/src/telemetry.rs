//! Logs, traces and the context that crosses services.

pub(crate) mod propagation;
