//! Prompts: messages, tools and the output schema.

use std::collections::BTreeSet;

use mar_proto::router as pb;
use mar_proto::types::{Media, Message, Part, Role, ToolDefinition, media, part};
use mar_runtime::violations::Violations;
use serde_json::Value;

use crate::prompt::{Prompt, Schema, TOOL_PREFIX, Tool};

mod blobs;

const MAX_MESSAGES: usize = 10_000;
const MAX_PARTS: usize = 1_000;
const MAX_TOOLS: usize = 128;
const MAX_TEXT: usize = 4 << 20;
const MAX_INLINE: usize = 64 << 10;
const MAX_DESCRIPTION: usize = 8 << 10;

/// Whether a prompt may have no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Emptiness {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

/// What to generate from.
pub(in crate::grpc) fn prompt(prompt: Option<pb::Prompt>, emptiness: Emptiness, found: &mut Violations) -> Prompt {
    let mut prompt = prompt.unwrap_or_default();
    found.within("prompt", |found| {
        blobs::resolve(&mut prompt, found);
        let count = prompt.messages.len();
        let filled = count > 0 || emptiness == Emptiness::Allowed;
        found.require(filled && count <= MAX_MESSAGES, "messages", "must be 1 to 10000 messages");
        for (at, one) in prompt.messages.iter().enumerate() {
            found.item("messages", at, |found| message(one, found));
        }
        let tools = tools(prompt.tools, found);
        let output_schema = match prompt.output_schema_json.as_str() {
            "" => None,
            text => schema(text, "output_schema_json", found),
        };
        Prompt { messages: prompt.messages, tools, output_schema }
    })
}

fn message(message: &Message, found: &mut Violations) {
    let known = Role::try_from(message.role).is_ok_and(|role| role != Role::Unspecified);
    found.require(known, "role", "must be one of SYSTEM, USER, ASSISTANT, TOOL");
    let fits = (1..=MAX_PARTS).contains(&message.parts.len());
    found.require(fits, "parts", "must be 1 to 1000 parts");
    for (at, part) in message.parts.iter().take(MAX_PARTS).enumerate() {
        found.item("parts", at, |found| content(part, found));
    }
}

fn content(part: &Part, found: &mut Violations) {
    match &part.content {
        None => {
            found.field("", "must have exactly one content");
        }
        // What a caller has streamed in may be as long as the whole message.
        Some(part::Content::Text(_)) => {}
        Some(part::Content::Refusal(text)) => {
            found.require(text.len() <= MAX_TEXT, "refusal", "must be at most 4 MiB");
        }
        Some(part::Content::Media(media)) => found.within("media", |found| inline(media, found)),
        Some(part::Content::ToolCall(call)) => {
            found.require(!call.tool.is_empty(), "tool_call.tool", "must be set");
            let fits = call.arguments_json.len() <= MAX_TEXT;
            found.require(fits, "tool_call.arguments_json", "must be at most 4 MiB");
        }
        Some(part::Content::ToolResult(result)) => found.within("tool_result", |found| {
            let named = !result.call_id.is_empty() || !result.provider_call_id.is_empty();
            found.require(named, "call_id", "must be set");
            for (at, inner) in result.content.iter().enumerate() {
                let leaf = !matches!(inner.content, Some(part::Content::ToolResult(_)));
                found.item("content", at, |found| {
                    found.require(leaf, "", "must not be a result again");
                    if leaf {
                        content(inner, found);
                    }
                });
            }
        }),
        Some(part::Content::Reasoning(_) | part::Content::Citation(_) | part::Content::ProviderOpaque(_)) => {}
    }
}

fn inline(media: &Media, found: &mut Violations) {
    let typed = media.media_type.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty());
    found.require(typed, "media_type", "must be a media type such as image/png");
    match &media.source {
        Some(media::Source::Inline(bytes)) if media.size_bytes == 0 => {
            found.require(bytes.len() <= MAX_INLINE, "inline", "must be at most 64 KiB");
        }
        // Was a blob.
        Some(media::Source::Inline(_)) => {}
        Some(media::Source::Blob(_)) => {
            found.field("blob", "must be among the prompt's blobs: the router does not read a session's");
        }
        None => {
            found.field("", "must have exactly one source");
        }
    }
}

fn tools(tools: Vec<ToolDefinition>, found: &mut Violations) -> Vec<Tool> {
    found.require(tools.len() <= MAX_TOOLS, "tools", "must be at most 128");
    let mut aliases = BTreeSet::new();
    let tools = tools.into_iter().take(MAX_TOOLS).enumerate();
    let read = tools.filter_map(|(at, tool)| {
        found.item("tools", at, |found| {
            let fits = is_alias(&tool.alias);
            found.require(fits, "alias", "must be 1 to 64 of a-z, A-Z, 0-9, _ and -");
            found.require(aliases.insert(tool.alias.clone()), "alias", "is used by another tool");
            let named = tool.name.strip_prefix(TOOL_PREFIX).is_some_and(|name| name.contains('.'));
            found.require(named, "name", "must be tools/{upstream}.{tool}");
            let short = tool.description.len() <= MAX_DESCRIPTION;
            found.require(short, "description", "must be at most 8 KiB");
            Some(Tool {
                input_schema: schema(&tool.input_schema_json, "input_schema_json", found)?,
                name: tool.name,
                alias: tool.alias,
                description: tool.description,
                definition_hash: tool.definition_hash,
            })
        })
    });
    read.collect()
}

fn is_alias(alias: &str) -> bool {
    (1..=64).contains(&alias.len()) && alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn schema(text: &str, field: &str, found: &mut Violations) -> Option<Schema> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let value = value.filter(Value::is_object);
    found.require(value.is_some(), field, "must be a JSON Schema: a JSON object");
    Some(Schema { text: text.to_owned(), value: value? })
}
