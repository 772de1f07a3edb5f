//! What a prompt may look like.

use std::sync::Arc;

use mar_proto::types::{Message, Role, part::Content};

/// The calls that a turn asks for, in order.
pub fn calls_of(message: &Message) -> impl Iterator<Item = &str> {
    message.parts.iter().filter_map(|part| match &part.content {
        Some(Content::ToolCall(call)) => Some(call.call_id.as_str()),
        _ => None,
    })
}

/// What any provider accepts: each asked call answered once, in order, right after its turn; no empty messages; the last
/// word not the model's.
pub fn well_formed(transcript: &[Arc<Message>]) {
    for (at, message) in transcript.iter().enumerate() {
        assert!(!message.parts.is_empty(), "message {at} is empty");
        let asked: Vec<&str> = calls_of(message).collect();
        let given: Vec<&str> = transcript
            .get(at + 1)
            .into_iter()
            .flat_map(|next| &next.parts)
            .filter_map(|part| match &part.content {
                Some(Content::ToolResult(result)) => Some(result.call_id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(asked, given, "calls and results differ after message {at}");
    }
    assert_ne!(transcript.last().unwrap().role(), Role::Assistant, "the model has the last word already");
}
