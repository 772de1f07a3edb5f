use mar_proto::types::{Message, Role, ToolCall, ToolResult, part::Content};
use serde_json::{Value, json};

use crate::harness::{Ask, Harness, contents, part, text};

const CHOOSES: &str = r#"
[[rule]]
match = { has_schema = true, has_tools = false, last_role = "user", turn = 0 }
reply = { json = { action = "search", query = "logs" }, chunk_size = 5 }
[[rule]]
reply = { json = { action = "answer", answer = "12 days \"or so\"\n" }, chunk_size = 3 }
"#;

fn asked_and_answered(ask: &mut Ask, call: ToolCall, result: &str) {
    let call = ToolCall { call_id: "r/1/0".into(), ..call };
    let result = ToolResult {
        call_id: "r/1/0".into(),
        tool: call.tool.clone(),
        content: vec![text(result)],
        ..ToolResult::default()
    };
    ask.prompt.messages.extend([
        Message { role: Role::Assistant.into(), parts: vec![part(Content::ToolCall(call))] },
        Message { role: Role::Tool.into(), parts: vec![part(Content::ToolResult(result))] },
    ]);
}

#[tokio::test]
async fn a_choice_is_translated_back() {
    let harness = Harness::start(CHOOSES).await;
    let mut ask = Ask::new("How long?").with_tools();
    let streamed = harness.stream(&["con"], ask.clone()).await.unwrap();
    let turn = streamed.turn.unwrap();
    assert_eq!(turn.finish_reason, "TOOL_CALLS");
    let [Content::ToolCall(call)] = &contents(&turn)[..] else { panic!("{turn:?}") };
    assert_eq!((call.tool.as_str(), call.arguments_json.as_str()), ("tools/docs.search", r#"{"query":"logs"}"#));
    assert!(call.provider_call_id.is_empty() && streamed.deltas.is_empty());

    let sent = harness.first.requests().remove(0).body;
    assert!(sent.get("tools").is_none());
    let schema = &sent["response_format"]["json_schema"]["schema"];
    let actions: Vec<_> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|branch| branch["properties"]["action"]["const"].clone())
        .collect();
    assert_eq!(actions, ["search", "answer"]);
    let system = sent["messages"][0]["content"].as_str().unwrap();
    assert!(system.starts_with("Be brief.\n\n") && system.contains("Searches the documents."), "{system}");

    asked_and_answered(&mut ask, call.clone(), "logs: 12 days");
    let streamed = harness.stream(&["con"], ask).await.unwrap();
    assert_eq!(streamed.text(0), "12 days \"or so\"\n");
    let turn = streamed.turn.unwrap();
    assert_eq!(contents(&turn), [Content::Text("12 days \"or so\"\n".into())]);
    assert_eq!(turn.finish_reason, "STOP");
    let sent = &harness.first.requests()[1].body["messages"];
    let said: Value = serde_json::from_str(sent[2]["content"].as_str().unwrap()).unwrap();
    assert_eq!(said, json!({"action": "search", "query": "logs"}));
    assert!(sent[2]["content"].as_str().unwrap().starts_with(r#"{"action":"search""#));
    assert_eq!(sent[3], json!({"role": "user", "content": "Result of search:\nlogs: 12 days"}));
}

#[tokio::test]
async fn the_rehearsed_agent_works_through_a_constrained_model() {
    let harness = Harness::start("[[rule]]\nreply = { agent = true }").await;
    let schema = r#"{"type":"object","properties":{"answer":{"type":"string"}},"required":["answer"],"additionalProperties":false}"#;
    let mut ask = Ask::new("How long are logs kept?").with_tools().with_schema(schema);
    let turn = harness.generate(&["con"], ask.clone()).await.unwrap();
    let [Content::ToolCall(call)] = &contents(&turn)[..] else { panic!("{turn:?}") };
    assert_eq!(call.arguments_json, r#"{"query":"How long are logs kept?"}"#);
    asked_and_answered(&mut ask, call.clone(), "nothing found");
    let turn = harness.generate(&["con"], ask).await.unwrap();
    let [Content::Text(answer)] = &contents(&turn)[..] else { panic!("{turn:?}") };
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert!(answer["answer"].is_string(), "{answer}");
}

#[tokio::test]
async fn what_does_not_fit_is_passed_on_and_said() {
    let harness = Harness::start("[[rule]]\nreply = { text = 'free words' }").await;
    let turn = harness.generate(&["con"], Ask::new("?").with_tools()).await.unwrap();
    assert_eq!(contents(&turn), [Content::Text("free words".into())]);
    assert!(turn.translation_warnings.iter().any(|warning| warning.contains("does not fit the schema")));
}

#[tokio::test]
async fn a_schema_without_tools_constrains_the_answer_itself() {
    let harness = Harness::start("[[rule]]\nmatch = { has_schema = true }\nreply = { from_schema = true }").await;
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#;
    let turn = harness.generate(&["con"], Ask::new("?").with_schema(schema)).await.unwrap();
    assert_eq!(contents(&turn), [Content::Text(r#"{"n":0}"#.into())]);
}
