//! Reads a task. What breaks a rule is recorded and left out, so that everything else is looked at too.

use std::collections::BTreeSet;
use std::sync::Arc;

use mar_alignment::{Layer, Policy, PolicyText};
use mar_descriptor::{HaltingSection, TrustTier};
use mar_proto::session::{ModelConstraints, Task};
use mar_proto::types::{self, Origin, Part, media::Source, part::Content};
use mar_runtime::violations::Violations;

use crate::media;
use crate::order::{Brief, ModelWish, Order, is_task_type};
use crate::recipe::{is_name, is_temperature};
use crate::schema::OutputSchema;
use crate::selector::Selector;

const DEFAULT_TYPE: &str = "answer";
const MAX_PARTS: usize = 100;
const MAX_INPUT_BYTES: usize = 4 << 20;
const MAX_INLINE_BYTES: usize = 64 << 10;
const MAX_SELECTORS: usize = 64;
const MAX_PARAMETERS: usize = 64;
const MAX_PARAMETER_BYTES: usize = 16 << 10;
const MAX_LABELS: usize = 64;
const MAX_LABEL_CHARS: usize = 256;
const MAX_NAMES: usize = 64;
const MAX_NAME_BYTES: usize = 200;

pub(super) fn order(task: Task, purpose: String, limits: HaltingSection, found: &mut Violations) -> Order {
    Order {
        brief: brief(&task, purpose, found),
        selectors: selectors(&task, found),
        model: found.within("model", |found| model(task.model.clone().unwrap_or_default(), found)),
        limits,
        policy: policy(task.alignment_policy, found),
        labels: {
            found.require(task.labels.len() <= MAX_LABELS, "labels", format!("must be at most {MAX_LABELS}"));
            for (key, value) in &task.labels {
                found.within(&format!("labels[{key:?}]"), |found| label(key, value, found));
            }
            task.labels
        },
    }
}

pub(super) fn brief(task: &Task, purpose: String, found: &mut Violations) -> Brief {
    let task_type = if task.r#type.is_empty() { DEFAULT_TYPE } else { &task.r#type };
    found.require(is_task_type(task_type), "type", "must match [a-z][a-z0-9_-]{0,63}");
    let recipe = Some(task.recipe.as_str()).filter(|recipe| !recipe.is_empty());
    let recipe_name = recipe.and_then(|recipe| recipe.strip_prefix("recipes/")).filter(|name| is_name(name));
    found.require(recipe.is_none() || recipe_name.is_some(), "recipe", "must be `recipes/{recipe}`");
    parameters(task, found);
    Brief {
        task_type: task_type.to_owned(),
        input: input(&task.input, found),
        output_schema: output_schema(&task.output_schema_json, found),
        recipe: recipe_name.map(str::to_owned),
        parameters: task.parameters.clone(),
        purpose,
    }
}

fn input(parts: &[Part], found: &mut Violations) -> Vec<Part> {
    found.require((1..=MAX_PARTS).contains(&parts.len()), "input", format!("must have 1 to {MAX_PARTS} parts"));
    let bytes: usize = parts.iter().map(media::part_bytes).sum();
    found.require(bytes <= MAX_INPUT_BYTES, "input", format!("must be at most {MAX_INPUT_BYTES} bytes together"));
    let mut read = Vec::with_capacity(parts.len().min(MAX_PARTS));
    for (index, part) in parts.iter().take(MAX_PARTS).enumerate() {
        found.item("input", index, |found| match &part.content {
            Some(Content::Text(text)) => {
                found.require(!text.is_empty(), "text", "must not be empty");
            }
            Some(Content::Media(media)) => found.within("media", |found| check_media(media, found)),
            _ => {
                found.field("", "must be text or media");
            }
        });
        // Who made it is not for a request to say.
        read.push(Part { content: part.content.clone(), origin: Origin::Caller.into(), tainted: false });
    }
    read
}

fn check_media(media: &types::Media, found: &mut Violations) {
    found.require(is_media_type(&media.media_type), "media_type", "must be a media type such as `image/png`");
    match &media.source {
        Some(Source::Inline(bytes)) => {
            let fits = (1..=MAX_INLINE_BYTES).contains(&bytes.len());
            found.require(fits, "inline", format!("must have 1 to {MAX_INLINE_BYTES} bytes"));
        }
        Some(Source::Blob(name)) => {
            found.require(is_blob(name), "blob", "must be `sessions/{session}/blobs/{sha256}`");
        }
        None => {
            found.field("", "must have inline bytes or a blob");
        }
    }
}

fn is_media_type(text: &str) -> bool {
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    text.len() <= 127 && text.split_once('/').is_some_and(|(top, sub)| token(top) && token(sub))
}

