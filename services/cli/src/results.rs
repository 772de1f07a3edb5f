//! How large a tool's result is, and how much of it the model got.

use mar_proto::session::ToolReturned;
use mar_proto::types::{Origin, Part, ToolResult, media, part};
use serde_json::{Value, json};

use crate::table::bytes;

/// Bytes of the result that the model got, the platform's own remarks aside.
pub fn kept(result: &ToolResult) -> i64 {
    let own = result.content.iter().filter(|part| part.origin() != Origin::Platform);
    own.map(|part| i64::try_from(size_of(part)).unwrap_or(i64::MAX)).fold(0, i64::saturating_add)
}

fn size_of(part: &Part) -> usize {
    match &part.content {
        Some(part::Content::Text(text)) => text.len(),
        Some(part::Content::Media(media)) => match &media.source {
            Some(media::Source::Inline(bytes)) => bytes.len(),
            Some(media::Source::Blob(_)) => usize::try_from(media.size_bytes).unwrap_or(0),
            None => 0,
        },
        _ => 0,
    }
}

/// `95.4 MiB`, or `truncated to 64.0 KiB of 95.4 MiB`. Somebody who brings a result may have cut it before: then nobody
/// knows how large it was.
pub fn size(returned: &ToolReturned, result: Option<&ToolResult>) -> String {
    let Some(result) = result.filter(|result| result.truncated) else { return bytes(returned.size_bytes) };
    let kept = kept(result);
    let whole = if returned.size_bytes > kept { format!(" of {}", bytes(returned.size_bytes)) } else { String::new() };
    format!("truncated to {}{whole}", bytes(kept))
}

/// What an event of a result has beside those of all events.
pub fn fields(returned: &ToolReturned, result: &ToolResult) -> [(String, Value); 8] {
    let passages: Vec<_> = result.passages.iter().map(|passage| &passage.passage_id).collect();
    [
        ("call_id".into(), json!(returned.call_id)),
        ("outcome".into(), json!(returned.outcome().as_str_name().trim_start_matches("TOOL_OUTCOME_"))),
        ("reason".into(), json!(returned.reason)),
        ("passages".into(), json!(passages)),
        ("size_bytes".into(), json!(returned.size_bytes)),
        ("truncated".into(), json!(result.truncated)),
        ("kept_bytes".into(), json!(kept(result))),
        ("duration_ms".into(), json!(returned.duration_ms)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize, origin: Origin) -> Part {
        let content = Some(part::Content::Text("x".repeat(length)));
        Part { content, origin: origin.into(), ..Part::default() }
    }

    fn told(size_bytes: i64, truncated: bool, content: Vec<Part>) -> String {
        let result = ToolResult { truncated, content, ..ToolResult::default() };
        size(&ToolReturned { size_bytes, ..ToolReturned::default() }, Some(&result))
    }

    #[test]
    fn a_result_that_was_cut_says_so() {
        let content = || vec![text(65_536, Origin::Tool), text(70, Origin::Platform)];
        assert_eq!(told(100_000_000, true, content()), "truncated to 64.0 KiB of 95.4 MiB");
        assert_eq!(told(65_536, false, content()), "64.0 KiB");
    }

    #[test]
    fn a_size_that_nobody_knows_is_not_told() {
        assert_eq!(told(12, true, vec![text(12, Origin::Tool)]), "truncated to 12 B");
        assert_eq!(told(0, true, vec![text(2_048, Origin::Unspecified)]), "truncated to 2.0 KiB");
    }

    #[test]
    fn a_payload_that_was_erased_leaves_its_size() {
        let returned = ToolReturned { size_bytes: 12, ..ToolReturned::default() };
        assert_eq!(size(&returned, None), "12 B");
    }
}
