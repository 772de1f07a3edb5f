//! `[session.blobs]`.

use std::time::Duration;

use mar_runtime::config::{ByteSize, Validate};
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};

use crate::blobs::BlobLimits;

/// `[session.blobs]`: what callers stream in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlobsConfig {
    /// The largest blob, 64 MiB by default, at most 1 GiB.
    pub max_size: ByteSize,
    /// All blobs of a session together, those under way included: 1 GiB by default, `max_size` at least.
    pub max_session_size: ByteSize,
    /// How long a blob that no run names is kept, 24 h by default; 1 s to 30 days.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// The longest pause between two messages of an upload, 30 s by default; 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Default for BlobsConfig {
    fn default() -> Self {
        let BlobLimits { keep, patience, .. } = BlobLimits::default();
        Self { max_size: ByteSize::mib(64), max_session_size: ByteSize::mib(1024), keep, patience }
    }
}

impl BlobsConfig {
    /// The limits that bind.
    pub fn limits(&self) -> BlobLimits {
        let bytes = |size: ByteSize| i64::try_from(size.bytes()).unwrap_or(i64::MAX);
        BlobLimits {
            max_bytes: bytes(self.max_size),
            max_session_bytes: bytes(self.max_session_size),
            keep: self.keep,
            patience: self.patience,
            ..BlobLimits::default()
        }
    }
}

impl Validate for BlobsConfig {
    fn validate(&self, violations: &mut Violations) {
        let fits = (1..=1 << 30).contains(&self.max_size.bytes());
        violations.require(fits, "max_size", "must be 1B to 1GiB");
        let holds = self.max_session_size >= self.max_size;
        violations.require(holds, "max_session_size", "must be `max_size` at least");
        let keep = (Duration::from_secs(1)..=Duration::from_secs(30 * 86_400)).contains(&self.keep);
        violations.require(keep, "keep", "must be 1s to 30d");
        let patience = (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&self.patience);
        violations.require(patience, "patience", "must be 100ms to 10m");
    }
}
