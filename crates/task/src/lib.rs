//! What a task may be: shape and bounds, as `session.v1` documents them.
//!
//! Session refuses a task before it is admitted, and the agent generator one that it is asked about directly, by the same
//! rules. Every violation is found at once; nothing is fetched and nobody is called.

use std::collections::BTreeMap;

use mar_alignment::{Layer, Policy, PolicyText};
use mar_descriptor::decimal;
use mar_proto::session::{ModelConstraints, Task};
use mar_proto::types::{self, Part, media::Source, part::Content};
use mar_runtime::violations::Violations;

use schema::OutputSchema;
use selector::Selector;

pub mod caller_tool;
pub mod delegation;
pub mod media;
pub mod schema;
pub mod selector;

/// The type of a task that states none.
pub const DEFAULT_TYPE: &str = "answer";

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

/// Writes defaults out: the type.
pub fn complete(task: &mut Task) {
    if task.r#type.is_empty() {
        DEFAULT_TYPE.clone_into(&mut task.r#type);
    }
}

/// The task's type, or the default.
#[must_use]
pub fn task_type(task: &Task) -> &str {
    if task.r#type.is_empty() { DEFAULT_TYPE } else { &task.r#type }
}

/// Records everything that is wrong with a task, its halting policy aside.
pub fn check(task: &Task, found: &mut Violations) {
    check_prompt(task, found);
    found.require(task.tools.len() <= MAX_SELECTORS, "tools", format!("must be at most {MAX_SELECTORS}"));
    for (index, selector) in task.tools.iter().enumerate() {
        found.item("tools", index, |found| found.take("pattern", selector.pattern.parse::<Selector>()).is_some());
    }
    caller_tool::check(task, found);
    if let Some(model) = &task.model {
        found.within("model", |found| check_model(model, found));
    }
    if let Err(lines) = policy(&task.alignment_policy) {
        for line in lines {
            found.field("alignment_policy", line);
        }
    }
    check_labels(&task.labels, found);
}

/// What a prompt is made of: type, recipe, input, schema and parameters.
fn check_prompt(task: &Task, found: &mut Violations) {
    found.require(task.r#type.is_empty() || is_type(&task.r#type), "type", "must match [a-z][a-z0-9_-]{0,63}");
    found.require(
        task.recipe.is_empty() || recipe_name(&task.recipe).is_some(),
        "recipe",
        "must be `recipes/{recipe}`",
    );
    check_input(&task.input, found);
    if !task.output_schema_json.is_empty() {
        found.take("output_schema_json", OutputSchema::parse(&task.output_schema_json));
    }
    found.require(task.parameters.len() <= MAX_PARAMETERS, "parameters", format!("must be at most {MAX_PARAMETERS}"));
    for (name, value) in &task.parameters {
        found.within(&format!("parameters[{name:?}]"), |found| {
            found.require(!name.is_empty() && name.len() <= MAX_NAME_BYTES, "", "must have a name");
            let fits = value.len() <= MAX_PARAMETER_BYTES;
            found.require(fits, "", format!("must be at most {MAX_PARAMETER_BYTES} bytes"));
        });
    }
}

/// Records what is wrong with labels, under `labels`.
pub fn check_labels(labels: &BTreeMap<String, String>, found: &mut Violations) {
    found.require(labels.len() <= MAX_LABELS, "labels", format!("must be at most {MAX_LABELS}"));
    for (key, value) in labels {
        found.within(&format!("labels[{key:?}]"), |found| {
            found.require(is_label(key), "", "key must match [a-z][a-z0-9_.-]{0,62}");
            let fits = value.chars().count() <= MAX_LABEL_CHARS;
            found.require(fits, "", format!("must be at most {MAX_LABEL_CHARS} characters"));
        });
    }
}

/// The task's own policy layer; `None` for a task without one.
///
/// # Errors
/// Each mistake in the text, with its line and column.
pub fn policy(text: &str) -> Result<Option<Policy>, Vec<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let text = PolicyText { layer: Layer::Task, name: "task".to_owned(), version: 1, text: text.to_owned() };
    let lines = |broken: Vec<mar_alignment::Violation>| {
        broken.iter().map(|one| format!("{}:{}: {}", one.line, one.column, one.message)).collect()
    };
    Policy::parse(text).map(Some).map_err(lines)
}

/// `[a-z][a-z0-9_-]{0,63}`: a kind of task.
#[must_use]
pub fn is_type(text: &str) -> bool {
    starts_low(text, 64, |b| b == b'_' || b == b'-')
}

/// The name of a recipe; `None` unless the text is `recipes/{recipe}` with `[a-z][a-z0-9-]{0,62}`.
#[must_use]
pub fn recipe_name(text: &str) -> Option<&str> {
    text.strip_prefix("recipes/").filter(|name| starts_low(name, 63, |b| b == b'-'))
}

/// Whether the text is a temperature: a decimal from `0` to `2` in its one spelling.
#[must_use]
pub fn is_temperature(text: &str) -> bool {
    decimal::to_f64(text).is_some_and(|value| (0.0..=2.0).contains(&value)) && !text.starts_with('-')
}

