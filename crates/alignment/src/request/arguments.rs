use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Distinct values of a call's arguments beyond which a policy that reads them denies.
pub const MAX_ARGUMENT_VALUES: usize = 4096;

/// Bytes of paths and values beyond which a policy that reads them denies.
pub const MAX_ARGUMENT_FACT_BYTES: usize = 4 << 20;

/// A tool call's arguments. Only digest and size are ever serialised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arguments {
    /// The digest under which the call's intent is recorded. Opaque here: whoever records it chooses hash and key.
    pub digest: String,
    /// The size of the arguments as sent, in bytes.
    pub bytes: u64,
    #[serde(skip)]
    value: Option<Arc<Value>>,
}

/// Which facts about arguments the policies at hand read; the others are not computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub names: bool,
    pub text: bool,
    pub values: bool,
}

/// What policies see of the arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ArgumentFacts {
    pub names: BTreeSet<String>,
    pub text: String,
    pub values: BTreeSet<(String, String)>,
}

impl Arguments {
    /// The arguments of one call, with the digest that its intent carries and their size in bytes as sent.
    pub fn new(value: impl Into<Arc<Value>>, digest: impl Into<String>, bytes: u64) -> Self {
        Self { digest: digest.into(), bytes, value: Some(value.into()) }
    }

    pub(crate) fn restore(&mut self, value: Value) {
        self.value = Some(Arc::new(value));
    }

    /// Errors are sentences for the decision record and hold no argument text.
    pub(crate) fn facts(&self, reads: Reads) -> Result<ArgumentFacts, String> {
        let value =
            self.value.as_deref().ok_or("the arguments are recorded by digest only: give them back to decide again")?;
        let mut walk = Walk { reads, facts: ArgumentFacts::default(), bytes: 0 };
        if reads != Reads::default() {
            walk.value(&mut String::new(), value)?;
        }
        if reads.text {
            walk.facts.text = walk.facts.text.to_lowercase();
        }
        Ok(walk.facts)
    }
}

impl Reads {
    pub(crate) fn union(self, other: Self) -> Self {
        Self { names: self.names || other.names, text: self.text || other.text, values: self.values || other.values }
    }
}

struct Walk {
    reads: Reads,
    facts: ArgumentFacts,
    bytes: usize,
}

impl Walk {
    fn value(&mut self, path: &mut String, value: &Value) -> Result<(), String> {
        let start = path.len();
        match value {
            Value::Object(fields) => {
                for (key, field) in fields {
                    push_key(path, key);
                    self.line(key);
                    self.name(path)?;
                    self.value(path, field)?;
                    path.truncate(start);
                }
                Ok(())
            }
            Value::Array(items) => {
                path.push_str("[]");
                for item in items {
                    self.value(path, item)?;
                }
                path.truncate(start);
                Ok(())
            }
            Value::Null => self.scalar(path, "null"),
            Value::Bool(true) => self.scalar(path, "true"),
            Value::Bool(false) => self.scalar(path, "false"),
            Value::Number(number) => self.scalar(path, &number.to_string()),
            Value::String(text) => self.scalar(path, text),
        }
    }

    fn line(&mut self, text: &str) {
        if self.reads.text {
            self.facts.text.push_str(text);
            self.facts.text.push('\n');
        }
    }

    fn name(&mut self, path: &str) -> Result<(), String> {
        if self.reads.names && !self.facts.names.contains(path) {
            self.charge(path.len())?;
            self.facts.names.insert(path.to_owned());
        }
        Ok(())
    }

    fn scalar(&mut self, path: &str, text: &str) -> Result<(), String> {
        self.line(text);
        if !self.reads.values {
            return Ok(());
        }
        self.charge(path.len() + text.len())?;
        self.facts.values.insert((path.to_owned(), text.to_owned()));
        if self.facts.values.len() > MAX_ARGUMENT_VALUES {
            return Err(format!(
                "the arguments hold more than {MAX_ARGUMENT_VALUES} distinct values, too many to decide on"
            ));
        }
        Ok(())
    }

    /// Paths repeat in every entry, so a long key over many fields would grow far beyond the arguments themselves.
    fn charge(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_ARGUMENT_FACT_BYTES {
            return Err(format!(
                "the arguments take more than {MAX_ARGUMENT_FACT_BYTES} bytes as facts, too many to decide on"
            ));
        }
        Ok(())
    }
}

/// Escapes what paths are written with, so that no key can look like a path through other keys.
fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    for character in key.chars() {
        if matches!(character, '.' | '[' | '\\') {
            path.push('\\');
        }
        path.push(character);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: Reads = Reads { names: true, text: true, values: true };

    fn facts(value: Value) -> ArgumentFacts {
        Arguments::new(value, "sha256:00", 1).facts(ALL).unwrap()
    }

    fn pair(path: &str, text: &str) -> (String, String) {
        (path.to_owned(), text.to_owned())
    }

    #[test]
    fn flattens_names_values_and_text() {
        let facts = facts(json!({"Query": "DROP Table", "items": [{"id": 7}, {"id": true}], "x": null}));
        let names = ["Query", "items", "items[].id", "x"].map(str::to_owned);
        assert_eq!(facts.names, BTreeSet::from(names));
        assert_eq!(
            facts.values,
            BTreeSet::from([
                pair("Query", "DROP Table"),
                pair("items[].id", "7"),
                pair("items[].id", "true"),
                pair("x", "null"),
            ])
        );
        assert_eq!(facts.text, "query\ndrop table\nitems\nid\n7\nid\ntrue\nx\nnull\n");
    }

    #[test]
    fn a_key_cannot_pose_as_a_path() {
        assert!(facts(json!({"a": {"b": 1}})).values.contains(&pair("a.b", "1")));
        assert!(facts(json!({"a.b": 1})).values.contains(&pair("a\\.b", "1")));
        assert!(facts(json!({"a[]": 1})).values.contains(&pair("a\\[]", "1")));
        assert!(facts(json!({"a": {"": 1}})).values.contains(&pair("a.", "1")));
    }

    #[test]
    fn too_many_values_or_bytes_are_refused() {
        let many: Vec<usize> = (0..=MAX_ARGUMENT_VALUES).collect();
        let error = Arguments::new(json!(many), "d", 1).facts(ALL).unwrap_err();
        assert!(error.contains("distinct values"), "{error}");
        let fields: serde_json::Map<String, Value> = (0..1000).map(|n| (n.to_string(), json!(1))).collect();
        let wide = json!({"k".repeat(10_000): fields});
        let error = Arguments::new(wide, "d", 1).facts(ALL).unwrap_err();
        assert!(error.contains("bytes as facts"), "{error}");
    }

    #[test]
    fn nothing_is_computed_that_nobody_reads() {
        let arguments = Arguments::new(json!({"a": 1}), "d", 1);
        assert_eq!(arguments.facts(Reads::default()).unwrap(), ArgumentFacts::default());
    }

    #[test]
    fn only_digest_and_size_are_serialised() {
        let arguments = Arguments::new(json!({"secret": "s3cr3t"}), "sha256:ab", 19);
        let written = serde_json::to_string(&arguments).unwrap();
        assert_eq!(written, r#"{"digest":"sha256:ab","bytes":19}"#);
        let read: Arguments = serde_json::from_str(&written).unwrap();
        assert!(read.facts(Reads::default()).is_err());
    }
}
