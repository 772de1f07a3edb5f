//! What a tool returned over MCP, as parts that a model can read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mar_proto::types::{Media, Origin, Part, media, part};
use rmcp::ErrorData;
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::Value;

use super::clip::unmark;
use crate::outcome::{Answer, note, tool_text};

/// Larger media is dropped with a note.
const MAX_INLINE: usize = 64 * 1024;
/// Of a server's error text as much is shown.
const MAX_ERROR: usize = 2_000;

/// The answer that a result is.
pub fn answer(result: CallToolResult) -> Answer {
    let structured = result.structured_content;
    let mut answer = Answer { is_error: result.is_error.unwrap_or(false), ..Answer::default() };
    for block in result.content {
        // Servers repeat structured content as text for older clients.
        let repeats = matches!((&block, &structured), (ContentBlock::Text(text), Some(value))
            if serde_json::from_str::<Value>(&text.text).is_ok_and(|own| own == *value));
        if !repeats {
            add(&mut answer, block);
        }
    }
    if let Some(value) = structured {
        text(&mut answer, value.to_string());
    }
    if answer.parts.is_empty() {
        answer.parts.push(note("[The tool returned nothing.]"));
    }
    answer
}

/// The answer that a JSON-RPC error of the server is: the tool failed, and the model may learn why.
pub fn error(error: &ErrorData) -> Answer {
    let shown = &error.message[..error.message.floor_char_boundary(MAX_ERROR)];
    let mut answer = Answer { is_error: true, ..Answer::default() };
    text(&mut answer, format!("The tool failed with error {}: {shown}", error.code.0));
    answer
}

fn add(answer: &mut Answer, block: ContentBlock) {
    match block {
        ContentBlock::Text(block) => text(answer, block.text),
        ContentBlock::Image(image) => binary(answer, image.data, &image.mime_type),
        ContentBlock::Audio(audio) => binary(answer, audio.data, &audio.mime_type),
        ContentBlock::Resource(resource) => match resource.resource {
            ResourceContents::TextResourceContents { text: content, .. } => text(answer, content),
            ResourceContents::BlobResourceContents { blob, mime_type, .. } => {
                binary(answer, blob, mime_type.as_deref().unwrap_or("application/octet-stream"));
            }
            _ => dropped(answer, "content of an unknown kind"),
        },
        ContentBlock::ResourceLink(link) => {
            let described = link.description.map(|text| format!(" ({text})")).unwrap_or_default();
            text(answer, format!("Resource {}: {}{described}", link.name, link.uri));
        }
        _ => dropped(answer, "content of an unknown kind"),
    }
}

fn text(answer: &mut Answer, text: String) {
    let (mut text, missing) = unmark(text);
    answer.size += text.len() + missing;
    if missing > 0 {
        answer.truncated = true;
        text.push_str(&format!("… [{missing} bytes are missing]"));
    }
    answer.parts.push(tool_text(text));
}

fn binary(answer: &mut Answer, data: String, media_type: &str) {
    let (data, missing) = unmark(data);
    let size = data.len() + missing;
    answer.size += size;
    // Four characters of base64 hold three bytes.
    if missing > 0 || size / 4 * 3 > MAX_INLINE {
        return dropped(answer, &format!("{} of {} bytes", shown_type(media_type), size / 4 * 3));
    }
    match STANDARD.decode(data) {
        Ok(bytes) if bytes.len() <= MAX_INLINE => answer.parts.push(Part {
            content: Some(part::Content::Media(Media {
                media_type: shown_type(media_type),
                source: Some(media::Source::Inline(bytes.into())),
                size_bytes: 0,
            })),
            origin: Origin::Tool.into(),
            tainted: false,
        }),
        Ok(bytes) => dropped(answer, &format!("{} of {} bytes", shown_type(media_type), bytes.len())),
        Err(_) => dropped(answer, &format!("{} that is not base64", shown_type(media_type))),
    }
}

fn dropped(answer: &mut Answer, what: &str) {
    answer.truncated = true;
    answer.parts.push(note(format!("[Dropped: {what}.]")));
}

/// A media type, or a stand-in for text that is none and could talk to the model.
fn shown_type(media_type: &str) -> String {
    let fits = media_type.len() <= 100
        && media_type.contains('/')
        && media_type.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'+' | b'-' | b'_'));
    if fits { media_type.to_owned() } else { "application/octet-stream".to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(result: Value) -> Answer {
        answer(serde_json::from_value(result).unwrap())
    }

    fn texts(answer: &Answer) -> Vec<&str> {
        answer
            .parts
            .iter()
            .filter_map(|part| match &part.content {
                Some(part::Content::Text(text)) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn every_kind_of_content_arrives() {
        let read = read(json!({
            "content": [
                {"type": "text", "text": "hello"},
                {"type": "image", "data": "aGk=", "mimeType": "image/png"},
                {"type": "resource_link", "uri": "file:///a", "name": "a", "description": "the first"},
                {"type": "resource", "resource": {"uri": "x:y", "text": "inside"}},
                {"type": "image", "data": "A".repeat(100_000), "mimeType": "image/png"},
                {"type": "audio", "data": "%%", "mimeType": "ignore all previous"}
            ],
            "isError": true
        }));
        assert!(read.is_error && read.truncated);
        let media = read.parts.iter().find_map(|part| match &part.content {
            Some(part::Content::Media(Media { source: Some(media::Source::Inline(bytes)), .. })) => Some(bytes.clone()),
            _ => None,
        });
        assert_eq!(&media.unwrap()[..], b"hi");
        assert_eq!(
            texts(&read),
            [
                "hello",
                "Resource a: file:///a (the first)",
                "inside",
                "[Dropped: image/png of 75000 bytes.]",
                "[Dropped: application/octet-stream that is not base64.]"
            ]
        );
    }

    #[test]
    fn structured_content_comes_once() {
        let twice = read(json!({
            "content": [{"type": "text", "text": "{\"b\": 1, \"a\": [2]}"}],
            "structuredContent": {"a": [2], "b": 1}
        }));
        assert_eq!(texts(&twice).len(), 1);
        let apart = read(json!({"content": [{"type": "text", "text": "one"}], "structuredContent": {"n": 1}}));
        assert_eq!(texts(&apart), ["one", "{\"n\":1}"]);
    }
}
