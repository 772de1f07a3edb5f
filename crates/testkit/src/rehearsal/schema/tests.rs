use serde_json::json;

use super::*;

fn found() -> Hints {
    let passage = |id: &str| Passage { id: id.into(), title: "Guide".into(), text: "Cats purr.".into() };
    Hints {
        wish: None,
        answer: "Cats purr.".into(),
        query: "do cats purr?".into(),
        passages: vec![passage("a.md#1"), passage("b.md#2")],
    }
}

fn fits(schema: &Value, hints: &Hints) -> Value {
    let made = instance(schema, hints);
    let validator = jsonschema::validator_for(schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&made).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{schema}\n{made}\n{errors:?}");
    made
}

#[test]
fn every_supported_keyword_gives_a_valid_instance() {
    let schemas = [
        json!({}),
        json!(true),
        json!({"type": "string", "minLength": 7, "maxLength": 9}),
        json!({"type": "string", "pattern": "^[A-Z]{3}-\\d{2,4}(x|y)?$"}),
        json!({"type": "string", "format": "date-time"}),
        json!({"type": "integer", "minimum": 3.2, "maximum": 9}),
        json!({"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5}),
        json!({"type": "integer", "maximum": -4}),
        json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.1}),
        json!({"type": "number", "minimum": -3, "exclusiveMaximum": 0}),
        json!({"type": ["null", "boolean"]}),
        json!({"enum": [3, "b"]}),
        json!({"const": {"a": [1]}}),
        json!({"type": "array", "minItems": 3, "items": {"type": "string"}, "uniqueItems": true}),
        json!({"type": "array", "minItems": 3, "items": {"enum": ["a", "b", "c"]}, "uniqueItems": true}),
        json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 4, "items": {"type": "null"}}),
        json!({"type": "object", "required": ["a", "z"], "properties": {"a": {"type": "boolean"}, "b": {"type": "string"}}}),
        json!({"type": "object", "minProperties": 4, "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}}),
        json!({"allOf": [{"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}},
                         {"required": ["b"], "properties": {"b": {"type": "integer", "minimum": 2}, "a": {"minLength": 3}}}]}),
        json!({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}]}),
        json!({"$defs": {"n": {"type": "object", "required": ["v"], "properties": {"v": {"$ref": "#/$defs/s"}, "next": {"$ref": "#/$defs/n"}}},
                         "s": {"type": "string", "minLength": 1}}, "$ref": "#/$defs/n"}),
    ];
    for schema in schemas {
        fits(&schema, &Hints::default());
        fits(&schema, &found());
    }
}

#[test]
fn hints_fill_answers_and_citations() {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["answer", "citations"], "properties": {
        "answer": {"type": "string", "maxLength": 8}, "citations": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
        "confidence": {"type": "number"}}});
    assert_eq!(fits(&schema, &found()), json!({"answer": "Cats pur", "citations": ["a.md#1"]}));
    let schema = json!({"type": "object", "required": ["answer"], "properties": {"answer": {"type": "string"},
        "sources": {"type": "array", "items": {"type": "object", "required": ["id", "quote"],
            "properties": {"id": {"type": "string"}, "quote": {"type": "string"}}}}}});
    let made = fits(&schema, &found());
    assert_eq!(made["sources"][1], json!({"id": "b.md#2", "quote": "Cats purr."}));
}

#[test]
fn a_wish_takes_the_proper_branch() {
    let branch = |name: &str, rest: Value| {
        let properties = json!({"tool": {"const": name}, "arguments": rest});
        json!({"type": "object", "required": ["tool", "arguments"], "additionalProperties": false, "properties": properties})
    };
    let query = json!({"type": "object", "required": ["query"], "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}});
    let answer = json!({"type": "object", "required": ["text", "citations"], "properties": {
        "text": {"type": "string"}, "citations": {"type": "array", "items": {"type": "string"}}}});
    let branches =
        json!([branch("list", json!({"type": "object"})), branch("docs.search", query), branch("answer", answer)]);
    for schema in [
        json!({"oneOf": branches}),
        json!({"type": "object", "required": ["next"], "properties": {"next": {"anyOf": branches}}}),
    ] {
        assert_eq!(choice(&schema), Choice::Of { search: true });
        let search = fits(&schema, &Hints { wish: Some(Wish::Search), ..found() });
        let search = search.get("next").unwrap_or(&search);
        assert_eq!(*search, json!({"tool": "docs.search", "arguments": {"query": "do cats purr?"}}));
        let answer = fits(&schema, &Hints { wish: Some(Wish::Answer), ..found() });
        let answer = answer.get("next").unwrap_or(&answer);
        assert_eq!(answer["arguments"]["citations"], json!(["a.md#1", "b.md#2"]));
    }
    let flat =
        json!({"type": "object", "required": ["action"], "properties": {"action": {"enum": ["search", "answer"]}}});
    assert_eq!(fits(&flat, &Hints { wish: Some(Wish::Answer), ..found() })["action"], "answer");
}

#[test]
fn an_ordinary_schema_is_no_choice() {
    assert_eq!(choice(&json!({"type": "object", "properties": {"answer": {"type": "string"}}})), Choice::None);
    assert_eq!(choice(&json!({"enum": ["red", "green"]})), Choice::None);
}

#[test]
fn absurd_schemas_end() {
    let schemas = [
        json!({"$ref": "#"}),
        json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}),
        json!({"type": "array", "minItems": u64::MAX, "items": false}),
        json!({"type": "array", "minItems": 900, "items": {"$ref": "#"}}),
        json!({"type": "object", "minProperties": u64::MAX}),
        json!({"type": "string", "minLength": u64::MAX}),
        json!({"type": "string", "pattern": "("}),
        json!({"type": "string", "pattern": "((a{900}){900}){900}"}),
        json!({"oneOf": []}),
        json!({"$ref": "#/missing"}),
        json!(false),
        json!(3),
    ];
    for schema in schemas {
        assert!(instance(&schema, &Hints::default()).to_string().len() < 4 << 20, "{schema}");
    }
}
