//! What hooks have been told of sessions, and what they could not be told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

/// The names of each tenant's hooks: a change of a session of theirs is marked in the transaction that makes it.
pub type Hooked = Arc<BTreeMap<String, Vec<String>>>;

/// A session that a hook is to be told of, claimed: nobody else tells it for [`HOLD`](super::timer::HOLD).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Isolation boundary.
    pub tenant: String,
    /// The hook.
    pub hook: String,
    /// The session.
    pub session: Uuid,
    /// What was told, in the service's own encoding; empty for nothing.
    pub cursor: Bytes,
    /// Attempts of the next notice that have failed.
    pub attempts: i32,
    /// Number of what had happened by the time of the claim.
    pub marks: i64,
    /// Number of the claim.
    pub epoch: i64,
}

/// When a hook is to be told more of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Whoever holds it goes on.
    Held,
    /// When something more happens; at once, if something has since the claim.
    Told,
    /// After so long.
    In(Duration),
}

/// A notice that a hook could not be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadNotice {
    /// The hook.
    pub hook: String,
    /// Id of the notice.
    pub id: String,
    /// The session.
    pub session: Uuid,
    /// The notice as it was sent.
    pub notice: Bytes,
    /// Why the last attempt failed.
    pub failure: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was given up, by the store's clock; the store sets it.
    pub time: OffsetDateTime,
}

/// Which dead notices a list wants: by hook and id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadPage {
    /// Only those of this hook.
    pub hook: Option<String>,
    /// Only those behind this one: hook and id.
    pub after: Option<(String, String)>,
    /// At most so many.
    pub limit: i64,
}
