//! What a turn is generated from, checked and with its schemas parsed.

use std::collections::BTreeSet;

use mar_proto::types::{Message, part};
use serde_json::Value;

/// The prefix of tools' resource names.
pub const TOOL_PREFIX: &str = "tools/";

/// A turn to generate.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// The conversation.
    pub messages: Vec<Message>,
    /// The tools on offer.
    pub tools: Vec<Tool>,
    /// What a final answer has to fit; none: free text.
    pub output_schema: Option<Schema>,
}

/// A tool as a model is told of it.
#[derive(Clone, Debug)]
pub struct Tool {
    /// `tools/{upstream}.{tool}`.
    pub name: String,
    /// The name that providers see.
    pub alias: String,
    /// What it does.
    pub description: String,
    /// What its arguments have to fit.
    pub input_schema: Schema,
    /// `sha256:<hex>` of the definition.
    pub definition_hash: String,
}

/// A JSON Schema with the text that it came as.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The text.
    pub text: String,
    /// The same as a value.
    pub value: Value,
}

impl Prompt {
    /// What the input has besides text, each once.
    pub fn modalities(&self) -> Vec<String> {
        let media = self.messages.iter().flat_map(|message| &message.parts).filter_map(|part| match &part.content {
            Some(part::Content::Media(media)) => Some(modality(&media.media_type)),
            _ => None,
        });
        let found: BTreeSet<_> = media.collect();
        found.into_iter().map(str::to_owned).collect()
    }

    /// The tool that a call in the conversation names, by resource name or alias.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        let named = |tool: &&Tool| bare(&tool.name) == bare(name);
        let found = self.tools.iter().find(named);
        found.or_else(|| self.tools.iter().find(|tool| tool.alias == name))
    }

    /// The tool that the model knows by this alias.
    pub fn tool_by_alias(&self, alias: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.alias == alias)
    }

    /// The alias for a tool that a call in the conversation names. A tool that is no longer on offer gets a name of the
    /// same shape, so that providers accept the conversation.
    pub fn alias_of(&self, name: &str) -> String {
        match self.tool(name) {
            Some(tool) => tool.alias.clone(),
            None => {
                let plain = bare(name).chars().map(|char| {
                    let fits = char.is_ascii_alphanumeric() || matches!(char, '_' | '-');
                    if fits { char } else { '_' }
                });
                let alias: String = plain.take(64).collect();
                if alias.is_empty() { "unknown".to_owned() } else { alias }
            }
        }
    }
}

/// A tool's name without the prefix of resource names.
pub fn bare(name: &str) -> &str {
    name.strip_prefix(TOOL_PREFIX).unwrap_or(name)
}

/// The modality of a media type.
fn modality(media_type: &str) -> &'static str {
    match media_type.split('/').next() {
        Some("image") => "image",
        Some("audio") => "audio",
        Some("video") => "video",
        _ => "document",
    }
}
