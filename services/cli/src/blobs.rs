//! `mar blobs`: files that are streamed into a session, and back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::path::Path;

use futures::StreamExt as _;
use mar_proto::session::create_blob_request::Piece;
use mar_proto::session::{BlobHeader, CreateBlobRequest, ReadBlobRequest};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::args::{BlobGetArgs, BlobPutArgs, BlobsCommand};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::Out;
use crate::run::new_id;

/// Bytes of a message.
const CHUNK: usize = 64 << 10;

/// `mar blobs`.
///
/// # Errors
/// A file cannot be read or written, nothing answers, or the request is refused.
pub async fn blobs(command: BlobsCommand, out: Out) -> Result<Exit, Failure> {
    match command {
        BlobsCommand::Put(args) => put(&args, out).await,
        BlobsCommand::Get(args) => get(&args).await,
    }
}

async fn put(args: &BlobPutArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let failed = |error: io::Error| Failure::usage(format!("{} cannot be read: {error}", args.file.display()));
    let (sha256, size_bytes) = digest(&args.file).map_err(failed)?;
    let session = match args.session.strip_prefix("sessions/") {
        Some(_) => args.session.clone(),
        None => format!("sessions/{}", args.session),
    };
    let media_type = args.media_type.clone().unwrap_or_else(|| media_type(&args.file).to_owned());
    let header = BlobHeader {
        request_id: new_id(),
        parent: session,
        media_type: media_type.clone(),
        size_bytes,
        sha256: sha256.to_vec().into(),
    };
    let file = File::open(&args.file).map_err(failed)?;
    // A file that cannot be read on ends the stream, and with it the upload, which is not whole then.
    let chunks = futures::stream::iter(Chunks(file)).map(Piece::Chunk);
    let first = futures::stream::once(async { Piece::Header(header) });
    let stream = first.chain(chunks).map(|piece| CreateBlobRequest { piece: Some(piece) });
    let answer = endpoint.sessions()?.create_blob(endpoint.request(stream)).await;
    let name = answer.map_err(|status| endpoint.failure(status))?.into_inner().name;
    if args.json {
        out.json(&json!({ "name": name, "media_type": media_type, "size_bytes": size_bytes }));
    } else {
        out.line(name);
    }
    Ok(Exit::Done)
}

async fn get(args: &BlobGetArgs) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let request = ReadBlobRequest { name: args.blob.clone(), ..Default::default() };
    let answer = endpoint.sessions()?.read_blob(endpoint.request(request)).await;
    let mut stream = answer.map_err(|status| endpoint.failure(status))?.into_inner();
    let failed = |error: io::Error| Failure::usage(format!("{} cannot be written: {error}", args.output.display()));
    let mut output: Box<dyn Write> = if args.output == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(OpenOptions::new().write(true).create_new(true).open(&args.output).map_err(failed)?)
    };
    while let Some(piece) = stream.next().await {
        let chunk = piece.map_err(|status| endpoint.failure(status))?.chunk;
        output.write_all(&chunk).map_err(failed)?;
    }
    output.flush().map_err(failed)?;
    Ok(Exit::Done)
}

fn digest(path: &Path) -> io::Result<([u8; 32], i64)> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((hash.finalize().into(), size)),
            read => {
                hash.update(&chunk[..read]);
                size += i64::try_from(read).unwrap_or(i64::MAX);
            }
        }
    }
}

/// A file in chunks.
struct Chunks(File);

impl Iterator for Chunks {
    type Item = bytes::Bytes;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = vec![0; CHUNK];
        let read = self.0.read(&mut chunk).ok().filter(|read| *read > 0)?;
        chunk.truncate(read);
        Some(chunk.into())
    }
}

/// What a file's name says that it is.
fn media_type(path: &Path) -> &'static str {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "txt" | "log" => "text/plain",
        "md" => "text/markdown",
        "csv" => "text/csv",
        "html" | "htm" => "text/html",
        "json" => "application/json",
        "xml" => "application/xml",
        "yaml" | "yml" => "application/yaml",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_ending_says() {
        assert_eq!(media_type(Path::new("a/photo.JPG")), "image/jpeg");
        assert_eq!(media_type(Path::new("notes.md")), "text/markdown");
        assert_eq!(media_type(Path::new("Makefile")), "application/octet-stream");
    }

    #[test]
    fn a_file_comes_in_chunks_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        let bytes = vec![7_u8; 2 * CHUNK + 3];
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(digest(&path).unwrap(), (Sha256::digest(&bytes).into(), bytes.len() as i64));
        let chunks: Vec<_> = Chunks(File::open(&path).unwrap()).collect();
        assert!(chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
        assert_eq!(chunks.concat(), bytes);
    }
}
