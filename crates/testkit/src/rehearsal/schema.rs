//! An instance of a JSON Schema, small and always the same: for constrained answers without a model.
//!
//! Knows type, const, enum, default-free properties and required, items and prefixItems, lengths, bounds, multipleOf,
//! pattern, format, oneOf, anyOf, allOf and local `$ref`. Not: `not`, `if`, `dependentSchemas`, `patternProperties`,
//! and lookaround in patterns. Fills what is required, and optional properties whose name a hint knows.

mod pattern;
mod scalar;
mod text;

use std::cell::Cell;

use serde_json::{Map, Value};

use super::passages::Passage;

/// Nesting beyond this, recursive schemas mostly, ends in `null`.
const DEPTH: usize = 32;
/// Schemas may ask for arrays of any length; this many items are made at most.
const ITEMS: u64 = 1_000;
/// Values in one instance; a schema that asks for more is left unfilled.
const VALUES: usize = 20_000;

/// What to fill in where the schema leaves it open.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Which branch of a tool choice to take.
    pub wish: Option<Wish>,
    /// For properties like `answer` and `text`.
    pub answer: String,
    /// For properties like `query`.
    pub query: String,
    /// For arrays like `citations`.
    pub passages: Vec<Passage>,
}

/// The branch wanted of a constrained tool choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The branch whose constant names a search.
    Search,
    /// The branch whose constant names a final answer.
    Answer,
}

impl Wish {
    fn names(self, text: &str) -> bool {
        let text = text.to_lowercase();
        let words: &[&str] = match self {
            Self::Search => &["search"],
            Self::Answer => &["answer", "final", "respond", "reply", "finish"],
        };
        words.iter().any(|word| text.contains(word))
    }
}

/// Whether a schema describes the choice between tools and an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// It does not.
    None,
    /// It does; `search` says whether a search is on offer.
    Of {
        /// A search is on offer.
        search: bool,
    },
}

/// Reads whether `schema` is a tool choice: constants that name an answer beside constants that do not.
pub(super) fn choice(schema: &Value) -> Choice {
    let hints = Hints::default();
    let generator = Generator::new(schema, &hints);
    let mut names = Vec::new();
    generator.constants(schema, &mut names, 0);
    let answer = names.iter().any(|name| Wish::Answer.names(name));
    if !answer || names.len() < 2 {
        return Choice::None;
    }
    Choice::Of { search: names.iter().any(|name| Wish::Search.names(name)) }
}

/// An instance of `schema`, as far as the supported keywords describe it.
#[must_use]
pub fn instance(schema: &Value, hints: &Hints) -> Value {
    Generator::new(schema, hints).value(schema, Place::default(), 0)
}

/// Where in the instance a value stands: its property's name, and the passage being cited around it.
#[derive(Debug, Clone, Copy, Default)]
struct Place<'a> {
    name: &'a str,
    cited: Option<&'a Passage>,
}

struct Generator<'a> {
    root: &'a Value,
    hints: &'a Hints,
    left: Cell<usize>,
}

impl<'a> Generator<'a> {
    fn new(root: &'a Value, hints: &'a Hints) -> Self {
        Self { root, hints, left: Cell::new(VALUES) }
    }

