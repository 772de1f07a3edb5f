//! Blobs that messages name: their bytes come beside the messages, each once, and take their places here.

use std::collections::BTreeMap;

use bytes::Bytes;
use mar_proto::router as pb;
use mar_proto::types::{Media, Part, media::Source, part::Content};
use mar_runtime::violations::Violations;
use sha2::{Digest as _, Sha256};

/// Bytes of all blobs of a prompt.
const MOST: usize = 16 << 20;

/// Puts the bytes of blobs where they are named.
pub(super) fn resolve(prompt: &mut pb::Prompt, found: &mut Violations) {
    let blobs = std::mem::take(&mut prompt.blobs);
    let total: usize = blobs.iter().map(|blob| blob.content.len()).sum();
    found.require(total <= MOST, "blobs", format!("must have at most {MOST} bytes together"));
    let mut known = BTreeMap::new();
    for (at, blob) in blobs.into_iter().enumerate().take_while(|_| total <= MOST) {
        let digest = blob.name.rsplit('/').next().unwrap_or_default();
        if digest == hex::encode(Sha256::digest(&blob.content)) {
            known.insert(blob.name, blob.content);
        } else {
            found.field(&format!("blobs[{at}].content"), "is not what the name says");
        }
    }
    let parts = prompt.messages.iter_mut().flat_map(|message| &mut message.parts);
    parts.for_each(|part| place(part, &known));
}

fn place(part: &mut Part, known: &BTreeMap<String, Bytes>) {
    match &mut part.content {
        Some(Content::Media(media)) => fill(media, known),
        Some(Content::ToolResult(result)) => result.content.iter_mut().for_each(|part| place(part, known)),
        _ => {}
    }
}

/// From here on a size is that of bytes that were placed here: only those may be longer than what is sent inline.
fn fill(media: &mut Media, known: &BTreeMap<String, Bytes>) {
    media.size_bytes = 0;
    let Some(Source::Blob(name)) = &media.source else { return };
    let Some(bytes) = known.get(name) else { return };
    media.size_bytes = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    media.source = Some(Source::Inline(bytes.clone()));
}

#[cfg(test)]
mod tests {
    use mar_proto::types::Message;

    use super::*;

    fn named(digest: &str) -> String {
        format!("sessions/s/blobs/{digest}")
    }

    fn media(name: &str) -> Part {
        let media = Media { media_type: "image/png".into(), source: Some(Source::Blob(name.into())), size_bytes: 9 };
        Part { content: Some(Content::Media(media)), ..Part::default() }
    }

    fn prompt(name: &str, content: &[u8]) -> pb::Prompt {
        let content = Bytes::copy_from_slice(content);
        let message = Message { parts: vec![media(name), media("sessions/s/blobs/00")], ..Message::default() };
        pb::Prompt {
            messages: vec![message],
            blobs: vec![pb::ResolvedBlob { name: name.into(), content }],
            ..pb::Prompt::default()
        }
    }

    #[test]
    fn bytes_take_their_places() {
        let bytes = vec![7; 100_000];
        let name = named(&hex::encode(Sha256::digest(&bytes)));
        let mut prompt = prompt(&name, &bytes);
        let mut found = Violations::new();
        resolve(&mut prompt, &mut found);
        assert!(found.is_empty());
        let parts = &prompt.messages[0].parts;
        let sizes = parts.iter().filter_map(|part| match &part.content {
            Some(Content::Media(media)) => Some((media.size_bytes, matches!(media.source, Some(Source::Inline(_))))),
            _ => None,
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [(100_000, true), (0, false)]);
    }

    #[test]
    fn bytes_that_a_name_does_not_mean_are_refused() {
        let name = named(&hex::encode(Sha256::digest(b"other")));
        let mut found = Violations::new();
        resolve(&mut prompt(&name, b"bytes"), &mut found);
        assert_eq!(found.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["blobs[0].content"]);
        let mut found = Violations::new();
        resolve(&mut prompt(&name, &vec![0; MOST + 1]), &mut found);
        assert_eq!(found.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["blobs"]);
    }
}
