//! Parts of a task's input that are not text.

use std::collections::BTreeSet;

use mar_proto::types::{Part, media::Source, part::Content};

/// The modality of a media type: `image`, `audio`, `video`, or `document` for everything else.
#[must_use]
pub fn modality(media_type: &str) -> &'static str {
    let top = media_type.split('/').next().unwrap_or_default();
    ["image", "audio", "video"].into_iter().find(|one| top.eq_ignore_ascii_case(one)).unwrap_or("document")
}

/// Whether the bytes of a media type are text in UTF-8, which every model reads: `text/*`, JSON, XML and YAML.
#[must_use]
pub fn is_text(media_type: &str) -> bool {
    let lower = media_type.to_ascii_lowercase();
    let Some((top, sub)) = lower.split_once('/') else { return false };
    let named = ["json", "xml", "yaml", "x-yaml", "x-ndjson", "jsonl"].contains(&sub);
    top == "text" || top == "application" && (named || sub.ends_with("+json") || sub.ends_with("+xml"))
}

/// Whether the text is a media type, such as `image/png`, without parameters.
#[must_use]
pub fn is_media_type(text: &str) -> bool {
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    text.len() <= 127 && text.split_once('/').is_some_and(|(top, sub)| token(top) && token(sub))
}

/// What a model has to read besides text.
#[must_use]
pub fn modalities(input: &[Part]) -> BTreeSet<&'static str> {
    let media = input.iter().filter_map(|part| match &part.content {
        Some(Content::Media(media)) if !is_text(&media.media_type) => Some(modality(&media.media_type)),
        _ => None,
    });
    media.collect()
}

/// The bytes of text or of inline media; a blob's are not in the message.
#[must_use]
pub fn part_bytes(part: &Part) -> usize {
    match &part.content {
        Some(Content::Text(text)) => text.len(),
        Some(Content::Media(media)) => match &media.source {
            Some(Source::Inline(bytes)) => bytes.len(),
            _ => 0,
        },
        _ => 0,
    }
}
