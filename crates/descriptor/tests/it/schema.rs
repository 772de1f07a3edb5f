//! The published JSON Schema agrees with the types.

use mar_descriptor::Descriptor;
use serde_json::{Value, json};

use crate::{
    samples::{full, minimal, unicode},
    vectors,
};

fn schema() -> (Value, jsonschema::Validator) {
    let schema: Value = serde_json::from_str(&vectors::read("descriptor.schema.json")).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    (schema, validator)
}

#[test]
fn accepts_what_the_types_write() {
    let (_, validator) = schema();
    for descriptor in [minimal(), full(), unicode()] {
        let document = serde_json::to_value(descriptor).unwrap();
        let errors: Vec<_> = validator.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn is_closed_and_complete_at_every_level() {
    let (schema, _) = schema();
    let mut objects = vec![&schema];
    objects.extend(schema["$defs"].as_object().unwrap().values().filter(|def| def.get("properties").is_some()));
    assert_eq!(objects.len(), 18);
    for object in objects {
        assert_eq!(object["additionalProperties"], false, "{}", object["description"]);
        let mut properties: Vec<_> = object["properties"].as_object().unwrap().keys().collect();
        properties.sort_unstable();
        let mut required: Vec<_> =
            object["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        required.sort_unstable();
        assert_eq!(properties, required, "{}", object["description"]);
    }
}

/// Removes, adds and breaks each field in turn: the schema and the types refuse the same documents.
#[test]
fn refuses_what_the_types_refuse() {
    let (_, validator) = schema();
    let original = serde_json::to_value(full()).unwrap();
    let mut objects = Vec::new();
    collect(&original, "", &mut objects);
    for path in objects {
        for key in original.pointer(&path).unwrap().as_object().unwrap().keys() {
            let mut without = original.clone();
            without.pointer_mut(&path).unwrap().as_object_mut().unwrap().remove(key);
            let mut wrong = original.clone();
            wrong.pointer_mut(&path).unwrap()[key] = json!([[]]);
            for document in [without, wrong] {
                let free = path.ends_with("/roles") || path.ends_with("/labels");
                let removed = document.pointer(&path).unwrap().get(key).is_none();
                let expected = free && removed;
                assert_eq!(validator.is_valid(&document), expected, "{path} {key}");
                assert_eq!(accepted(&document), expected, "{path} {key}");
            }
        }
    }
}

fn accepted(document: &Value) -> bool {
    let bytes = mar_descriptor::canonical::to_canonical(document).unwrap();
    Descriptor::parse(&bytes).is_ok_and(|descriptor| descriptor.validate().is_ok())
}

fn collect(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(path.to_owned());
            fields.iter().for_each(|(key, item)| collect(item, &format!("{path}/{key}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| collect(item, &format!("{path}/{index}"), found))
        }
        _ => {}
    }
}
