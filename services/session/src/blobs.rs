//! What callers stream into a session, for tasks to name: taken piece by piece, trusted when its digest is what was said.
//!
//! **Invariant:** nobody sees bytes that were not received whole, and nobody but their tenant does.
//!
//! An upload that is cut, that hangs or that does not hold its word leaves nothing: its pieces go at once, or with the session's
//! timer where the replica died. What is whole and named by no run goes after [`BlobLimits::keep`].

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use mar_proto::session::{SessionState, Task};
use mar_proto::types::{media::Source, part::Content};
use mar_runtime::auth::Caller;
use mar_runtime::status::Resource;
use mar_runtime::violations::Violations;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::crash::Point;
use crate::error::Error;
use crate::runs::Runs;
use crate::store::blobs::PIECE;
use crate::store::{BlobRow, Finished, Opening, RequestKey, UploadRow};

mod text;

use text::Utf8;

/// How long one upload may take.
const UPLOAD: Duration = Duration::from_secs(3600);

/// What may be streamed in, and for how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobLimits {
    /// Bytes of one blob.
    pub max_bytes: i64,
    /// Bytes of all blobs of a session, those under way included.
    pub max_session_bytes: i64,
    /// Bytes of all blobs that one prompt resolves.
    pub max_prompt_bytes: i64,
    /// How long one that no run names is kept.
    pub keep: Duration,
    /// The longest pause between two messages of an upload.
    pub patience: Duration,
}

impl Default for BlobLimits {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_session_bytes: 1 << 30,
            max_prompt_bytes: 16 << 20,
            keep: Duration::from_secs(24 * 3600),
            patience: Duration::from_secs(30),
        }
    }
}

/// An upload, as its first message says.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The request's id in its scope.
    pub key: RequestKey,
    /// The session.
    pub session: Uuid,
    /// IANA media type.
    pub media_type: String,
    /// How many bytes, at least one.
    pub size_bytes: i64,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
}

/// `sessions/{session}/blobs/{sha256}`
pub fn name(session: Uuid, sha256: &[u8; 32]) -> String {
    format!("sessions/{session}/blobs/{}", hex::encode(sha256))
}

/// The parts of a blob's name.
pub fn parse(name: &str) -> Option<(Uuid, [u8; 32])> {
    let (session, digest) = name.strip_prefix("sessions/")?.split_once("/blobs/")?;
    let id = Uuid::try_parse(session).ok().filter(|id| id.to_string() == session)?;
    let sha256: [u8; 32] = hex::decode(digest).ok()?.try_into().ok()?;
    (hex::encode(sha256) == digest).then_some((id, sha256))
}

impl Runs {
    /// Takes an upload in. What the caller's stream fails with is passed on.
    pub async fn upload<E: From<Error> + Send>(
        &self,
        caller: &Caller,
        upload: Upload,
        chunks: impl Stream<Item = Result<Bytes, E>> + Send + Unpin,
    ) -> Result<BlobRow, E> {
        let tenant = &caller.tenant;
        self.activity().note(tenant, upload.session);
        let known = self.known(tenant, &upload).await?;
        if let Known::Repeated(blob) = known {
            return Ok(blob);
        }
        let row = UploadRow {
            tenant: tenant.clone(),
            session: upload.session,
            id: self.ids().uuid_v7(),
            sha256: upload.sha256,
            media_type: upload.media_type.clone(),
            size_bytes: upload.size_bytes,
        };
        let mut guard = None;
        if matches!(known, Known::New) {
            self.open(&row).await?;
            guard = Some(Abandon { runs: self.clone(), row: Some(row.clone()) });
            self.crash().pass_into(Point::UploadBegun, row.session).await;
        }
        self.receive(&row, guard.is_some(), chunks).await?;
        self.crash().pass_into(Point::UploadReceived, row.session).await;
        let keep = self.limits().blobs.keep;
        let finished = self.store().blob_finish(&upload.key, &row, keep).await.map_err(Error::Store)?;
        self.crash().pass_into(Point::UploadWhole, row.session).await;
        let blob = whole(finished, &upload)?;
        if blob.id == row.id
            && let Some(guard) = &mut guard
        {
            guard.row = None;
        }
        Ok(blob)
    }

