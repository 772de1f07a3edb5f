//! Inputs that are streamed in while replicas die.

use std::time::Duration;

use anyhow::ensure;
use mar_proto::session::create_blob_request::Piece;
use mar_proto::session::{BlobHeader, CreateBlobRequest, ReadBlobRequest};
use mar_proto::types::{Media, Part, media::Source, part::Content};
use mar_tests::client::{Client, request_id};
use sha2::{Digest as _, Sha256};
use tokio_stream::StreamExt as _;
use tonic::Status;

use crate::story::{Teller, comes_back};

/// Pieces that are sent, of some kilobytes each: a dying replica has some of them, and a model reads them all.
const PIECES: usize = 16;

impl Teller {
    /// Streams a text into a session, at any replica that lives, until one has taken it whole; the part of a task that names
    /// it. Any replica gives it out again.
    pub async fn upload(&mut self, session: &str) -> anyhow::Result<Part> {
        let text = format!("{:08} ", self.dice.below(1 << 20)).repeat(4_000);
        let header = BlobHeader {
            request_id: request_id(),
            parent: session.to_owned(),
            media_type: "text/plain".into(),
            size_bytes: i64::try_from(text.len())?,
            sha256: Sha256::digest(&text).to_vec().into(),
        };
        let name = loop {
            match tokio::time::timeout(Duration::from_secs(5), put(self.client().await, &header, &text)).await {
                Ok(Ok(name)) => break name,
                Ok(Err(status)) => comes_back(&status)?,
                Err(_) => {}
            }
        };
        loop {
            match tokio::time::timeout(Duration::from_secs(5), read(self.client().await, &name)).await {
                Ok(Ok(bytes)) => {
                    ensure!(bytes == text.as_bytes(), "{name} is read as something else");
                    break;
                }
                Ok(Err(status)) => comes_back(&status)?,
                Err(_) => {}
            }
        }
        let media = Media { media_type: "text/plain".into(), source: Some(Source::Blob(name)), size_bytes: 0 };
        Ok(Part { content: Some(Content::Media(media)), ..Part::default() })
    }
}

async fn put(mut client: Client, header: &BlobHeader, text: &str) -> Result<String, Status> {
    let first = CreateBlobRequest { piece: Some(Piece::Header(header.clone())) };
    let chunks = text.as_bytes().chunks(text.len().div_ceil(PIECES)).map(<[u8]>::to_vec);
    let chunks = chunks.map(|chunk| CreateBlobRequest { piece: Some(Piece::Chunk(chunk.into())) });
    let stream: Vec<CreateBlobRequest> = std::iter::once(first).chain(chunks).collect();
    // Slowly, so that it takes some of a replica's life.
    let stream = tokio_stream::iter(stream).then(|request| async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        request
    });
    Ok(client.grpc.create_blob(stream).await?.into_inner().name)
}

async fn read(mut client: Client, name: &str) -> Result<Vec<u8>, Status> {
    let request = ReadBlobRequest { name: name.to_owned(), ..ReadBlobRequest::default() };
    let mut stream = client.grpc.read_blob(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?.chunk);
    }
    Ok(bytes)
}
