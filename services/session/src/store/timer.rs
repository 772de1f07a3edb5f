//! What is to happen with a session at a time, by the store's clock.

use std::time::Duration;

use uuid::Uuid;

/// What is to happen with a session at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// It ends: nothing has happened in it for so long, or its end has begun.
    End,
    /// Its payloads are being destroyed.
    Prune,
    /// All of it is being destroyed.
    Erase,
    /// What was streamed in and no run has named goes at its time.
    Blobs,
}

impl TimerKind {
    /// As it is stored.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Self::End => 1,
            Self::Prune => 2,
            Self::Erase => 3,
            Self::Blobs => 4,
        }
    }

    /// From how it is stored; `None` for what this version does not know.
    #[must_use]
    pub const fn from_number(number: i16) -> Option<Self> {
        match number {
            1 => Some(Self::End),
            2 => Some(Self::Prune),
            3 => Some(Self::Erase),
            4 => Some(Self::Blobs),
            _ => None,
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

/// How much longer than it may a session is left idle: calls are told to the store in batches, and one that is on its way
/// counts.
pub const GRACE: Duration = Duration::from_secs(3);

/// What became of a session that seemed to be idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Its end has begun.
    Ending,
    /// Something has happened in it, or a run of it is open: it is looked at again at its time.
    NotIdle,
    /// It is not the session that was read.
    Changed,
}
