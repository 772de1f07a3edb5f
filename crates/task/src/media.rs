//! Parts of a task's input that are not text.

use std::collections::BTreeSet;

use mar_proto::types::{Part, media::Source, part::Content};

/// The modality of a media type: `image`, `audio`, `video`, or `document` for everything else.
#[must_use]
pub fn modality(media_type: &str) -> &'static str {
    let top = media_type.split('/').next().unwrap_or_default();
    ["image", "audio", "video"].into_iter().find(|one| top.eq_ignore_ascii_case(one)).unwrap_or("document")
}

/// What a model has to read besides text.
#[must_use]
pub fn modalities(input: &[Part]) -> BTreeSet<&'static str> {
    let media = input.iter().filter_map(|part| match &part.content {
        Some(Content::Media(media)) => Some(modality(&media.media_type)),
        _ => None,
    });
    media.collect()
}

/// The bytes of text or of inline media.
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
