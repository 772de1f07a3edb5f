//! Entries as the file has them, and everything that can be wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use mar_descriptor::{Hash, TrustTier};
use mar_runtime::config::{from_toml, toml_fault};
use mar_runtime::violations::Violations;
use serde::Deserialize;
use time::macros::format_description;
use toml::{Table, Value};

use super::{LatencyClass, Model, PREFIX, TEXT, ToolCalling};
use crate::price::{Price, parse_usd};
use crate::tokens;

const LIST: &str = "model";
/// What models may read and write.
pub(crate) const MODALITIES: [&str; 5] = ["text", "image", "document", "audio", "video"];
const MAX_TOKENS: i64 = 100_000_000;
const MAX_MODELS: usize = 10_000;

/// Every key of an entry. Required ones are told apart by the reader, so that all that miss are named.
const KEYS: [&str; 23] = [
    "name",
    "provider",
    "provider_model",
    "display_name",
    "context_tokens",
    "max_output_tokens",
    "input_modalities",
    "output_modalities",
    "streaming",
    "tool_calling",
    "structured_output",
    "price",
    "latency_class",
    "trust_tier",
    "residency",
    "retention_days",
    "tokenizer",
    "tokenizer_exact",
    "fixed_sampling",
    "rehearsal",
    "quality",
    "source",
    "as_of",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrice {
    input: String,
    cached_input: Option<String>,
    output: String,
}

/// Reads all entries.
pub(super) fn read(text: &str) -> Result<Vec<Model>, Violations> {
    let mut found = Violations::new();
    let file: Table = match text.parse() {
        Ok(file) => file,
        Err(error) => {
            let error: toml::de::Error = error;
            found.field("", format!("is not TOML: {}", toml_fault(text, &error)));
            return Err(found);
        }
    };
    for key in file.keys().filter(|key| *key != LIST) {
        found.field(key, "is not a known key; the catalogue is a list of [[model]]");
    }
    let entries = match file.get(LIST) {
        None => &[],
        Some(Value::Array(entries)) => entries.as_slice(),
        Some(_) => {
            found.field(LIST, "must be a list of tables, as in [[model]]");
            &[]
        }
    };
    found.require(entries.len() <= MAX_MODELS, LIST, "must be at most 10000 entries");
    let mut names = BTreeSet::new();
    let mut models = Vec::new();
    for (at, entry) in entries.iter().take(MAX_MODELS).enumerate() {
        found.item(LIST, at, |found| {
            let Some(entry) = entry.as_table() else {
                found.field("", "must be a table");
                return;
            };
            let reader = Entry { entry, found };
            if let Some(model) = reader.read() {
                let new = names.insert(model.name.clone());
                found.require(new, "name", "is used by another entry");
                models.push(model);
            }
        });
    }
    found.into_result(models)
}

struct Entry<'a> {
    entry: &'a Table,
    found: &'a mut Violations,
}

