//! Destroying what a session holds: recorded in its log first, then done piece by piece, each piece safe to repeat.

use std::time::Duration;

use uuid::Uuid;

use super::session_log::kind;

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

/// What is to happen with a session at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// Its payloads are being destroyed.
    Prune,
    /// All of it is being destroyed.
    Erase,
}

impl TimerKind {
    /// As it is stored.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Self::Prune => 2,
            Self::Erase => 3,
        }
    }

    /// From how it is stored; `None` for what this version does not know.
    #[must_use]
    pub const fn from_number(number: i16) -> Option<Self> {
        match number {
            2 => Some(Self::Prune),
            3 => Some(Self::Erase),
            _ => None,
        }
    }
}

impl From<Extent> for TimerKind {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Payloads => Self::Prune,
            Extent::Everything => Self::Erase,
        }
    }
}

/// A timer of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Isolation boundary.
    pub tenant: String,
    /// The session.
    pub session: Uuid,
    /// What is to happen.
    pub kind: TimerKind,
}

/// How long a timer is put off when somebody sees to it: after this another does.
pub const HOLD: Duration = Duration::from_secs(30);
