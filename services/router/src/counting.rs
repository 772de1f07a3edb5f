//! How many tokens a model will read for a prompt.

use mar_proto::types::{Part, part};

use crate::catalogue::Model;
use crate::price::Tokens;
use crate::prompt::Prompt;
use crate::provider::pool::Pool;
use crate::tokens::{Table, TokenCounter};

/// What a message costs beyond its text, and what every conversation does.
const PER_MESSAGE: i64 = 4;
const PER_CALL: i64 = 8;
const PER_CONVERSATION: i64 = 8;
/// An image of any size, generously.
const PER_IMAGE: i64 = 1_600;

/// A count of input tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// How many; an upper bound unless exact.
    pub tokens: i64,
    /// The model's own table counted.
    pub exact: bool,
}

/// Counts prompts and answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Counting {
    counter: TokenCounter,
    pool: Pool,
}

impl Counting {
    /// Counts with these tables what these providers tell their models.
    pub fn new(counter: TokenCounter, pool: Pool) -> Self {
        Self { counter, pool }
    }

    /// The input tokens of a prompt.
    pub async fn input(&self, tenant: &str, model: &Model, prompt: &Prompt) -> Counted {
        let told = match self.pool.get(&model.provider) {
            Some(provider) => provider.told(model, prompt),
            None => Vec::new(),
        };
        let mut texts: Vec<&str> = told.iter().map(String::as_str).collect();
        let mut overhead = PER_CONVERSATION + PER_CALL * count(told.len());
        for message in &prompt.messages {
            overhead += PER_MESSAGE;
            for part in &message.parts {
                overhead = overhead.saturating_add(texts_of(part, &mut texts));
            }
        }
        let counted = self.counter.count(tenant, model.tokenizer, &texts).await;
        let bytes = texts.iter().map(|text| count(text.len())).fold(0, i64::saturating_add);
        Counted { tokens: bound(model, counted, bytes).saturating_add(overhead), exact: model.tokenizer_exact }
    }

    /// The tokens of an answer whose provider did not say.
    pub async fn output(&self, tenant: &str, model: &Model, parts: &[Part]) -> Tokens {
        let mut texts = Vec::new();
        let mut reasoning = Vec::new();
        for part in parts {
            match &part.content {
                Some(part::Content::Reasoning(thought)) => reasoning.push(thought.text.as_str()),
                _ => {
                    texts_of(part, &mut texts);
                }
            }
        }
        Tokens {
            output: self.counter.count(tenant, model.tokenizer, &texts).await,
            reasoning: self.counter.count(tenant, model.tokenizer, &reasoning).await,
            ..Tokens::default()
        }
    }
}

/// A foreign table may count fewer than the model's own: a quarter is added, up to the bound of one token a byte.
fn bound(model: &Model, counted: i64, bytes: i64) -> i64 {
    if model.tokenizer_exact || model.tokenizer == Table::Bytes {
        counted
    } else {
        counted.saturating_add(counted / 4).min(bytes)
    }
}

/// Collects what is counted of a part and returns what it costs beyond.
fn texts_of<'a>(part: &'a Part, texts: &mut Vec<&'a str>) -> i64 {
    match &part.content {
        Some(part::Content::Text(text) | part::Content::Refusal(text)) => texts.push(text),
        Some(part::Content::ToolCall(call)) => {
            texts.extend([call.tool.as_str(), call.arguments_json.as_str()]);
            return PER_CALL;
        }
        Some(part::Content::ToolResult(result)) => {
            texts.push(&result.tool);
            let inner = result.content.iter().map(|part| texts_of(part, texts));
            return inner.fold(PER_CALL, i64::saturating_add);
        }
        Some(part::Content::Media(media)) if media.media_type.starts_with("image/") => return PER_IMAGE,
        Some(part::Content::Media(media)) => {
            return match &media.source {
                Some(mar_proto::types::media::Source::Inline(bytes)) => count(bytes.len()),
                _ => 0,
            };
        }
        Some(part::Content::Reasoning(_) | part::Content::Citation(_) | part::Content::ProviderOpaque(_)) | None => {}
    }
    0
}

fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
