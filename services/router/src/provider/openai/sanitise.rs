//! JSON Schemas as servers that turn them into grammars read them: what such a grammar cannot say is dropped and named.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// References that go deeper, recursive ones mostly, become any value.
const MAX_DEPTH: usize = 24;
/// Schemas in one that is written out: one that refers to itself several times would grow without end.
const MAX_SCHEMAS: usize = 4_000;
/// Longer bounds would blow a grammar up.
const MAX_LENGTH: u64 = 1_000;
const MAX_ITEMS: u64 = 200;

/// What a grammar can say.
const KEPT: [&str; 20] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "enum",
    "const",
    "oneOf",
    "anyOf",
    "allOf",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "format",
];
/// What says nothing about instances.
const SILENT: [&str; 13] = [
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "$anchor",
];
const FORMATS: [&str; 4] = ["date", "time", "date-time", "uuid"];

/// The schema with local references written out and without what a grammar cannot say. `what` names it in warnings.
pub fn schema(schema: &Value, what: &str, warnings: &mut Vec<String>) -> Value {
    let mut cleaner = Cleaner { root: schema, dropped: BTreeSet::new(), left: MAX_SCHEMAS };
    let clean = cleaner.clean(schema, 0);
    if !cleaner.dropped.is_empty() {
        let dropped: Vec<_> = cleaner.dropped.into_iter().collect();
        warnings
            .push(format!("keywords that cannot constrain output were dropped from {what}: {}", dropped.join(", ")));
    }
    clean
}

struct Cleaner<'a> {
    root: &'a Value,
    dropped: BTreeSet<String>,
    left: usize,
}

impl<'a> Cleaner<'a> {
    fn clean(&mut self, schema: &Value, depth: usize) -> Value {
        let Value::Object(fields) = schema else {
            // `true` and `false` are schemas, too; a grammar reads the empty one as any value.
            return json!({});
        };
        if depth > MAX_DEPTH || self.left == 0 {
            self.dropped.insert("nesting".to_owned());
            return json!({});
        }
        self.left -= 1;
        if let Some(reference) = fields.get("$ref") {
            return self.resolve(reference, depth);
        }
        let mut clean = Map::new();
        for (key, value) in fields {
            if let Some(value) = self.keyword(key, value, depth) {
                clean.insert(key.clone(), value);
            }
        }
        Value::Object(clean)
    }

    fn resolve(&mut self, reference: &Value, depth: usize) -> Value {
        let root: &'a Value = self.root;
        let target = reference.as_str().and_then(|reference| root.pointer(reference.strip_prefix('#')?));
        match target {
            Some(target) => self.clean(target, depth + 1),
            None => {
                self.dropped.insert("$ref".to_owned());
                json!({})
            }
        }
    }

    fn keyword(&mut self, key: &str, value: &Value, depth: usize) -> Option<Value> {
        if SILENT.contains(&key) {
            return None;
        }
        let kept = KEPT.contains(&key)
            && match key {
                "maxLength" => value.as_u64().is_some_and(|length| length <= MAX_LENGTH),
                "minLength" => value.as_u64().is_some_and(|length| length <= MAX_LENGTH),
                "maxItems" | "minItems" => value.as_u64().is_some_and(|items| items <= MAX_ITEMS),
                "format" => value.as_str().is_some_and(|format| FORMATS.contains(&format)),
                _ => true,
            };
        if !kept {
            self.dropped.insert(key.to_owned());
            return None;
        }
        Some(match (key, value) {
            ("properties", Value::Object(properties)) => {
                let clean = properties.iter().map(|(name, schema)| (name.clone(), self.clean(schema, depth + 1)));
                Value::Object(clean.collect())
            }
            ("oneOf" | "anyOf" | "allOf" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter().map(|schema| self.clean(schema, depth + 1)).collect()
            }
            ("items" | "additionalProperties", Value::Object(_)) => self.clean(value, depth + 1),
            _ => value.clone(),
        })
    }
}

/// Whether OpenAI would take the schema as `strict`: every object closed, every property required.
pub fn fits_strict(schema: &Value) -> bool {
    let Value::Object(fields) = schema else {
        return false;
    };
    fields.get("type").and_then(Value::as_str) == Some("object") && closed(schema, 0)
}

fn closed(schema: &Value, depth: usize) -> bool {
    let Value::Object(fields) = schema else {
        return false;
    };
    if depth > MAX_DEPTH {
        return false;
    }
    let foreign = ["oneOf", "allOf", "not", "if", "patternProperties", "dependentSchemas", "propertyNames"];
    if foreign.iter().any(|key| fields.contains_key(*key)) {
        return false;
    }
    let object = fields.contains_key("properties") || fields.get("type").is_some_and(|kind| kind == "object");
    if object && !all_required(fields) {
        return false;
    }
    let below = ["properties", "$defs"].iter().filter_map(|key| fields.get(*key)?.as_object());
    let items = fields.get("items").filter(|items| items.is_object());
    let any = fields.get("anyOf").and_then(Value::as_array);
    below.flat_map(Map::values).chain(items).chain(any.into_iter().flatten()).all(|schema| closed(schema, depth + 1))
}

fn all_required(fields: &Map<String, Value>) -> bool {
    let required: Vec<_> =
        fields.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = fields.get("properties").and_then(Value::as_object);
    fields.get("additionalProperties") == Some(&Value::Bool(false))
        && properties.is_none_or(|all| all.keys().all(|name| required.contains(&name.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_written_out_and_the_rest_is_named() {
        let mut warnings = Vec::new();
        let clean = schema(
            &json!({
                "$defs": {"q": {"type": "string", "pattern": "^a", "maxLength": 50, "description": "x"}},
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/q"}, "b": {"$ref": "https://example.com/x"}, "c": true},
                "not": {"required": ["z"]},
                "required": ["a"],
            }),
            "tool x",
            &mut warnings,
        );
        let expected = json!({
            "type": "object",
            "properties": {"a": {"type": "string", "maxLength": 50}, "b": {}, "c": {}},
            "required": ["a"],
        });
        assert_eq!(clean, expected);
        assert_eq!(warnings, ["keywords that cannot constrain output were dropped from tool x: $ref, not, pattern"]);
    }

    #[test]
    fn recursion_ends() {
        let mut warnings = Vec::new();
        let tree = json!({"type": "object", "properties": {"child": {"$ref": "#"}}});
        schema(&tree, "tree", &mut warnings);
        assert!(warnings[0].ends_with(": nesting"));
    }

    #[test]
    fn recursion_many_times_over_stays_small() {
        let mut warnings = Vec::new();
        let names: Vec<String> = (0..8).map(|at| format!("p{at}")).collect();
        let properties: Map<String, Value> = names.iter().map(|name| (name.clone(), json!({"$ref": "#"}))).collect();
        let tree = json!({"type": "object", "properties": properties});
        let clean = schema(&tree, "tree", &mut warnings);
        assert!(warnings[0].ends_with(": nesting"));
        assert!(clean.to_string().len() < 1 << 20);
    }

    #[test]
    fn strict_is_said_only_where_it_holds() {
        let open = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
        assert!(!fits_strict(&open));
        let mut shut = open.clone();
        shut["additionalProperties"] = json!(false);
        assert!(fits_strict(&shut));
        shut["properties"]["b"] = json!({"type": "string"});
        assert!(!fits_strict(&shut));
        assert!(!fits_strict(&json!({"type": "string"})));
        assert!(!fits_strict(&json!(true)));
    }
}