    /// What is known of an upload before its bytes come.
    async fn known(&self, tenant: &str, upload: &Upload) -> Result<Known, Error> {
        let store = self.store();
        let seen = store.request_seen(tenant, &upload.key).await?;
        if seen == Some(false) {
            return Err(Error::RequestIdReused);
        }
        match store.blob_get(tenant, upload.session, &upload.sha256).await? {
            Some(blob) => {
                same_type(&blob, upload)?;
                Ok(if seen.is_some() { Known::Repeated(blob) } else { Known::Stored })
            }
            None => Ok(Known::New),
        }
    }

    async fn open(&self, row: &UploadRow) -> Result<(), Error> {
        let most = self.limits().blobs.max_session_bytes;
        match self.store().blob_begin(row, most, UPLOAD).await? {
            Opening::Open => Ok(()),
            Opening::NotOpen(state) => Err(not_open(row.session, state)),
            Opening::Full(used) => Err(Error::SessionFull { session: session_name(row.session), used, most }),
        }
    }

    /// Reads the bytes to their end, and stores them where they are new.
    async fn receive<E: From<Error>>(
        &self,
        row: &UploadRow,
        new: bool,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Send + Unpin,
    ) -> Result<(), E> {
        let (mut hash, mut came, mut number) = (Sha256::new(), 0_i64, 0);
        let mut text = mar_task::media::is_text(&row.media_type).then(Utf8::default);
        let mut piece = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            came = came.saturating_add(i64::try_from(chunk.len()).unwrap_or(i64::MAX));
            if came > row.size_bytes {
                return Err(wrong(
                    "chunk",
                    format!("more than the {} bytes of header.size_bytes came", row.size_bytes),
                ));
            }
            if text.as_mut().is_some_and(|text| !text.feed(&chunk)) {
                return Err(not_text(&row.media_type));
            }
            hash.update(&chunk);
            if !new {
                continue;
            }
            piece.extend_from_slice(&chunk);
            while piece.len() >= PIECE {
                let full = piece.split_to(PIECE).freeze();
                self.put(row, &mut number, &full).await?;
            }
        }
        if came < row.size_bytes {
            return Err(wrong("header.size_bytes", format!("is {}, and {came} bytes came", row.size_bytes)));
        }
        if text.is_some_and(|text| !text.ended()) {
            return Err(not_text(&row.media_type));
        }
        if <[u8; 32]>::from(hash.finalize()) != row.sha256 {
            return Err(wrong("header.sha256", "is not the digest of the bytes that came".to_owned()));
        }
        if !piece.is_empty() {
            self.put(row, &mut number, &piece.freeze()).await?;
        }
        Ok(())
    }

    async fn put(&self, row: &UploadRow, number: &mut i32, piece: &Bytes) -> Result<(), Error> {
        self.activity().note(&row.tenant, row.session);
        if !self.store().blob_piece(&row.tenant, row.id, *number, piece).await? {
            return Err(self.gone(&row.tenant, row.session).await?);
        }
        self.crash().pass_into(Point::UploadPiece, row.session).await;
        *number += 1;
        Ok(())
    }

    /// Why an upload that was begun is not there any more.
    async fn gone(&self, tenant: &str, session: Uuid) -> Result<Error, Error> {
        let state = self.store().session_get(tenant, session).await?.map(|session| session.state);
        let open = state == Some(SessionState::Open as i16);
        Ok(if open { Error::UploadOverdue } else { not_open(session, state) })
    }

    /// A session's blob.
    pub async fn blob(&self, tenant: &str, session: Uuid, sha256: &[u8; 32]) -> Result<BlobRow, Error> {
        self.activity().note(tenant, session);
        let found = self.store().blob_get(tenant, session, sha256).await?;
        found.ok_or_else(|| Error::NotFound { kind: Resource::Blob, name: name(session, sha256) })
    }

    /// Looks up the blobs that a task names, has them kept, and writes into the task what is known of them.
    pub(crate) async fn resolve_blobs(&self, tenant: &str, session: Uuid, task: &mut Task) -> Result<(), Error> {
        let wanted: Vec<[u8; 32]> = named(task).filter_map(parse).map(|(_, sha256)| sha256).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let found = self.store().blob_keep(tenant, session, &wanted).await?;
        let mut wrong = Violations::new();
        let mut total = 0_i64;
        for (index, part) in task.input.iter_mut().enumerate() {
            let Some(Content::Media(media)) = &mut part.content else { continue };
            let Some(Source::Blob(blob)) = &media.source else { continue };
            let known = parse(blob).filter(|(home, _)| *home == session);
            let known = known.and_then(|(_, sha256)| found.iter().find(|row| row.sha256 == sha256));
            let place = format!("task.input[{index}].media");
            let Some(known) = known else {
                wrong.field(&format!("{place}.blob"), "must be a blob of the run's session, which is there");
                continue;
            };
            let fits = media.media_type == known.media_type;
            let text = format!("must be `{}`, as the blob was uploaded", known.media_type);
            wrong.require(fits, &format!("{place}.media_type"), text);
            media.size_bytes = known.size_bytes;
            total = total.saturating_add(known.size_bytes);
        }
        let most = self.limits().blobs.max_prompt_bytes;
        wrong.require(total <= most, "task.input", format!("must name blobs of at most {most} bytes together"));
        if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
    }
}