fn is_blob(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    matches!(parts.as_slice(), ["sessions", session, "blobs", digest] if !session.is_empty() && hex(digest))
}

fn output_schema(text: &str, found: &mut Violations) -> Option<Arc<OutputSchema>> {
    if text.is_empty() {
        return None;
    }
    found.take("output_schema_json", OutputSchema::parse(text)).map(Arc::new)
}

fn parameters(task: &Task, found: &mut Violations) {
    found.require(task.parameters.len() <= MAX_PARAMETERS, "parameters", format!("must be at most {MAX_PARAMETERS}"));
    for (name, value) in &task.parameters {
        found.within(&format!("parameters[{name:?}]"), |found| {
            found.require(!name.is_empty() && name.len() <= MAX_NAME_BYTES, "", "must have a name");
            let fits = value.len() <= MAX_PARAMETER_BYTES;
            found.require(fits, "", format!("must be at most {MAX_PARAMETER_BYTES} bytes"));
        });
    }
}

fn selectors(task: &Task, found: &mut Violations) -> Vec<Selector> {
    found.require(task.tools.len() <= MAX_SELECTORS, "tools", format!("must be at most {MAX_SELECTORS}"));
    let mut read = BTreeSet::new();
    for (index, selector) in task.tools.iter().enumerate() {
        found.item("tools", index, |found| read.extend(found.take("pattern", selector.pattern.parse::<Selector>())));
    }
    read.into_iter().collect()
}

fn model(wish: ModelConstraints, found: &mut Violations) -> ModelWish {
    let prefixed = |text: &str, prefix: &str| text.strip_prefix(prefix).is_some_and(is_word);
    let policy = &wish.routing_policy;
    found.require(
        policy.is_empty() || prefixed(policy, "routingPolicies/"),
        "routing_policy",
        "must be `routingPolicies/{policy}`",
    );
    let min_trust_tier = match types::TrustTier::try_from(wish.min_trust_tier) {
        Ok(types::TrustTier::Unspecified | types::TrustTier::Unverified) => TrustTier::Unverified,
        Ok(types::TrustTier::Experimental) => TrustTier::Experimental,
        Ok(types::TrustTier::Aligned) => TrustTier::Aligned,
        Ok(types::TrustTier::Production) => TrustTier::Production,
        Err(_) => {
            found.field("min_trust_tier", "must be a trust tier");
            TrustTier::Unverified
        }
    };
    let temperature = Some(wish.temperature).filter(|text| !text.is_empty());
    let decimal = temperature.as_deref().is_none_or(is_temperature);
    found.require(decimal, "temperature", "must be a decimal from `0` to `2` without superfluous zeros, such as `0.7`");
    let tokens = Some(wish.max_output_tokens).filter(|tokens| *tokens != 0);
    let fits = tokens.is_none_or(|tokens| (16..=1_000_000).contains(&tokens));
    found.require(fits, "max_output_tokens", "must be 0, or 16 to 1000000");
    ModelWish {
        routing_policy: wish.routing_policy,
        models: names(wish.models, "models", |name| prefixed(name, "models/"), found),
        providers: names(wish.providers, "providers", is_word, found),
        min_trust_tier,
        residency: names(wish.residency, "residency", is_word, found),
        temperature,
        max_output_tokens: tokens,
    }
}

/// A sorted set.
fn names(list: Vec<String>, field: &str, fits: impl Fn(&str) -> bool, found: &mut Violations) -> Vec<String> {
    found.require(list.len() <= MAX_NAMES, field, format!("must be at most {MAX_NAMES}"));
    for (index, name) in list.iter().enumerate().take(MAX_NAMES) {
        found.item(field, index, |found| found.require(fits(name), "", "is not a name of this kind").is_empty());
    }
    list.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn is_word(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn policy(text: String, found: &mut Violations) -> Option<Arc<Policy>> {
    if text.is_empty() {
        return None;
    }
    match Policy::parse(PolicyText { layer: Layer::Task, name: "task".to_owned(), version: 1, text }) {
        Ok(policy) => Some(Arc::new(policy)),
        Err(broken) => {
            for one in broken {
                found.field("alignment_policy", format!("{}:{}: {}", one.line, one.column, one.message));
            }
            None
        }
    }
}

fn label(key: &str, value: &str, found: &mut Violations) {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
    let is_key = (1..=63).contains(&key.len()) && key.as_bytes()[0].is_ascii_lowercase() && key.bytes().all(fits);
    found.require(is_key, "", "key must match [a-z][a-z0-9_.-]{0,62}");
    let fits = value.chars().count() <= MAX_LABEL_CHARS;
    found.require(fits, "", format!("must be at most {MAX_LABEL_CHARS} characters"));
}
