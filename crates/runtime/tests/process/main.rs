//! A service as a process.

#[cfg(test)]
mod service;
