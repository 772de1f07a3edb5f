//! Destroying what a session holds: recorded in its log first, then done piece by piece, each piece safe to repeat.

use super::session_log::kind;
use super::timer::TimerKind;

/// How much of a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Its payloads and those of its runs: it is past retention.
    Payloads,
    /// Those, and the key of its commitments, and what says who it was for.
    Everything,
}

impl Extent {
    /// The entry of the session's log that says so.
    #[must_use]
    pub const fn entry(self) -> &'static str {
        match self {
            Self::Payloads => kind::PRUNED,
            Self::Everything => kind::ERASED,
        }
    }
}

/// What became of the beginning of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The log says that it goes, now or from before; it is to be carried out.
    Going,
    /// It was carried out.
    Gone,
    /// The session has not ended; its state.
    NotEnded(i16),
    /// There is no such session (for this tenant).
    Absent,
    /// The `request_id` was used with another body.
    Reused,
}

impl From<Extent> for TimerKind {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Payloads => Self::Prune,
            Extent::Everything => Self::Erase,
        }
    }
}
