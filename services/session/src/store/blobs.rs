//! What callers stream into a session: bytes in pieces, known by their digest once they are whole.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Error, RequestKey};

/// Size of every piece but the last, in bytes.
pub const PIECE: usize = 256 << 10;

/// An upload that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRow {
    /// Isolation boundary.
    pub tenant: String,
    /// The session.
    pub session: Uuid,
    /// UUIDv7.
    pub id: Uuid,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// IANA media type.
    pub media_type: String,
    /// How many bytes.
    pub size_bytes: i64,
}

/// What was streamed in, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// That of the upload.
    pub id: Uuid,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// IANA media type.
    pub media_type: String,
    /// How many bytes.
    pub size_bytes: i64,
    /// When it was whole.
    pub create_time: OffsetDateTime,
}

/// Whether an upload may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Its pieces are taken.
    Open,
    /// The session is ending, has ended, or is not there (for this tenant).
    NotOpen(Option<i16>),
    /// The session holds so many bytes already, of whole uploads and of those under way.
    Full(i64),
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// It is whole. Where the session had these bytes before: those, and what was uploaded now goes.
    Done(BlobRow),
    /// The `request_id` was used with another body.
    Reused,
    /// The session is ending, or has ended.
    NotOpen(Option<i16>),
    /// It has expired on its way.
    Gone,
}

/// The store's contract for what is streamed in. A session's blobs of equal bytes are one.
#[async_trait]
pub trait BlobStore {
    /// Begins an upload, and sets the timer that removes it should it not be whole after `patience`. Refused where the
    /// session would hold more than `most_bytes`. Repeating it is safe.
    async fn blob_begin(&self, upload: &UploadRow, most_bytes: i64, patience: Duration) -> Result<Opening, Error>;
    /// Stores a piece of an upload under way; `false` where it has expired. Repeating it is safe.
    async fn blob_piece(&self, tenant: &str, upload: Uuid, number: i32, content: &Bytes) -> Result<bool, Error>;
    /// Makes an upload whole, to be kept for `keep` unless a run names it, in one transaction with the request key. The same
    /// bytes that were there before are kept anew.
    async fn blob_finish(&self, key: &RequestKey, upload: &UploadRow, keep: Duration) -> Result<Finished, Error>;
    /// Has an upload go that is given up. One that is whole stays.
    async fn blob_abandon(&self, tenant: &str, session: Uuid, upload: Uuid) -> Result<(), Error>;
    /// A session's blob by its digest.
    async fn blob_get(&self, tenant: &str, session: Uuid, sha256: &[u8; 32]) -> Result<Option<BlobRow>, Error>;
    /// A piece of a blob: every one has [`PIECE`] bytes but the last.
    async fn blob_read(&self, tenant: &str, blob: Uuid, number: i32) -> Result<Option<Bytes>, Error>;
    /// Has those of these blobs that are there be kept as long as the session's payloads, and answers them in no order.
    async fn blob_keep(&self, tenant: &str, session: Uuid, sha256: &[[u8; 32]]) -> Result<Vec<BlobRow>, Error>;
    /// Removes what has expired of a session's uploads and sets the session's timer to the next, or drops it.
    async fn blob_expire(&self, tenant: &str, session: Uuid) -> Result<(), Error>;
}
