//! Named points at which a test build may be made to die as if by SIGKILL.
//!
//! `MAR_CRASH_AT=<point>[@<n>]` aborts the process at the n-th time that the point is passed, 1 by default. Release
//! builds do not look at it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Every point, in the order in which a run passes them.
pub const POINTS: [&str; 10] = [
    "admit.committed",
    "advance.before",
    "advance.done",
    "commit.done",
    "generation.sent",
    "generation.streaming",
    "turn.in_hand",
    "call.sent",
    "result.in_hand",
    "end.committed",
];

/// Where to die, if anywhere.
#[derive(Debug, Default)]
pub struct CrashPoints {
    at: Option<(String, u64)>,
    passed: AtomicU64,
}

impl CrashPoints {
    /// As the environment of a test build says.
    pub fn from_env() -> Self {
        let wish = if cfg!(debug_assertions) { std::env::var("MAR_CRASH_AT").ok() } else { None };
        let at = wish.map(|wish| match wish.split_once('@') {
            Some((point, nth)) => (point.to_owned(), nth.parse().unwrap_or(1)),
            None => (wish, 1),
        });
        Self { at, passed: AtomicU64::new(0) }
    }

    /// Passes a point.
    pub fn pass(&self, point: &'static str) {
        debug_assert!(POINTS.contains(&point), "{point} is not in the registry");
        if let Some((at, nth)) = &self.at
            && at == point
            && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == *nth
        {
            std::process::abort();
        }
    }
}