/// The names of the blobs in a task's input.
fn named(task: &Task) -> impl Iterator<Item = &str> {
    task.input.iter().filter_map(|part| match &part.content {
        Some(Content::Media(media)) => match &media.source {
            Some(Source::Blob(name)) => Some(name.as_str()),
            _ => None,
        },
        _ => None,
    })
}

/// What is known of an upload before its bytes come.
enum Known {
    /// The session does not have these bytes.
    New,
    /// It has them; whoever says so still has to show them.
    Stored,
    /// The same request has uploaded them.
    Repeated(BlobRow),
}

/// Has an upload go that was dropped on its way.
struct Abandon {
    runs: Runs,
    row: Option<UploadRow>,
}

impl Drop for Abandon {
    fn drop(&mut self) {
        let Some(row) = self.row.take() else { return };
        let runs = self.runs.clone();
        self.runs.spawn(async move {
            if let Err(error) = runs.store().blob_abandon(&row.tenant, row.session, row.id).await {
                tracing::debug!(error = %mar_runtime::status::chain(&error), "an upload that was given up goes later");
            }
        });
    }
}

fn whole(finished: Finished, upload: &Upload) -> Result<BlobRow, Error> {
    match finished {
        Finished::Done(blob) => same_type(&blob, upload).map(|()| blob),
        Finished::Reused => Err(Error::RequestIdReused),
        Finished::NotOpen(state) => Err(not_open(upload.session, state)),
        Finished::Gone => Err(Error::UploadOverdue),
    }
}

/// The same bytes are one blob, and have one media type.
fn same_type(blob: &BlobRow, upload: &Upload) -> Result<(), Error> {
    if blob.media_type == upload.media_type {
        return Ok(());
    }
    Err(wrong("header.media_type", format!("must be `{}`, as which the session has these bytes", blob.media_type)))
}

fn not_open(session: Uuid, state: Option<i16>) -> Error {
    let name = session_name(session);
    if state.is_some() { Error::SessionEnded(name) } else { Error::NotFound { kind: Resource::Session, name } }
}

fn session_name(session: Uuid) -> String {
    format!("sessions/{session}")
}

fn not_text<E: From<Error>>(media_type: &str) -> E {
    wrong("chunk", format!("must be UTF-8, as {media_type} is"))
}

fn wrong<E: From<Error>>(field: &str, text: String) -> E {
    let mut found = Violations::new();
    found.field(field, text);
    Error::Invalid(found).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let (session, sha256) = (Uuid::from_u128(7), [0xab; 32]);
        let spelled = name(session, &sha256);
        assert_eq!(parse(&spelled), Some((session, sha256)));
        for other in [
            spelled.to_uppercase(),
            spelled.replace("ab", "AB"),
            spelled[..spelled.len() - 2].to_owned(),
            format!("{spelled}00"),
            spelled.replace("/blobs/", "/runs/"),
            spelled.replace("sessions/", "sessions/{"),
            String::new(),
        ] {
            assert_eq!(parse(&other), None, "{other}");
        }
    }
}
