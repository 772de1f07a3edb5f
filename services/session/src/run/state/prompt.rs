//! How large the next prompt may be.

use mar_proto::types::{Media, Message, part::Content};

use super::State;

/// Bytes of a message's frame (role marks, separators) that a provider's template may turn into tokens.
pub(in crate::run) const MESSAGE_OVERHEAD: i64 = 16;
/// Tokens of an image beyond the bytes of its part: at least, at most.
const IMAGE: (usize, usize) = (2_048, 65_536);
/// Bytes that a router may add to the prompt to describe tools and output form.
pub(in crate::run) const PROMPT_OVERHEAD: i64 = 4_096;

impl State {
    /// An upper bound of the tokens of the prompt that the next generation sends: one token for each byte, which a byte-level
    /// tokenizer never exceeds. The settlement gives back what was not used.
    pub fn prompt_bound(&self) -> i64 {
        let start = PROMPT_OVERHEAD + self.prompt_frame();
        self.transcript.iter().fold(start, |sum, message| sum.saturating_add(message_bytes(message) + MESSAGE_OVERHEAD))
    }

    /// Bytes of a prompt that are in none of its messages: the tools, and the answer's form.
    pub(in crate::run) fn prompt_frame(&self) -> i64 {
        let form = i64::try_from(2 * self.output_schema.len()).unwrap_or(i64::MAX / 4);
        self.tool_bytes().saturating_add(form)
    }

    /// Size of the tool definitions as a model is told of them.
    fn tool_bytes(&self) -> i64 {
        let tools = self.agent.as_ref().map_or(&[][..], |agent| agent.tools.as_slice());
        let bytes: usize =
            tools.iter().map(|tool| tool.alias.len() + tool.description.len() + 2 * tool.input_schema_json.len()).sum();
        i64::try_from(bytes).unwrap_or(i64::MAX / 4)
    }
}

/// Size of what a message says.
pub(in crate::run) fn message_bytes(message: &Message) -> i64 {
    let bytes: usize = message
        .parts
        .iter()
        .map(|part| match &part.content {
            Some(Content::Text(text) | Content::Refusal(text)) => text.len(),
            Some(Content::ToolCall(call)) => call.tool.len() + call.arguments_json.len() + call.provider_call_id.len(),
            Some(Content::ToolResult(result)) => {
                result.content.iter().map(prost::Message::encoded_len).sum::<usize>() + result.provider_call_id.len()
            }
            Some(Content::Media(media)) => media_bound(media) + prost::Message::encoded_len(part),
            Some(_) => prost::Message::encoded_len(part),
            None => 0,
        })
        .sum();
    i64::try_from(bytes).unwrap_or(i64::MAX / 4)
}

/// What media may cost beyond the size of their part: a blob's bytes, which are elsewhere. No provider makes more tokens of an
/// image than [`IMAGE`], and the router reckons with some for the smallest.
fn media_bound(media: &Media) -> usize {
    let size = usize::try_from(media.size_bytes).unwrap_or(0);
    if media.media_type.starts_with("image/") { size.clamp(IMAGE.0, IMAGE.1) } else { size }
}
