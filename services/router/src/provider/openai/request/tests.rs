use std::sync::Arc;

use mar_descriptor::Sampling;
use mar_proto::types::{Media, Message, Part, Role, ToolCall, ToolResult, media, part};
use serde_json::{Value, json};

use super::*;
use crate::catalogue::Catalogue;
use crate::prompt::{Schema, Tool};
use crate::provider::Delivery;
use crate::samples;

fn schema(value: Value) -> Schema {
    Schema { text: value.to_string(), value }
}

fn said(role: Role, contents: Vec<part::Content>) -> Message {
    let parts = contents.into_iter().map(|content| Part { content: Some(content), ..Part::default() });
    Message { role: role.into(), parts: parts.collect() }
}

fn text(words: &str) -> part::Content {
    part::Content::Text(words.into())
}

fn called(id: &str, provider_id: &str, tool: &str, arguments: &str) -> part::Content {
    part::Content::ToolCall(ToolCall {
        call_id: id.into(),
        provider_call_id: provider_id.into(),
        tool: tool.into(),
        arguments_json: arguments.into(),
    })
}

fn result(id: &str, words: &str, is_error: bool) -> part::Content {
    part::Content::ToolResult(ToolResult {
        call_id: id.into(),
        tool: "tools/docs.search".into(),
        is_error,
        content: vec![Part { content: Some(text(words)), ..Part::default() }],
        ..ToolResult::default()
    })
}

fn conversation() -> Prompt {
    let image = Media {
        media_type: "image/png".into(),
        source: Some(media::Source::Inline(vec![1, 2, 3].into())),
        size_bytes: 0,
    };
    Prompt {
        messages: vec![
            said(Role::System, vec![text("Be brief.")]),
            said(Role::User, vec![text("What is this?"), part::Content::Media(image)]),
            said(
                Role::Assistant,
                vec![
                    part::Content::Reasoning(Default::default()),
                    text("Let me see."),
                    called("r/1/0", "p0", "tools/docs.search", r#"{"query":"a"}"#),
                    called("r/1/1", "", "tools/docs.search", r#"{"query":"b"}"#),
                    called("r/1/2", "p2", "tools/old.tool", ""),
                ],
            ),
            // Results come in any order and stand beside their calls all the same.
            said(Role::Tool, vec![result("r/1/1", "no such index", true), result("r/1/0", "a map", false)]),
            said(Role::User, vec![text("And?")]),
        ],
        tools: vec![Tool {
            name: "tools/docs.search".into(),
            alias: "search".into(),
            description: "Finds passages.".into(),
            input_schema: schema(json!({
                "type": "object",
                "properties": {"a_limit": {"type": "integer"}, "query": {"type": "string", "description": "words"}},
                "required": ["query"],
            })),
            definition_hash: String::new(),
        }],
        output_schema: Some(schema(json!({"type": "object", "properties": {"answer": {"type": "string"}}}))),
    }
}

fn translated(change: impl FnOnce(&mut Model), prompt: Prompt, dialect: Dialect) -> (String, Vec<String>) {
    let catalogue = Catalogue::parse(&samples::entry("plain", "p")).unwrap();
    let mut model = catalogue.models()[0].as_ref().clone();
    change(&mut model);
    let call = Call {
        model: Arc::new(model),
        prompt: Arc::new(prompt),
        sampling: Sampling {
            temperature: Some("0.2".into()),
            top_p: Some("0.9".into()),
            seed: Some(7),
            max_output_tokens: 0,
        },
        max_output_tokens: 300,
        delivery: Delivery::Streamed,
    };
    let translated = translate(&call, &dialect, true).unwrap();
    (String::from_utf8(translated.body).unwrap(), translated.warnings)
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    value(&std::fs::read_to_string(path).unwrap())
}

#[test]
fn a_native_request_is_as_the_golden_file_says() {
    let (body, warnings) = translated(|_| (), conversation(), Dialect { stream_usage: true, ..Dialect::default() });
    assert_eq!(value(&body), golden("native_request"), "{body}");
    assert_eq!(
        warnings,
        ["reasoning of earlier turns was left out", "a tool call without a result was given one that says so"]
    );
}

#[test]
fn a_constrained_request_is_as_the_golden_file_says() {
    let constrained = |model: &mut Model| model.tool_calling = ToolCalling::Constrained;
    let (body, warnings) = translated(constrained, conversation(), Dialect::default());
    assert_eq!(value(&body), golden("constrained_request"), "{body}");
    assert!(warnings.contains(&"text beside tool calls was left out".to_owned()));
    // The order of keys is what makes the model pick before it fills in, the required ones first.
    let place = |text: &str| body.find(text).unwrap();
    assert!(place(r#""properties":{"action":{"const":"search"},"query""#) < place(r#""a_limit":{"type":"integer"}}"#));
}

#[test]
fn dialects_and_models_differ_in_a_few_fields() {
    let dialect = Dialect {
        max_tokens: MaxTokensField::MaxCompletionTokens,
        system_role: SystemRole::Developer,
        stream_usage: false,
    };
    let (body, warnings) = translated(|model| model.fixed_sampling = true, conversation(), dialect);
    let body = value(&body);
    assert_eq!((&body["max_completion_tokens"], &body["messages"][0]["role"]), (&json!(300), &json!("developer")));
    for absent in ["max_tokens", "temperature", "top_p", "stream_options"] {
        assert!(body.get(absent).is_none(), "{absent}");
    }
    assert!(warnings.iter().any(|warning| warning.contains("temperature")));
}

#[test]
fn what_is_told_is_what_is_counted() {
    let catalogue = Catalogue::parse(&samples::entry("plain", "p")).unwrap();
    let mut model = catalogue.models()[0].as_ref().clone();
    assert_eq!(told(&model, &conversation()).len(), 2);
    model.tool_calling = ToolCalling::Constrained;
    assert!(told(&model, &conversation())[0].contains("Finds passages. query: words"));
    assert_eq!(told(&model, &Prompt::default()), [""]);
}
