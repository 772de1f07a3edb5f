//! A tool's definition: what a model is told of it, its pin, and the check of its arguments.

use jsonschema::Validator;
use mar_descriptor::canonical::MAX_DEPTH;
use mar_descriptor::{Hash, canonical};
use mar_proto::types::{Doubt, Executor, ToolDefinition};
use serde_json::{Map, Value};

/// The longest description, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 8 * 1024;
/// The largest JSON Schema, in bytes of its canonical text.
pub const MAX_SCHEMA_BYTES: usize = 256 * 1024;
/// The longest name of a tool without its upstream's.
const MAX_NAME: usize = 128;
/// Violations of one call that are told.
const MAX_VIOLATIONS: usize = 50;

/// A tool as its upstream describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Its name at the upstream.
    pub tool: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: Map<String, Value>,
    /// JSON Schema of the result.
    pub output_schema: Option<Map<String, Value>>,
}

/// A definition that passed every check.
#[derive(Debug)]
pub struct Definition {
    /// `upstream.tool`.
    pub name: String,
    /// The name at the upstream.
    pub tool: String,
    /// The pin.
    pub hash: Hash,
    /// The operator's declaration.
    pub idempotent: bool,
    /// The operator's declaration.
    pub read_only: bool,
    /// The operator's declaration.
    pub doubt: Option<Doubt>,
    description: String,
    input_schema: String,
    output_schema: Option<String>,
    validator: Validator,
}

/// What the operator declares about a tool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// Repeating a call with its key has the effect of one call.
    pub idempotent: bool,
    /// A call changes nothing.
    pub read_only: bool,
    /// How a call is resolved whose outcome nobody knows.
    pub doubt: Option<Doubt>,
}

/// Why a tool is left out of the catalogue.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name does not fit.
    #[error("its name is not 1 to {MAX_NAME} of A-Z a-z 0-9 _ . / -")]
    Name,
    /// The description is too long.
    #[error("its description of {0} bytes is longer than {MAX_DESCRIPTION_BYTES}")]
    Description(usize),
    /// A schema is too large.
    #[error("its {0} schema is larger than {MAX_SCHEMA_BYTES} bytes")]
    SchemaSize(&'static str),
    /// A schema is nested too deep.
    #[error("its {0} schema is nested deeper than {MAX_DEPTH} levels")]
    SchemaDepth(&'static str),
    /// The input schema does not compile; references to other documents never do.
    #[error("its input schema does not compile: {0}")]
    Schema(String),
}

impl Definition {
    /// Checks a description, hashes it and compiles the schema of its arguments.
    ///
    /// # Errors
    /// Why the tool cannot be offered.
    pub fn try_new(upstream: &str, described: Described, declared: Declared) -> Result<Self, Refusal> {
        let Described { tool, description, input_schema, output_schema } = described;
        if !is_tool_name(&tool) {
            return Err(Refusal::Name);
        }
        if description.len() > MAX_DESCRIPTION_BYTES {
            return Err(Refusal::Description(description.len()));
        }
        let name = format!("{upstream}.{tool}");
        let input = Value::Object(input_schema);
        let output = output_schema.map(Value::Object);
        let input_schema = schema_text(&input, "input")?;
        let output_schema = output.as_ref().map(|schema| schema_text(schema, "output")).transpose()?;
        let validator =
            jsonschema::options().offline().build(&input).map_err(|error| Refusal::Schema(cut(&error.to_string())))?;
        let hash = Hash::of_tool_definition(&name, &description, &input, output.as_ref())
            .map_err(|_| Refusal::SchemaSize("input"))?;
        let Declared { idempotent, read_only, doubt } = declared;
        Ok(Self { name, tool, hash, idempotent, read_only, doubt, description, input_schema, output_schema, validator })
    }

    /// The definition in the API's form.
    pub fn to_proto(&self) -> ToolDefinition {
        ToolDefinition {
            name: format!("tools/{}", self.name),
            alias: String::new(),
            description: self.description.clone(),
            input_schema_json: self.input_schema.clone(),
            output_schema_json: self.output_schema.clone().unwrap_or_default(),
            definition_hash: self.hash.to_string(),
            idempotent: self.idempotent,
            read_only: self.read_only,
            executor: Executor::Unspecified.into(),
            doubt: self.doubt.clone(),
        }
    }

    /// Checks arguments against the schema.
    ///
    /// # Errors
    /// Every violation with its place, and without the values themselves.
    pub fn check(&self, arguments: &Value) -> Result<(), Vec<String>> {
        let mut errors = self.validator.iter_errors(arguments);
        let mut found: Vec<String> = errors
            .by_ref()
            .take(MAX_VIOLATIONS)
            .map(|error| format!("{}: {}", place(error.instance_path().as_str()), cut(&error.masked().to_string())))
            .collect();
        if errors.next().is_some() {
            found.push("and more".to_owned());
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}

fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "arguments" } else { pointer }
}

fn schema_text(schema: &Value, which: &'static str) -> Result<String, Refusal> {
    let text = canonical::foreign(schema).map_err(|error| match error {
        canonical::Error::Depth { .. } => Refusal::SchemaDepth(which),
        _ => Refusal::SchemaSize(which),
    })?;
    if text.len() > MAX_SCHEMA_BYTES { Err(Refusal::SchemaSize(which)) } else { Ok(text) }
}

fn is_tool_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-'))
}

