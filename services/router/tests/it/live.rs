//! Against a real small model, when `MAR_LIVE_MODEL_URL` names a server such as `scripts/serve-model.sh` starts.

use mar_proto::types::{Message, Role, ToolCall, ToolResult, part::Content};
use mar_router::ProviderConfig;

use crate::harness::{Ask, Harness, contents, part, text};

const UNUSED: &str = "[[rule]]\nreply = { text = 'unused' }";

#[tokio::test]
#[ignore = "needs MAR_LIVE_MODEL_URL, such as http://127.0.0.1:8080/v1"]
async fn a_small_model_chooses_a_tool_and_answers_from_its_result() {
    let url = std::env::var("MAR_LIVE_MODEL_URL").unwrap();
    let harness = Harness::configured(UNUSED, UNUSED, |config| {
        config.catalogue = None;
        config.providers = [("local".to_owned(), ProviderConfig::at(url))].into();
    })
    .await;
    let model = std::env::var("MAR_LIVE_MODEL").unwrap_or_else(|_| "qwen2.5-coder-1.5b".to_owned());
    let mut ask = Ask::new("For how many days are audit logs kept?").with_tools();
    let streamed = harness.stream(&[&model], ask.clone()).await.unwrap();
    let turn = streamed.turn.unwrap_or_else(|| panic!("{:?}", streamed.error));
    let [Content::ToolCall(call)] = &contents(&turn)[..] else { panic!("{turn:?}") };
    assert_eq!(call.tool, "tools/docs.search");
    assert!(call.arguments_json.contains("audit"), "{turn:?}");
    let usage = turn.usage.unwrap();
    assert!(!usage.estimated && usage.input_tokens + usage.cached_input_tokens > 50);

    let call = ToolCall { call_id: "r/1/0".into(), ..call.clone() };
    let result = ToolResult {
        call_id: "r/1/0".into(),
        tool: call.tool.clone(),
        content: vec![text("[ops.md#3] Audit logs are kept for 417 days, then deleted.")],
        ..ToolResult::default()
    };
    ask.prompt.messages.extend([
        Message { role: Role::Assistant.into(), parts: vec![part(Content::ToolCall(call))] },
        Message { role: Role::Tool.into(), parts: vec![part(Content::ToolResult(result))] },
    ]);
    let streamed = harness.stream(&[&model], ask).await.unwrap();
    let turn = streamed.turn.as_ref().unwrap_or_else(|| panic!("{:?}", streamed.error));
    let [Content::Text(answer)] = &contents(turn)[..] else { panic!("{turn:?}") };
    assert!(answer.contains("417"), "{answer}");
    assert_eq!(streamed.text(0), *answer);
}