impl Entry<'_> {
    /// The model; what is wrong goes into the list and reads as a stand-in value that nobody sees.
    fn read(mut self) -> Option<Model> {
        for key in self.entry.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.found.field(key, "is not a known key");
        }
        let name = self.name();
        let context_tokens = self.number("context_tokens", 1, MAX_TOKENS);
        let max_output_tokens = self.number("max_output_tokens", 1, MAX_TOKENS);
        let fits = max_output_tokens <= context_tokens;
        self.found.require(fits, "max_output_tokens", "must be at most context_tokens");
        let tool_calling = self.tool_calling();
        let structured_output = self.boolean("structured_output", None);
        let constrained = tool_calling == ToolCalling::Constrained && !structured_output;
        self.found.require(!constrained, "tool_calling", "CONSTRAINED needs structured_output = true");
        let tokenizer = tokens::Table::parse(self.text("tokenizer"));
        let known = "must be one of o200k_base, cl100k_base, bytes";
        self.found.require(tokenizer.is_some(), "tokenizer", known);
        let mut model = Model {
            provider: self.identifier("provider"),
            provider_model: self.filled("provider_model"),
            display_name: self.filled("display_name"),
            context_tokens,
            max_output_tokens,
            input_modalities: self.modalities("input_modalities"),
            output_modalities: self.modalities("output_modalities"),
            streaming: self.boolean("streaming", None),
            tool_calling,
            structured_output,
            price: self.price(),
            latency_class: self.latency_class(),
            trust_tier: self.trust_tier(),
            residency: self.residency(),
            retention_days: self.number("retention_days", 0, 36_500),
            tokenizer: tokenizer.unwrap_or(tokens::Table::Bytes),
            tokenizer_exact: self.boolean("tokenizer_exact", Some(false)),
            fixed_sampling: self.boolean("fixed_sampling", Some(false)),
            rehearsal: self.boolean("rehearsal", Some(false)),
            quality: self.quality(),
            source: self.filled("source"),
            as_of: self.as_of(),
            name: format!("{PREFIX}{}", name.as_deref().unwrap_or_default()),
            spec_hash: Hash::ZERO,
        };
        let hash = model.spec_hash_of();
        model.spec_hash = self.found.take("", hash)?;
        name.map(|_| model)
    }

    fn name(&mut self) -> Option<String> {
        let name = self.text("name").to_owned();
        let fits = (1..=64).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte));
        let text = "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit";
        self.found.require(fits, "name", text);
        fits.then_some(name)
    }

    /// A string; a wrong type is recorded, an absent key is the empty string.
    fn text(&mut self, key: &str) -> &str {
        match self.entry.get(key) {
            None => "",
            Some(Value::String(text)) => text,
            Some(_) => {
                self.found.field(key, "must be a string");
                ""
            }
        }
    }

    fn filled(&mut self, key: &str) -> String {
        let text = self.text(key).trim().to_owned();
        let fits = (1..=512).contains(&text.len());
        self.found.require(fits, key, "must be given, at most 512 bytes");
        text
    }

    fn identifier(&mut self, key: &str) -> String {
        let text = self.text(key).to_owned();
        let fits = is_provider_name(&text);
        self.found.require(fits, key, "must be 1 to 64 of a-z, 0-9, '_' and '-'");
        text
    }

    fn number(&mut self, key: &str, least: i64, most: i64) -> i64 {
        let number = self.entry.get(key).and_then(Value::as_integer);
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => number,
            None => {
                self.found.field(key, format!("must be a whole number from {least} to {most}"));
                least
            }
        }
    }

    fn boolean(&mut self, key: &str, default: Option<bool>) -> bool {
        match (self.entry.get(key), default) {
            (Some(Value::Boolean(value)), _) => *value,
            (None, Some(default)) => default,
            _ => {
                self.found.field(key, "must be true or false");
                false
            }
        }
    }

    fn words(&mut self, key: &str) -> Vec<String> {
        let list = self.entry.get(key).and_then(Value::as_array);
        let words: Option<Vec<_>> = list.and_then(|list| {
            let words = list.iter().map(|word| word.as_str().map(str::to_owned));
            words.collect()
        });
        let mut words = words.unwrap_or_default();
        words.sort();
        words.dedup();
        self.found.require(!words.is_empty(), key, "must be a list of at least one string");
        words
    }

    fn modalities(&mut self, key: &str) -> Vec<String> {
        let words = self.words(key);
        if !words.is_empty() {
            let known = words.iter().all(|word| MODALITIES.contains(&word.as_str()));
            self.found.require(known, key, format!("must be of {}", MODALITIES.join(", ")));
            self.found.require(words.iter().any(|word| word == TEXT), key, "must have text");
        }
        words
    }

    fn residency(&mut self) -> Vec<String> {
        let words = self.words("residency");
        let fits = words.iter().all(|word| is_provider_name(word));
        self.found.require(fits, "residency", "must be of a-z, 0-9, '_' and '-', such as eu, us, local");
        words
    }

    fn price(&mut self) -> Option<Price> {
        let raw = self.entry.get("price")?;
        let raw: RawPrice = match from_toml(raw) {
            Ok(raw) => raw,
            Err(misfits) => {
                self.found.within("price", |found| found.extend(misfits));
                return None;
            }
        };
        self.found.within("price", |found| {
            let mut usd = |key: &str, text: &str| found.take(key, parse_usd(text)).unwrap_or(0);
            let input = usd("input", &raw.input);
            Some(Price {
                input,
                cached_input: raw.cached_input.map_or(input, |text| usd("cached_input", &text)),
                output: usd("output", &raw.output),
            })
        })
    }

    fn tool_calling(&mut self) -> ToolCalling {
        match self.text("tool_calling") {
            "NATIVE" => ToolCalling::Native,
            "CONSTRAINED" => ToolCalling::Constrained,
            "NONE" => ToolCalling::None,
            _ => {
                self.found.field("tool_calling", "must be one of NATIVE, CONSTRAINED, NONE");
                ToolCalling::None
            }
        }
    }

    fn latency_class(&mut self) -> LatencyClass {
        match self.text("latency_class") {
            "" | "UNKNOWN" => LatencyClass::Unknown,
            "FAST" => LatencyClass::Fast,
            "MEDIUM" => LatencyClass::Medium,
            "SLOW" => LatencyClass::Slow,
            _ => {
                self.found.field("latency_class", "must be one of FAST, MEDIUM, SLOW, UNKNOWN");
                LatencyClass::Unknown
            }
        }
    }

    fn trust_tier(&mut self) -> TrustTier {
        let tier = self.text("trust_tier").parse();
        self.found.take("trust_tier", tier).unwrap_or(TrustTier::Unverified)
    }

    fn quality(&mut self) -> BTreeMap<String, i64> {
        let Some(quality) = self.entry.get("quality") else {
            return BTreeMap::new();
        };
        let Some(quality) = quality.as_table() else {
            self.found.field("quality", "must be a table of task types");
            return BTreeMap::new();
        };
        self.found.within("quality", |found| {
            let read = quality.iter().map(|(task, value)| {
                let value = value.as_integer().filter(|value| (0..=1_000).contains(value));
                found.require(value.is_some(), task, "must be 0 to 1000");
                (task.clone(), value.unwrap_or(0))
            });
            read.collect()
        })
    }

    fn as_of(&mut self) -> String {
        let text = self.text("as_of").to_owned();
        let date = time::Date::parse(&text, format_description!("[year]-[month]-[day]"));
        self.found.require(date.is_ok(), "as_of", "must be a date, YYYY-MM-DD, as a string");
        text
    }
}

/// Whether a text may name a provider, or a region.
pub(crate) fn is_provider_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}