fn cut(text: &str) -> String {
    const MAX: usize = 300;
    if text.len() <= MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn described(schema: Value) -> Described {
        let Value::Object(input_schema) = schema else { panic!("not an object") };
        Described { tool: "read".into(), description: "Reads.".into(), input_schema, output_schema: None }
    }

    fn define(schema: Value) -> Result<Definition, Refusal> {
        Definition::try_new("files", described(schema), Declared::default())
    }

    #[test]
    fn the_hash_pins_what_a_model_is_told() {
        let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}});
        let hash = define(schema.clone()).unwrap().hash;
        assert_eq!(define(schema.clone()).unwrap().hash, hash);
        let other = Described { description: "Reads!".into(), ..described(schema.clone()) };
        assert_ne!(Definition::try_new("files", other, Declared::default()).unwrap().hash, hash);
        assert_ne!(Definition::try_new("other", described(schema.clone()), Declared::default()).unwrap().hash, hash);
        let declared = Declared { idempotent: true, read_only: true, doubt: None };
        assert_eq!(Definition::try_new("files", described(schema), declared).unwrap().hash, hash);
    }

    #[test]
    fn all_violations_are_told_without_values() {
        let definition = define(json!({
            "type": "object",
            "properties": {"path": {"type": "string", "maxLength": 3}, "depth": {"type": "integer"}},
            "required": ["path", "depth"],
            "additionalProperties": false,
        }))
        .unwrap();
        assert!(definition.check(&json!({"path": "a", "depth": 1})).is_ok());
        let found = definition.check(&json!({"path": "hunter2", "password": 1})).unwrap_err().join("\n");
        assert!(found.contains("/path") && found.contains("depth"), "{found}");
        assert!(!found.contains("hunter2"), "{found}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let remote = json!({"type": "object", "properties": {"x": {"$ref": "https://example.com/x.json"}}});
        assert!(matches!(define(remote).unwrap_err(), Refusal::Schema(_)));
        assert!(matches!(define(json!({"type": "obj"})).unwrap_err(), Refusal::Schema(_)));
        let long = Described { description: "x".repeat(9_000), ..described(json!({})) };
        assert_eq!(Definition::try_new("f", long, Declared::default()).unwrap_err(), Refusal::Description(9_000));
        for name in ["", "a b", "ä", &"x".repeat(129)] {
            let odd = Described { tool: name.into(), ..described(json!({})) };
            assert_eq!(Definition::try_new("f", odd, Declared::default()).unwrap_err(), Refusal::Name);
        }
        let large = json!({"enum": ["x".repeat(300_000)]});
        assert_eq!(define(large).unwrap_err(), Refusal::SchemaSize("input"));
        let deep = (0..MAX_DEPTH).fold(json!({}), |inner, _| json!({ "not": inner }));
        let refusal = define(deep.clone()).unwrap_err();
        assert_eq!(refusal.to_string(), "its input schema is nested deeper than 64 levels");
        let Value::Object(deep) = deep else { panic!("not an object") };
        let output = Described { output_schema: Some(deep), ..described(json!({})) };
        let refusal = Definition::try_new("f", output, Declared::default()).unwrap_err();
        assert_eq!(refusal, Refusal::SchemaDepth("output"));
    }
}
