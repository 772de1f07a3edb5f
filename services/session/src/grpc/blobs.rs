//! Streams of bytes, in and out.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use mar_proto::session::create_blob_request::Piece;
use mar_proto::session::{BlobHeader, CreateBlobRequest, CreateBlobResponse, ReadBlobRequest, ReadBlobResponse};
use mar_proto::types::ErrorReason;
use mar_runtime::auth::Caller;
use mar_runtime::clock::{Clock, within};
use mar_runtime::status::{Fault, Resource};
use mar_runtime::violations::Violations;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::Frames;
use super::convert::{parse_session, request_key};
use crate::blobs::{self, Upload};
use crate::error::Error;
use crate::log::stamp;
use crate::runs::Runs;
use crate::store::BlobRow;
use crate::store::blobs::PIECE;

const CREATE_BLOB: &str = "/agentruntime.session.v1.SessionService/CreateBlob";
/// Bytes of one message.
const CHUNK: usize = 64 << 10;
/// How long a reader may take for a message.
const IDLE: (Duration, Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(60), Duration::from_secs(600));

/// Takes an upload in: its header, then its bytes.
pub(super) async fn create(
    runs: &Runs,
    caller: &Caller,
    mut stream: Streaming<CreateBlobRequest>,
) -> Result<CreateBlobResponse, Status> {
    let patience = runs.limits().blobs.patience;
    let first = next(runs.clock(), patience, &mut stream).await.transpose()?;
    let upload = match first.and_then(|request| request.piece) {
        Some(Piece::Header(header)) => header_of(runs, caller, header)?,
        _ => return Err(wrong("header", "must come in the first message")),
    };
    let chunks = futures::stream::unfold(stream, |mut stream| async move {
        let chunk = next(runs.clock(), patience, &mut stream).await?.and_then(chunk_of);
        Some((chunk, stream))
    });
    let chunks = chunks.map(|chunk: Result<Bytes, Status>| chunk.map_err(Refusal::Stream));
    let session = upload.session;
    let blob = runs.upload(caller, upload, Box::pin(chunks)).await.map_err(Refusal::into_status)?;
    Ok(CreateBlobResponse { name: blobs::name(session, &blob.sha256), create_time: Some(stamp(blob.create_time)) })
}

/// Why an upload ends: by the rules of the domain, or because its stream did.
enum Refusal {
    Domain(Error),
    Stream(Status),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Domain(error)
    }
}

impl Refusal {
    fn into_status(self) -> Status {
        match self {
            Self::Domain(error) => error.into(),
            Self::Stream(status) => status,
        }
    }
}

/// The next message; none at the end of the stream.
async fn next(
    clock: &dyn Clock,
    patience: Duration,
    stream: &mut Streaming<CreateBlobRequest>,
) -> Option<Result<CreateBlobRequest, Status>> {
    match within(clock, patience, stream.message()).await {
        Ok(message) => message.transpose(),
        Err(_) => {
            let text = format!("no message came for {} s", patience.as_secs());
            Some(Err(Fault::new(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, text).into()))
        }
    }
}

fn header_of(runs: &Runs, caller: &Caller, header: BlobHeader) -> Result<Upload, Status> {
    let mut found = Violations::new();
    let most = runs.limits().blobs.max_bytes;
    let upload = found.within("header", |found| {
        let key = request_key(caller, CREATE_BLOB, &header.request_id, &header, found);
        let session = parse_session("parent", &header.parent, found).unwrap_or_default();
        let typed = mar_task::media::is_media_type(&header.media_type);
        found.require(typed, "media_type", "must be a media type such as `image/png`");
        let fits = (1..=most).contains(&header.size_bytes);
        found.require(fits, "size_bytes", format!("must be 1 to {most}"));
        let sha256 = <[u8; 32]>::try_from(header.sha256.as_ref());
        found.require(sha256.is_ok(), "sha256", "must have 32 bytes");
        let sha256 = sha256.unwrap_or_default();
        Upload { key, session, media_type: header.media_type.clone(), size_bytes: header.size_bytes, sha256 }
    });
    Ok(found.into_result(upload)?)
}

