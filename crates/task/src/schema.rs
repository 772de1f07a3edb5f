//! The JSON Schema that an answer has to fit.

use std::fmt;

use mar_descriptor::canonical;
use serde_json::Value;

mod keys;

/// The longest schema of a task, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// Refuses a JSON document in which an object has a key twice: of its readers some take the one and some the other, and only
/// one of them was looked at.
///
/// # Errors
/// A sentence that says where, without the document's text.
pub fn keys_are_distinct(text: &str) -> Result<(), String> {
    match serde_json::from_str::<keys::Distinct>(text) {
        Ok(keys::Distinct) => Ok(()),
        Err(error) => Err(format!("has a key twice (line {}, column {})", error.line(), error.column())),
    }
}

/// A schema that compiles. References to other documents are refused: nothing is ever fetched.
pub struct OutputSchema {
    value: Value,
    text: String,
    validator: jsonschema::Validator,
}

impl OutputSchema {
    /// Reads a schema (2020-12 unless it names another draft) from JSON text.
    ///
    /// # Errors
    /// A sentence on what is wrong, without the schema's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("must be at most {MAX_BYTES} bytes"));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| match canonical::is_too_deep(&error) {
            true => too_deep(),
            false => format!("is not JSON (line {}, column {})", error.line(), error.column()),
        })?;
        keys_are_distinct(text)?;
        Self::try_new(value)
    }

    /// Compiles a schema.
    ///
    /// # Errors
    /// Like [`OutputSchema::parse`].
    pub fn try_new(value: Value) -> Result<Self, String> {
        // No provider takes the schemas `true` and `false`.
        if !value.is_object() {
            return Err("must be a JSON Schema: a JSON object".to_owned());
        }
        let text = canonical::foreign(&value).map_err(|error| match error {
            canonical::Error::Depth { .. } => too_deep(),
            other => other.to_string(),
        })?;
        let validator = jsonschema::options().offline().build(&value).map_err(|error| {
            let place = error.instance_path().to_string();
            let mut what = error.masked().to_string();
            if what.len() > 300 {
                what = "is not a valid JSON Schema".to_owned();
            }
            format!("does not compile at `{place}`: {what}")
        })?;
        Ok(Self { value, text, validator })
    }

    /// The schema.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The schema in its one spelling.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a document fits.
    #[must_use]
    pub fn accepts(&self, document: &Value) -> bool {
        self.validator.is_valid(document)
    }

    /// Whether answers of this schema carry citations: it is an object whose property `citations` is an array of
    /// objects with a string property `passage_id`. Only then are citations asked for and checked.
    #[must_use]
    pub fn carries_citations(&self) -> bool {
        let is = |schema: &Value, kind: &str| schema["type"] == kind;
        let citations = &self.value["properties"]["citations"];
        let item = &citations["items"];
        is(citations, "array") && is(item, "object") && is(&item["properties"]["passage_id"], "string")
    }
}

fn too_deep() -> String {
    format!("is nested deeper than {} levels", canonical::MAX_DEPTH)
}

impl fmt::Debug for OutputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OutputSchema").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_does_not_compile() {
        for text in [
            "",
            "{",
            "7",
            "[]",
            r#"{"type":"strnig"}"#,
            r#"{"type":"string","type":"object"}"#,
            r#"{"properties":{"a":{"enum":[{"x":1.5,"\u0078":2}]}}}"#,
            r#"{"type":"string","pattern":"("}"#,
            r##"{"$ref":"#/$defs/missing"}"##,
            r#"{"$ref":"https://example.com/schema.json"}"#,
            r#"{"$ref":"file:///etc/passwd"}"#,
            &format!("{}1{}", r#"{"not":"#.repeat(90), "}".repeat(90)),
            &format!(r#"{{"title":"{}"}}"#, "x".repeat(MAX_BYTES)),
        ] {
            let error = OutputSchema::parse(text).unwrap_err();
            assert!(!error.is_empty() && error.len() < 600, "{error}");
        }
    }

    #[test]
    fn depth_is_no_fault_of_the_syntax() {
        let of =
            |depth: usize| OutputSchema::parse(&format!("{}true{}", r#"{"not":"#.repeat(depth), "}".repeat(depth)));
        assert!(of(canonical::MAX_DEPTH).is_ok());
        for depth in [canonical::MAX_DEPTH + 1, 127, 128, 5_000] {
            assert_eq!(of(depth).unwrap_err(), "is nested deeper than 64 levels", "{depth}");
        }
        assert_eq!(OutputSchema::parse("{\n]").unwrap_err(), "is not JSON (line 2, column 1)");
    }

    #[test]
    fn only_an_object_is_a_schema() {
        for text in ["true", "false", "42", "[]", "null", "\"string\""] {
            assert_eq!(OutputSchema::parse(text).unwrap_err(), "must be a JSON Schema: a JSON object", "{text}");
        }
    }

    #[test]
    fn citations_have_a_shape() {
        let cites = |text: &str| OutputSchema::parse(text).unwrap().carries_citations();
        assert!(!cites(r#"{"properties":{"citations":{"type":"array"}}}"#));
        assert!(!cites(r#"{"properties":{"citations":{"type":"array","items":{"type":"string"}}}}"#));
    }

    #[test]
    fn one_spelling() {
        let spell = |text: &str| OutputSchema::parse(text).unwrap().text().to_owned();
        assert_eq!(
            spell(r#"{ "type": "number", "multipleOf": 0.10 }"#),
            spell(r#"{"multipleOf":0.1,"type":"number"}"#)
        );
    }
}
