use std::time::Duration;

use mar_proto::router::TurnDeltaKind;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::types::{ErrorReason, Message, Role, ToolCall, ToolResult, part::Content};
use mar_runtime::peer::Peer;
use mar_testkit::wait::until;
use serde_json::json;

use crate::harness::{Ask, Harness, contents, part, reason, said, text};

const TEXT: &str = r#"
[[rule]]
reply = { text = "Twelve days, as a rule.", chunk_size = 5, usage = { input = 100, output = 10 } }
"#;

const CALL: &str = r#"
[[rule]]
match = { last_role = "user" }
reply = { text = "Let me look.", tool_calls = [{ name = "search", arguments = { query = "logs" }, id = "c1" }, { name = "nonsense" }], chunk_size = 4 }
[[rule]]
reply = { from_tool_result = "I read: {{last_tool_result}}" }
"#;

#[tokio::test]
async fn a_turn_in_one_piece() {
    let harness = Harness::start(TEXT).await;
    let turn = harness.generate(&["alpha", "beta"], Ask::new("How long are logs kept?")).await.unwrap();
    assert_eq!(contents(&turn), [Content::Text("Twelve days, as a rule.".into())]);
    assert_eq!((turn.model.as_str(), turn.finish_reason.as_str()), ("models/alpha", "STOP"));
    let usage = turn.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.estimated), (100, 10, false));
    assert_eq!(usage.cost_nano_usd, 100 * 1_000 + 10 * 2_000);
    assert!(turn.selection.contains("number 1 of 2") && turn.selection.contains("routingPolicies/balanced"));
    assert!(turn.failed_attempts.is_empty());
    let sent = harness.first.requests().remove(0).body;
    assert_eq!(sent["model"], "alpha-at-provider");
    assert_eq!(sent["max_tokens"], 256);
    assert_eq!(sent["temperature"], 0.5);
    assert_eq!(sent["messages"][0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(harness.second.request_count(), 0);
}

#[tokio::test]
async fn a_turn_as_a_stream() {
    let harness = Harness::start(TEXT).await;
    let streamed = harness.stream(&["alpha"], Ask::new("How long?")).await.unwrap();
    assert!(streamed.error.is_none());
    assert_eq!(streamed.attempts, ["models/alpha"]);
    assert!(streamed.deltas.len() > 2);
    assert_eq!(streamed.text(0), "Twelve days, as a rule.");
    let turn = streamed.turn.unwrap();
    assert_eq!(contents(&turn), [Content::Text("Twelve days, as a rule.".into())]);
    assert_eq!(turn.usage.unwrap().input_tokens, 100);
    assert_eq!(harness.first.requests()[0].body["stream_options"], json!({"include_usage": true}));
}

#[tokio::test]
async fn native_tools_go_there_and_back() {
    let harness = Harness::start(CALL).await;
    let streamed = harness.stream(&["alpha"], Ask::new("How long?").with_tools()).await.unwrap();
    assert_eq!(streamed.text(0), "Let me look.");
    assert_eq!(streamed.text(1), r#"{"query":"logs"}"#);
    let arguments = |delta: &&mar_proto::router::TurnDelta| delta.kind() == TurnDeltaKind::ToolArguments;
    assert!(streamed.deltas.iter().any(|delta| arguments(&delta)));
    let turn = streamed.turn.unwrap();
    assert_eq!(turn.finish_reason, "TOOL_CALLS");
    let [Content::Text(_), Content::ToolCall(call), Content::ToolCall(unknown)] = &contents(&turn)[..] else {
        panic!("{turn:?}")
    };
    assert_eq!((call.tool.as_str(), call.provider_call_id.as_str()), ("tools/docs.search", "c1"));
    assert_eq!(unknown.tool, "nonsense");

    let mut ask = Ask::new("How long?").with_tools();
    let call = ToolCall { call_id: "r/1/0".into(), ..call.clone() };
    let result = ToolResult {
        call_id: "r/1/0".into(),
        tool: "tools/docs.search".into(),
        content: vec![text("12 days")],
        ..ToolResult::default()
    };
    let asked =
        Message { role: Role::Assistant.into(), parts: vec![text("Let me look."), part(Content::ToolCall(call))] };
    let answered = Message { role: Role::Tool.into(), parts: vec![part(Content::ToolResult(result))] };
    ask.prompt.messages.extend([asked, answered]);
    let turn = harness.generate(&["alpha"], ask).await.unwrap();
    assert_eq!(contents(&turn), [Content::Text("I read: 12 days".into())]);
    let sent = &harness.first.requests()[1].body["messages"];
    assert_eq!(sent[2]["tool_calls"][0]["function"]["name"], "search");
    assert_eq!(sent[3], json!({"role": "tool", "tool_call_id": "c1", "content": "12 days"}));
}

#[tokio::test]
async fn an_output_schema_is_passed_on() {
    let harness = Harness::start("[[rule]]\nmatch = { has_schema = true }\nreply = { from_schema = true }").await;
    let schema =
        r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}"#;
    let turn = harness.generate(&["alpha"], Ask::new("?").with_schema(schema)).await.unwrap();
    assert_eq!(contents(&turn), [Content::Text(r#"{"n":0}"#.into())]);
    let format = &harness.first.requests()[0].body["response_format"];
    assert_eq!((&format["type"], &format["json_schema"]["strict"]), (&json!("json_schema"), &json!(true)));
}

#[tokio::test]
async fn usage_is_counted_where_the_provider_says_nothing() {
    let harness = Harness::start("[[rule]]\nreply = { text = 'hello world', no_usage = true }").await;
    for usage in [
        harness.generate(&["alpha"], Ask::new("hi")).await.unwrap().usage.unwrap(),
        harness.stream(&["alpha"], Ask::new("hi")).await.unwrap().turn.unwrap().usage.unwrap(),
    ] {
        assert!(usage.estimated);
        assert_eq!(usage.output_tokens, 2);
        assert!((10..40).contains(&usage.input_tokens), "{usage:?}");
    }
}

#[tokio::test]
async fn a_cut_answer_says_so() {
    let harness = Harness::start("[[rule]]\nreply = { text = 'half', finish_reason = 'length' }").await;
    assert_eq!(harness.generate(&["alpha"], Ask::new("hi")).await.unwrap().finish_reason, "LENGTH");
}

#[tokio::test]
async fn a_caller_that_leaves_closes_the_providers_connection() {
    let harness =
        Harness::start("[[rule]]\nreply = { text = 'one two three four', chunk_size = 3, hang_after = 3 }").await;
    let request = harness.call(&["alpha"], Ask::new("hi"));
    let mut frames = harness.client.clone().stream_generate(request).await.unwrap().into_inner();
    for _ in 0..2 {
        frames.message().await.unwrap();
    }
    assert_eq!(harness.first.in_flight(), 1);
    drop(frames);
    let gone = || async { harness.first.in_flight() == 0 && harness.first.abandoned() == 1 };
    until(Duration::from_millis(500), gone).await.unwrap();
}

#[tokio::test]
async fn a_deadline_ends_a_hanging_provider() {
    let harness = Harness::start("[[rule]]\nreply = { hang = true }").await;
    let mut request = harness.call(&["alpha"], Ask::new("hi"));
    request.set_timeout(Duration::from_millis(200));
    let mut client = RouterServiceClient::new(Peer::local(harness.server.routed()));
    let refused = client.generate(request).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::DeadlineExceeded);
    until(Duration::from_secs(2), || async { harness.first.in_flight() == 0 }).await.unwrap();
}

#[tokio::test]
async fn everything_wrong_is_said_at_once() {
    let harness = Harness::start(TEXT).await;
    let mut ask = Ask::new("hi").with_tools().with_schema("[");
    ask.budget.max_output_tokens = 0;
    ask.budget.max_attempts = 9;
    ask.prompt.messages.push(Message { role: 0, parts: vec![] });
    ask.prompt.tools[0].alias = "no good".into();
    let refused = harness.generate(&["alpha"], ask).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::InvalidRequest);
    let fields: Vec<_> = mar_runtime::status::violations(&refused).into_iter().map(|one| one.field).collect();
    assert_eq!(
        fields,
        [
            "prompt.messages[2].role",
            "prompt.messages[2].parts",
            "prompt.tools[0].alias",
            "prompt.output_schema_json",
            "budget.max_output_tokens",
            "budget.max_attempts",
        ]
    );
    let mut empty = Ask::new("hi");
    empty.prompt.messages = Vec::new();
    assert_eq!(reason(&harness.generate(&["alpha"], empty).await.unwrap_err()), ErrorReason::InvalidRequest);
    let mut odd = Ask::new("hi");
    odd.role = "dream".into();
    assert_eq!(reason(&harness.generate(&["alpha"], odd).await.unwrap_err()), ErrorReason::InvalidRequest);
    assert_eq!(harness.first.request_count(), 0);
}

#[tokio::test]
async fn a_huge_prompt_is_refused_before_any_attempt() {
    let harness = Harness::start(TEXT).await;
    let mut ask = Ask::new("hi");
    ask.prompt.messages.push(said(Role::User, &"word ".repeat(100_000)));
    let refused = harness.generate(&["alpha"], ask).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::ContextExceeded);
    assert!(mar_runtime::status::metadata(&refused)["models/alpha"].starts_with("CONTEXT"));
    // One text may be as long as the message: this one is too long for the window, and too dear.
    for (size, expected) in [(10 << 20, ErrorReason::NoModelAdmitted), (30 << 20, ErrorReason::MessageTooLarge)] {
        let mut ask = Ask::new("hi");
        ask.prompt.messages.push(said(Role::User, &"x".repeat(size)));
        let refused = harness.generate(&["alpha"], ask).await.unwrap_err();
        assert_eq!(reason(&refused), expected);
    }
    assert_eq!(harness.first.request_count(), 0);
}