fn chunk_of(request: CreateBlobRequest) -> Result<Bytes, Status> {
    match request.piece {
        Some(Piece::Chunk(bytes)) if (1..=CHUNK).contains(&bytes.len()) => Ok(bytes),
        Some(Piece::Chunk(_)) => Err(wrong("chunk", "must have 1 to 65536 bytes")),
        _ => Err(wrong("chunk", "must come in every message but the first")),
    }
}

fn wrong(field: &str, text: &str) -> Status {
    let mut found = Violations::new();
    found.field(field, text);
    found.into()
}

/// Which blob is wanted, from where on, and how long a reader may pause.
fn wanted(request: &ReadBlobRequest) -> Result<(Uuid, [u8; 32], i64, Duration), Violations> {
    let mut found = Violations::new();
    let place = blobs::parse(&request.name);
    found.require(place.is_some(), "name", "must be `sessions/{session}/blobs/{sha256}`");
    found.require(request.offset >= 0, "offset", "must be 0 or more");
    let (least, usual, most) = IDLE;
    let idle = match request.idle_timeout {
        None => Some(usual),
        Some(span) => Duration::try_from(span).ok().filter(|span| (least..=most).contains(span)),
    };
    found.require(idle.is_some(), "idle_timeout", "must be 1 s to 10 min");
    let (session, sha256) = place.unwrap_or_default();
    found.into_result((session, sha256, request.offset, idle.unwrap_or(usual)))
}

/// Gives a blob out. A task of the service reads it, so that a reader that has gone to sleep costs it nothing for ever.
pub(super) async fn read(
    runs: &Runs,
    caller: &Caller,
    request: &ReadBlobRequest,
) -> Result<Frames<ReadBlobResponse>, Status> {
    let (session, sha256, offset, idle) = wanted(request)?;
    let blob = runs.blob(&caller.tenant, session, &sha256).await?;
    if offset > blob.size_bytes {
        return Err(wrong("offset", &format!("must be 0 to {}", blob.size_bytes)));
    }
    let (sender, receiver) = mpsc::channel(1);
    let reading = Reading { runs: runs.clone(), tenant: caller.tenant.clone(), session, sha256, blob, idle };
    runs.spawn(async move { reading.send(offset, sender).await });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

struct Reading {
    runs: Runs,
    tenant: String,
    session: Uuid,
    sha256: [u8; 32],
    blob: BlobRow,
    idle: Duration,
}

type Sender = mpsc::Sender<Result<ReadBlobResponse, Status>>;

impl Reading {
    async fn send(&self, offset: i64, sender: Sender) {
        let stopped = self.runs.stopped();
        let sending = async {
            if let Err(status) = self.send_from(offset, &sender).await {
                // The last place is kept for the reason.
                let _ = sender.send(Err(status)).await;
            }
        };
        tokio::select! {
            biased;
            () = sending => {}
            () = stopped => {
                let _ = sender.try_send(Err(Error::Draining.into()));
            }
            () = sender.closed() => {}
        }
    }

    async fn send_from(&self, offset: i64, sender: &Sender) -> Result<(), Status> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let size = usize::try_from(self.blob.size_bytes).unwrap_or(0);
        let (mut number, mut skip) = (offset / PIECE, offset % PIECE);
        while number * PIECE < size {
            let place = i32::try_from(number).unwrap_or(i32::MAX);
            let piece = self.runs.store().blob_read(&self.tenant, self.blob.id, place).await.map_err(Error::Store)?;
            // Erased, or expired, while it is read.
            let name = || blobs::name(self.session, &self.sha256);
            let piece = piece.ok_or_else(|| Error::NotFound { kind: Resource::Blob, name: name() })?;
            for chunk in piece[skip.min(piece.len())..].chunks(CHUNK) {
                let response = ReadBlobResponse { chunk: piece.slice_ref(chunk) };
                match within(self.runs.clock(), self.idle, sender.send(Ok(response))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => {
                        let text = format!("nobody read for {} s", self.idle.as_secs());
                        return Err(Fault::new(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, text).into());
                    }
                }
            }
            self.runs.activity().note(&self.tenant, self.session);
            (number, skip) = (number + 1, 0);
        }
        Ok(())
    }
}