    fn value(&self, schema: &Value, place: Place<'_>, depth: usize) -> Value {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if depth > DEPTH || left == 0 || *schema == Value::Bool(false) {
            return Value::Null;
        }
        if let Some(fixed) = schema.get("const") {
            return fixed.clone();
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return self.pick_value(values);
        }
        if let Some(flat) = self.flatten(schema) {
            return self.value(&flat, place, depth + 1);
        }
        match kind(schema) {
            "object" => self.object(schema, place, depth),
            "array" => self.array(schema, place, depth),
            "boolean" => Value::Bool(place.name.contains("found") && !self.hints.passages.is_empty()),
            "integer" => scalar::number(schema, scalar::Number::Integer),
            "number" => scalar::number(schema, scalar::Number::Real),
            "null" => Value::Null,
            _ => Value::String(text::string(schema, place, self.hints)),
        }
    }

    fn pick_value(&self, values: &[Value]) -> Value {
        let wished = self
            .hints
            .wish
            .and_then(|wish| values.iter().find(|value| value.as_str().is_some_and(|name| wish.names(name))));
        wished.or(values.first()).cloned().unwrap_or(Value::Null)
    }

    /// One step towards a schema without references and combinations; none when it is one already.
    fn flatten(&self, schema: &Value) -> Option<Value> {
        let fields = schema.as_object()?;
        for (keyword, parts) in [("$ref", false), ("allOf", true), ("oneOf", false), ("anyOf", false)] {
            let Some(found) = fields.get(keyword) else {
                continue;
            };
            let mut base = fields.clone();
            base.remove(keyword);
            let chosen: Vec<&Value> = match keyword {
                "$ref" => vec![self.reference(found)?],
                _ if parts => found.as_array()?.iter().collect(),
                _ => vec![self.branch(found.as_array()?)?],
            };
            for part in chosen {
                merge(&mut base, part);
            }
            return Some(Value::Object(base));
        }
        None
    }

    fn reference(&self, reference: &Value) -> Option<&Value> {
        self.root.pointer(reference.as_str()?.strip_prefix('#')?)
    }

    fn branch<'s>(&self, branches: &'s [Value]) -> Option<&'s Value> {
        let wished = self.hints.wish.and_then(|wish| {
            branches.iter().find(|branch| {
                let mut names = Vec::new();
                self.constants(branch, &mut names, 0);
                names.iter().any(|name| wish.names(name))
            })
        });
        wished.or_else(|| branches.iter().find(|branch| branch["type"] != "null")).or(branches.first())
    }

    /// The strings that name a branch: const and enum values of it, of its properties and of its combinations.
    fn constants(&self, schema: &Value, names: &mut Vec<String>, depth: usize) {
        if depth > 4 {
            return;
        }
        if let Some(target) = schema.get("$ref").and_then(|reference| self.reference(reference)) {
            self.constants(target, names, depth + 1);
        }
        names.extend(schema["const"].as_str().map(str::to_owned));
        let values = schema["enum"].as_array().into_iter().flatten();
        names.extend(values.filter_map(Value::as_str).map(str::to_owned));
        for keyword in ["oneOf", "anyOf", "allOf"] {
            for part in schema[keyword].as_array().into_iter().flatten() {
                self.constants(part, names, depth + 1);
            }
        }
        for property in schema["properties"].as_object().into_iter().flat_map(Map::values) {
            self.constants(property, names, depth + 1);
        }
    }

    fn object(&self, schema: &Value, place: Place<'_>, depth: usize) -> Value {
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let wanted = |name: &str| required.contains(&name) || text::knows(name, place, self.hints);
        let mut made = Map::new();
        for (name, property) in properties.iter().filter(|(name, _)| wanted(name)) {
            let inner = Place { name, cited: place.cited };
            made.insert(name.clone(), self.value(property, inner, depth + 1));
        }
        let open = &schema["additionalProperties"];
        for name in required {
            if !made.contains_key(name) {
                made.insert(name.to_owned(), self.value(open, Place { name, cited: place.cited }, depth + 1));
            }
        }
        let fewest = usize::try_from(schema["minProperties"].as_u64().unwrap_or(0).min(ITEMS)).unwrap_or(0);
        for (name, property) in properties {
            if made.len() >= fewest {
                break;
            }
            let inner = Place { name, cited: place.cited };
            made.entry(name.clone()).or_insert_with(|| self.value(property, inner, depth + 1));
        }
        for number in 1.. {
            if made.len() >= fewest || self.left.get() == 0 {
                break;
            }
            made.insert(format!("key{number}"), self.value(open, Place::default(), depth + 1));
        }
        Value::Object(made)
    }

    fn array(&self, schema: &Value, place: Place<'_>, depth: usize) -> Value {
        let fewest = schema["minItems"].as_u64().unwrap_or(0).min(ITEMS);
        let most = schema["maxItems"].as_u64().unwrap_or(ITEMS);
        let mut made = Vec::new();
        for part in schema["prefixItems"].as_array().into_iter().flatten() {
            made.push(self.value(part, place, depth + 1));
        }
        if text::cites(place.name) {
            let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(made.len());
            for passage in self.hints.passages.iter().take(room) {
                let cited = Place { name: "id", cited: Some(passage) };
                made.push(self.value(&schema["items"], cited, depth + 1));
            }
        }
        while (made.len() as u64) < fewest && self.left.get() > 0 {
            let item = self.value(&schema["items"], Place { name: "", cited: None }, depth + 1);
            let unique = schema["uniqueItems"] == Value::Bool(true);
            let item = if unique { scalar::distinct(item, &made, &schema["items"]) } else { item };
            made.push(item);
        }
        Value::Array(made)
    }
}

fn kind(schema: &Value) -> &str {
    let named = match &schema["type"] {
        Value::String(name) => Some(name.as_str()),
        Value::Array(names) => {
            let mut names = names.iter().filter_map(Value::as_str);
            names.clone().find(|name| *name != "null").or_else(|| names.next())
        }
        _ => None,
    };
    named.unwrap_or_else(|| {
        let has = |keys: &[&str]| keys.iter().any(|key| schema.get(*key).is_some());
        match () {
            () if has(&["properties", "required", "minProperties"]) => "object",
            () if has(&["items", "prefixItems", "minItems"]) => "array",
            () if has(&["minimum", "maximum", "multipleOf", "exclusiveMinimum"]) => "number",
            () => "string",
        }
    })
}

/// Adds `part` to `base`: properties and required join, the tighter sibling keywords of the part win.
fn merge(base: &mut Map<String, Value>, part: &Value) {
    for (key, value) in part.as_object().into_iter().flatten() {
        match (base.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if key == "properties" => {
                for (name, property) in new {
                    match old.get_mut(name) {
                        Some(Value::Object(known)) => merge(known, property),
                        _ => drop(old.insert(name.clone(), property.clone())),
                    }
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) if key == "required" || key == "allOf" => {
                old.extend(new.iter().cloned());
            }
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests;
