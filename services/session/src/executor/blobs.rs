//! What a prompt names of the session's blobs, put into the request: text where it is named, other media beside the messages,
//! each once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mar_proto::router::ResolvedBlob;
use mar_proto::types::{Media, Message, Part, media::Source, part::Content};
use mar_task::media::is_text;

use crate::blobs::parse;
use crate::clients::TurnRequest;
use crate::store::blobs::PIECE;
use crate::store::{self, Store};

/// Why a blob is not in the request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unresolved {
    /// The store does not give it.
    #[error("a blob of the prompt cannot be read")]
    Store(#[from] store::Error),
    /// It is not there any more.
    #[error("{0} is not there any more")]
    Gone(String),
}

/// Reads what the prompt names.
pub(super) async fn resolve(store: &dyn Store, tenant: &str, request: &mut TurnRequest) -> Result<(), Unresolved> {
    let mut known = BTreeMap::new();
    for name in request.messages.iter().flat_map(|message| &message.parts).filter_map(blob_of) {
        if !known.contains_key(name) {
            let content = read(store, tenant, name).await?;
            known.insert(name.to_owned(), content);
        }
    }
    let mut named = BTreeMap::new();
    for message in &mut request.messages {
        if message.parts.iter().any(|part| media_of(part).is_some()) {
            *message = Arc::new(told(message, &known, &mut named));
        }
    }
    request.blobs = named.into_iter().map(|(name, content)| ResolvedBlob { name, content }).collect();
    Ok(())
}

fn media_of(part: &Part) -> Option<&Media> {
    match &part.content {
        Some(Content::Media(media)) => Some(media),
        _ => None,
    }
}

fn blob_of(part: &Part) -> Option<&str> {
    match media_of(part)?.source.as_ref()? {
        Source::Blob(name) => Some(name),
        Source::Inline(_) => None,
    }
}

/// The message as the router gets it; `named` takes what it still names.
fn told(message: &Message, known: &BTreeMap<String, Bytes>, named: &mut BTreeMap<String, Bytes>) -> Message {
    let mut parts = Vec::with_capacity(message.parts.len());
    for part in &message.parts {
        let bytes = media_of(part).and_then(|media| match media.source.as_ref()? {
            Source::Inline(bytes) => Some(bytes),
            Source::Blob(name) => known.get(name),
        });
        let text = media_of(part).filter(|media| is_text(&media.media_type)).and(bytes);
        match text.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
            // One part, however long: parts of text are paragraphs of their own to a model.
            Some(text) if !text.is_empty() => {
                parts.push(Part { content: Some(Content::Text(text.to_owned())), ..part.clone() });
            }
            Some(_) => {}
            None => {
                if let (Some(name), Some(bytes)) = (blob_of(part), bytes) {
                    named.insert(name.to_owned(), bytes.clone());
                }
                parts.push(part.clone());
            }
        }
    }
    Message { role: message.role, parts }
}

async fn read(store: &dyn Store, tenant: &str, name: &str) -> Result<Bytes, Unresolved> {
    let gone = || Unresolved::Gone(name.to_owned());
    let (session, sha256) = parse(name).ok_or_else(gone)?;
    let blob = store.blob_get(tenant, session, &sha256).await?.ok_or_else(gone)?;
    let size = usize::try_from(blob.size_bytes).unwrap_or(0);
    let mut content = BytesMut::with_capacity(size);
    for number in 0..size.div_ceil(PIECE) {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        content.extend_from_slice(&store.blob_read(tenant, blob.id, number).await?.ok_or_else(gone)?);
    }
    if content.len() == size { Ok(content.freeze()) } else { Err(gone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(media_type: &str, source: Source) -> Part {
        let media = Media { media_type: media_type.to_owned(), source: Some(source), size_bytes: 0 };
        Part { content: Some(Content::Media(media)), ..Part::default() }
    }

    #[test]
    fn text_is_told_as_text_and_the_rest_by_name() {
        let long = "é".repeat(4 << 20);
        let known =
            BTreeMap::from([("a".to_owned(), Bytes::from(long.clone())), ("b".to_owned(), Bytes::from_static(b"png"))]);
        let parts = vec![
            media("text/plain", Source::Blob("a".to_owned())),
            media("image/png", Source::Blob("b".to_owned())),
            media("image/png", Source::Blob("b".to_owned())),
            media("application/json", Source::Inline(Bytes::from_static(b"{}"))),
            media("image/png", Source::Inline(Bytes::from_static(b"small"))),
        ];
        let mut named = BTreeMap::new();
        let told = told(&Message { role: 2, parts: parts.clone() }, &known, &mut named);
        let text = |part: &Part| match &part.content {
            Some(Content::Text(text)) => text.clone(),
            _ => String::new(),
        };
        assert_eq!(told.parts.len(), 5);
        assert_eq!(text(&told.parts[0]), long, "in one piece");
        assert_eq!(told.parts[1..3], parts[1..3]);
        assert_eq!(text(&told.parts[3]), "{}");
        assert_eq!(told.parts[4], parts[4]);
        assert_eq!(named.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn bytes_that_are_no_text_stay_what_they_are() {
        let part = media("text/plain", Source::Inline(Bytes::from_static(b"\xff")));
        let message = Message { role: 2, parts: vec![part] };
        assert_eq!(told(&message, &BTreeMap::new(), &mut BTreeMap::new()), message);
    }
}
