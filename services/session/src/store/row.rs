//! Rows as they are stored.

use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

/// A `request_id` in its scope, with a digest of the body it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// Who asked.
    pub principal: String,
    /// Full gRPC method path.
    pub method: &'static str,
    /// The caller's id.
    pub request_id: String,
    /// SHA-256 of the request's canonical body.
    pub digest: [u8; 32],
}

/// A session as stored. `body` is the service's own encoding of what it does not query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Isolation boundary.
    pub tenant: String,
    /// UUIDv7.
    pub id: Uuid,
    /// Number of `SessionState`: 1 open, 2 ending, 3 ended, 4 erased.
    pub state: i16,
    /// Who started it.
    pub principal: String,
    /// Encoded `agentruntime.session.v1.Session`.
    pub body: Bytes,
    /// Key of the commitments' salts, 32 bytes.
    pub salt_key: Bytes,
    /// +1 with each change; the etag.
    pub version: i64,
    /// When it was started.
    pub create_time: OffsetDateTime,
    /// When it last changed.
    pub update_time: OffsetDateTime,
    /// It ends when nothing has happened in it for so long; to the millisecond.
    pub idle_timeout: Option<Duration>,
}

/// A run as stored; changed on state changes only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Isolation boundary.
    pub tenant: String,
    /// The session.
    pub session: Uuid,
    /// UUIDv7.
    pub id: Uuid,
    /// Number of `RunState`; 4 and above have ended.
    pub state: i16,
    /// Whether it lets other root runs of the session be open.
    pub parallel: bool,
    /// Version of the event format; a replica claims only what it can apply.
    pub log_version: i32,
    /// Encoded caller, from which run tokens are made again after a restart.
    pub caller: Bytes,
    /// Encoded `agentruntime.session.v1.Run` as of the last state change, without the task's input.
    pub summary: Bytes,
    /// When it was admitted.
    pub create_time: OffsetDateTime,
    /// When its state last changed.
    pub update_time: OffsetDateTime,
    /// When it halts at the latest.
    pub expire_time: OffsetDateTime,
}

/// An event as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Position, from 0 without gaps.
    pub seq: i64,
    /// Hash of the event before.
    pub prev_hash: [u8; 32],
    /// Hash of this event.
    pub hash: [u8; 32],
    /// Encoded `EventLeaf`, verbatim.
    pub leaf: Bytes,
    /// Encoded `EventContent`; `None` where the event has none or it was erased. Large ones are kept content-addressed in the
    /// session's blobs, once, whatever the number of events that hold them.
    pub content: Option<Bytes>,
}

/// An entry of the session's own short chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLogRow {
    /// Position, from 0.
    pub seq: i64,
    /// One of [`super::session_log::kind`].
    pub kind: String,
    /// The run, where the entry is about one.
    pub run: Option<Uuid>,
    /// Hash of the first event of an admitted run (which binds its genesis hash), head of a sealed one.
    pub run_hash: Option<[u8; 32]>,
    /// SHA-256 over the line `mcp-agent-runtime/session-log/v1`, the hash before, seq, kind, run and run hash:
    /// [`super::session_log::hash`].
    pub hash: [u8; 32],
}

/// A command of a caller, on its way to its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRow {
    /// UUIDv7.
    pub id: Uuid,
    /// The service's own encoding of the command.
    pub body: Bytes,
}

/// A human decision as stored beside the log, which is the truth of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRow {
    /// The session.
    pub session: Uuid,
    /// The run.
    pub run: Uuid,
    /// Id within the run.
    pub id: String,
    /// Number of `ApprovalState`.
    pub state: i16,
    /// Encoded `agentruntime.session.v1.Approval`.
    pub body: Bytes,
    /// When it was asked for.
    pub create_time: OffsetDateTime,
}