fn is_label(text: &str) -> bool {
    starts_low(text, 63, |b| b"_.-".contains(&b))
}

/// A lower-case letter, then letters, digits and what `also` allows.
fn starts_low(text: &str, most: usize, also: impl Fn(u8) -> bool) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || also(b);
    text.len() <= most && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase()) && text.bytes().all(fits)
}

fn check_input(parts: &[Part], found: &mut Violations) {
    found.require((1..=MAX_PARTS).contains(&parts.len()), "input", format!("must have 1 to {MAX_PARTS} parts"));
    let bytes: usize = parts.iter().map(media::part_bytes).sum();
    found.require(bytes <= MAX_INPUT_BYTES, "input", format!("must be at most {MAX_INPUT_BYTES} bytes together"));
    for (index, part) in parts.iter().take(MAX_PARTS).enumerate() {
        found.item("input", index, |found| check_part(part, found));
    }
}

/// Records what is wrong with a part of text or media.
pub fn check_part(part: &Part, found: &mut Violations) {
    match &part.content {
        Some(Content::Text(text)) => {
            found.require(!text.trim().is_empty(), "text", "must not be empty");
        }
        Some(Content::Media(media)) => found.within("media", |found| check_media(media, found)),
        _ => {
            found.field("", "must be text or media");
        }
    }
}

fn check_media(media: &types::Media, found: &mut Violations) {
    found.require(
        self::media::is_media_type(&media.media_type),
        "media_type",
        "must be a media type such as `image/png`",
    );
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

fn is_blob(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    matches!(parts.as_slice(), ["sessions", session, "blobs", digest] if !session.is_empty() && hex(digest))
}

fn check_model(wish: &ModelConstraints, found: &mut Violations) {
    let prefixed = |text: &str, prefix: &str| text.strip_prefix(prefix).is_some_and(is_word);
    let policy = &wish.routing_policy;
    let fits = policy.is_empty() || prefixed(policy, "routingPolicies/");
    found.require(fits, "routing_policy", "must be `routingPolicies/{policy}`");
    found.require(types::TrustTier::try_from(wish.min_trust_tier).is_ok(), "min_trust_tier", "must be a trust tier");
    let decimal = wish.temperature.is_empty() || is_temperature(&wish.temperature);
    found.require(decimal, "temperature", "must be a decimal from `0` to `2` without superfluous zeros, such as `0.7`");
    let fits = wish.max_output_tokens == 0 || (16..=1_000_000).contains(&wish.max_output_tokens);
    found.require(fits, "max_output_tokens", "must be 0, or 16 to 1000000");
    check_names(&wish.models, "models", |name| prefixed(name, "models/"), found);
    check_names(&wish.providers, "providers", is_word, found);
    check_names(&wish.residency, "residency", is_word, found);
}

fn check_names(list: &[String], field: &str, fits: impl Fn(&str) -> bool, found: &mut Violations) {
    found.require(list.len() <= MAX_NAMES, field, format!("must be at most {MAX_NAMES}"));
    for (index, name) in list.iter().enumerate().take(MAX_NAMES) {
        found.item(field, index, |found| found.require(fits(name), "", "is not a name of this kind").is_empty());
    }
}

fn is_word(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use mar_proto::session::ToolSelector;

    use super::*;

    fn text(text: &str) -> Part {
        Part { content: Some(Content::Text(text.to_owned())), ..Part::default() }
    }

    fn fields(task: &Task) -> Vec<String> {
        let mut found = Violations::new();
        check(task, &mut found);
        found.iter().map(|violation| violation.field.clone()).collect()
    }

    #[test]
    fn a_plain_question_is_a_task() {
        assert!(fields(&Task { input: vec![text("why?")], ..Task::default() }).is_empty());
    }

    #[test]
    fn everything_is_found_at_once() {
        let task = Task {
            r#type: "Answer".into(),
            input: vec![text(" "), Part::default()],
            output_schema_json: r#"{"type":"strnig"}"#.into(),
            tools: vec![ToolSelector { pattern: "no dot".into() }],
            model: Some(ModelConstraints {
                temperature: "3".into(),
                max_output_tokens: -1,
                models: vec!["gpt".into()],
                ..ModelConstraints::default()
            }),
            recipe: "answer".into(),
            alignment_policy: "permit (".into(),
            labels: BTreeMap::from([("Bad".to_owned(), String::new())]),
            ..Task::default()
        };
        let expected = [
            "type",
            "recipe",
            "input[0].text",
            "input[1]",
            "output_schema_json",
            "tools[0].pattern",
            "model.temperature",
            "model.max_output_tokens",
            "model.models[0]",
            "alignment_policy",
            "labels[\"Bad\"]",
        ];
        assert_eq!(fields(&task), expected);
    }

    #[test]
    fn an_input_has_bounds() {
        assert_eq!(fields(&Task::default()), ["input"]);
        let large = Task { input: vec![text(&"x".repeat(MAX_INPUT_BYTES + 1))], ..Task::default() };
        assert_eq!(fields(&large), ["input"]);
        let many = Task { input: vec![text("x"); MAX_PARTS + 1], ..Task::default() };
        assert_eq!(fields(&many), ["input"]);
    }
}
