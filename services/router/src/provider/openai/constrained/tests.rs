use serde_json::json;

use super::*;
use crate::prompt::Schema;

fn tool(alias: &str, schema: Value) -> Tool {
    Tool {
        name: format!("tools/x.{alias}"),
        alias: alias.into(),
        description: format!("Does {alias}."),
        input_schema: Schema { text: schema.to_string(), value: schema },
        definition_hash: String::new(),
    }
}

fn prompt() -> Prompt {
    let properties = |names: &[&str]| {
        let fields: Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": fields, "required": names})
    };
    Prompt {
        tools: vec![
            tool("search", properties(&["query"])),
            tool("act", properties(&["action", "why"])),
            tool("any", json!({"type": "object", "additionalProperties": true})),
            tool("none", json!({"type": "object"})),
            tool("answer", json!({"type": "object"})),
        ],
        ..Prompt::default()
    }
}

fn call(alias: &str, arguments: Value) -> Option<Choice> {
    Some(Choice::Call { alias: alias.into(), arguments: arguments.to_string() })
}

#[test]
fn choices_are_read_back() {
    let space = ActionSpace::new(&prompt());
    // A tool is named `answer`, so the answer is not.
    assert_eq!(space.answer(), "final_answer");
    for (text, expected) in [
        (r#"{"action":"search","query":"x"}"#, call("search", json!({"query": "x"}))),
        (r#"{"action":"act","arguments":{"action":"a","why":"b"}}"#, call("act", json!({"action": "a", "why": "b"}))),
        (r#"{"action":"any","arguments":{"z":1}}"#, call("any", json!({"z": 1}))),
        (r#"{"action":"none"}"#, call("none", json!({}))),
        (r#"{"action":"answer"}"#, call("answer", json!({}))),
        (r#"{"action":"unheard","a":1}"#, call("unheard", json!({"a": 1}))),
        (r#"{"action":"final_answer","final_answer":"yes"}"#, Some(Choice::Answer("yes".into()))),
        (r#"{"action":"final_answer"}"#, None),
        (r#"{"action":7}"#, None),
        (r#"{"action":"act","why":"b"}"#, None),
        (r#"{"action":"sea"#, None),
        ("[]", None),
    ] {
        assert_eq!(space.decode(text), expected, "{text}");
    }
}

#[test]
fn a_structured_answer_is_json_text() {
    let schema = Schema { text: "{}".into(), value: json!({}) };
    let space = ActionSpace::new(&Prompt { output_schema: Some(schema), ..Prompt::default() });
    for (text, expected) in
        [(r#"{"action":"answer","answer":{"a":1}}"#, r#"{"a":1}"#), (r#"{"action":"answer","answer":"x"}"#, r#""x""#)]
    {
        assert_eq!(space.decode(text), Some(Choice::Answer(expected.into())));
    }
}

#[test]
fn branches_begin_with_the_action_and_are_closed() {
    let prompt = prompt();
    let space = ActionSpace::new(&prompt);
    let schema = serde_json::to_string(&space.schema(&prompt, None, &mut Vec::new())).unwrap();
    assert!(schema.starts_with(
        r#"{"oneOf":[{"type":"object","properties":{"action":{"const":"search"},"query":{"type":"string"}},"required":["action","query"],"additionalProperties":false},"#
    ));
    assert!(schema.contains(r#"{"action":{"const":"act"},"arguments":{"#));
    assert!(schema.ends_with(
        r#"{"action":{"const":"final_answer"},"final_answer":{"type":"string"}},"required":["action","final_answer"],"additionalProperties":false}]}"#
    ));
}
