//! How far a model is trusted.

use std::{fmt, str::FromStr};

/// How far the operator trusts a model; ordered from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrustTier {
    /// Nobody vouches for it.
    Unverified,
    /// Good enough to try.
    Experimental,
    /// Checked against the operator's rules.
    Aligned,
    /// Approved for production.
    Production,
}

impl TrustTier {
    /// Every tier, from least to most trusted.
    pub const ALL: [Self; 4] = [Self::Unverified, Self::Experimental, Self::Aligned, Self::Production];

    /// The tier's name in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unverified => "UNVERIFIED",
            Self::Experimental => "EXPERIMENTAL",
            Self::Aligned => "ALIGNED",
            Self::Production => "PRODUCTION",
        }
    }
}

impl fmt::Display for TrustTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TrustTier {
    type Err = UnknownTier;

    fn from_str(name: &str) -> Result<Self, UnknownTier> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name).ok_or(UnknownTier)
    }
}

/// The name is none of the trust tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of UNVERIFIED, EXPERIMENTAL, ALIGNED, PRODUCTION")]
pub struct UnknownTier;
