//! `examples`: shows the examples whose tools the agent has.

use mar_descriptor::{Hash, canonical, domain};
use mar_proto::types::{Message, Origin, Passage, Role, ToolCall, ToolResult, part::Content};
use serde_json::{Value, json};

use super::{Draft, OfferedTool, PromptOptimizerStep, Shown, message, part, text};
use crate::recipe::{Call, Example, TemplateError};
use crate::schema::OutputSchema;

pub(super) struct ExamplesStep;

impl PromptOptimizerStep for ExamplesStep {
    fn name(&self) -> &'static str {
        "examples"
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<String, TemplateError> {
        let examples = draft.pick.recipe().examples();
        if examples.is_empty() {
            return Ok("has no examples to show".to_owned());
        }
        let mut cut = 0;
        for example in examples {
            let whole = example.answers(draft.schema);
            if let Some(shown) = show(example, draft, whole) {
                cut += usize::from(!whole);
                draft.examples.push(shown);
            }
        }
        let shown = draft.examples.len();
        let mut said = format!("showed {shown} of {} examples", examples.len());
        if shown < examples.len() {
            said.push_str("; the others need tools or an output format that the agent does not have");
        }
        if cut > 0 {
            said.push_str("; they end before their answers, which are not of the task's output format");
        }
        Ok(said)
    }
}

/// The example with the agent's own tools; none when one of them is missing or takes other arguments, or when nothing
/// would be left.
fn show(example: &Example, draft: &Draft<'_>, whole: bool) -> Option<Shown> {
    let calls: Vec<(&Call, &OfferedTool<'_>)> =
        example.calls.iter().map(|call| Some((call, draft.bound.get(call.tool.as_str())?))).collect::<Option<_>>()?;
    if calls.iter().any(|(call, tool)| !takes(tool, &call.arguments)) || (calls.is_empty() && !whole) {
        return None;
    }
    let answer = whole.then(|| example.answer_text());
    let hash = hash(example, &calls, answer.as_deref())?;
    let mut messages = vec![message(Role::User, vec![text(example.question.clone(), Origin::Platform)])];
    for (index, (call, tool)) in calls.iter().enumerate() {
        let call_id = format!("example-{}-{}", draft.examples.len() + 1, index + 1);
        messages.extend(call_messages(&call_id, call, tool));
    }
    messages.extend(answer.map(|answer| message(Role::Assistant, vec![text(answer, Origin::Platform)])));
    let bytes = messages.iter().map(message_bytes).sum();
    Some(Shown { messages, hash, bytes })
}

/// Whether the tool's schema accepts the arguments. Where none is known, as in a dry run, the tool takes anything; one that
/// does not compile takes nothing.
fn takes(tool: &OfferedTool<'_>, arguments: &Value) -> bool {
    tool.input_schema.is_empty() || OutputSchema::parse(tool.input_schema).is_ok_and(|schema| schema.accepts(arguments))
}

fn call_messages(call_id: &str, call: &Call, tool: &OfferedTool<'_>) -> [Message; 2] {
    let name = format!("tools/{}", tool.name);
    let asked = ToolCall {
        call_id: call_id.to_owned(),
        provider_call_id: call_id.to_owned(),
        tool: name.clone(),
        arguments_json: call.arguments.to_string(),
    };
    let passages = call.passages.iter().map(|passage| Passage {
        passage_id: passage.id.clone(),
        document: passage.id.split('#').next().unwrap_or_default().to_owned(),
        title: passage.title.clone(),
    });
    let given = ToolResult {
        call_id: call_id.to_owned(),
        provider_call_id: call_id.to_owned(),
        tool: name,
        is_error: false,
        content: vec![text(call.result(), Origin::Platform)],
        passages: passages.collect(),
        truncated: false,
    };
    [
        message(Role::Assistant, vec![part(Content::ToolCall(asked), Origin::Platform)]),
        message(Role::Tool, vec![part(Content::ToolResult(given), Origin::Platform)]),
    ]
}

/// What is shown, without the ids that only tie calls to results.
fn hash(example: &Example, calls: &[(&Call, &OfferedTool<'_>)], answer: Option<&str>) -> Option<Hash> {
    let calls: Vec<Value> = calls
        .iter()
        .map(|(call, tool)| {
            let arguments = canonical::foreign(&call.arguments).ok()?;
            Some(json!({"tool": tool.name, "arguments": arguments, "result": call.result()}))
        })
        .collect::<Option<_>>()?;
    let document = json!({"question": example.question, "calls": calls, "answer": answer});
    Hash::of_value(domain::EXAMPLE, &document).ok()
}

fn message_bytes(message: &Message) -> usize {
    let bytes = |content: &Content| match content {
        Content::Text(text) => text.len(),
        Content::ToolCall(call) => call.tool.len() + call.arguments_json.len(),
        Content::ToolResult(result) => result.content.iter().map(crate::media::part_bytes).sum(),
        _ => 0,
    };
    message.parts.iter().filter_map(|part| part.content.as_ref()).map(bytes).sum()
}
