//! What callers bring to calls that wait for them.

use mar_proto::session::{SubmitInputRequest, SubmitToolResultRequest};
use mar_proto::types::{Part, Passage, ToolResult, media::Source, part::Content};
use mar_runtime::auth::Caller;
use mar_runtime::violations::Violations;

use super::{parse_run, request_key};
use crate::run::{Reply, Submission};
use crate::runs::Submit;

const SUBMIT_TOOL_RESULT: &str = "/agentruntime.session.v1.SessionService/SubmitToolResult";
const SUBMIT_INPUT: &str = "/agentruntime.session.v1.SessionService/SubmitInput";
const MAX_PARTS: usize = 100;
const MAX_RESULT_BYTES: usize = 2 << 20;
const MAX_INPUT_BYTES: usize = 1 << 20;
const MAX_PASSAGES: usize = 1_000;
const MAX_PASSAGE_BYTES: usize = 1_024;
const MAX_CALL_ID: usize = 128;

/// The result of a call.
pub fn submit_tool_result(caller: &Caller, request: SubmitToolResultRequest) -> Result<Submit<Submission>, Violations> {
    let mut found = Violations::new();
    let key = request_key(caller, SUBMIT_TOOL_RESULT, &request.request_id, &request, &mut found);
    let (session, run) = parse_run("run", &request.run, &mut found).unwrap_or_default();
    let result = request.result.unwrap_or_default();
    let result = found.within("result", |found| {
        let named = (1..=MAX_CALL_ID).contains(&result.call_id.len());
        found.require(named, "call_id", "must be the id of a call, `{run}/{step}/{index}`");
        let content = parts(result.content, "content", 0, MAX_RESULT_BYTES, found);
        check_passages(&result.passages, found);
        let ToolResult { call_id, is_error, passages, truncated, .. } = result;
        ToolResult { call_id, is_error, content, passages, truncated, ..ToolResult::default() }
    });
    let given = Submission { result, principal: caller.principal.clone(), ..Submission::default() };
    found.into_result(Submit { key, session, run, given })
}

/// The answer to a question.
pub fn submit_input(caller: &Caller, request: SubmitInputRequest) -> Result<Submit<Reply>, Violations> {
    let mut found = Violations::new();
    let key = request_key(caller, SUBMIT_INPUT, &request.request_id, &request, &mut found);
    let (session, run) = parse_run("run", &request.run, &mut found).unwrap_or_default();
    let fits = request.call_id.len() <= MAX_CALL_ID;
    found.require(fits, "call_id", "must be the id of a call, `{run}/{step}/{index}`, or empty");
    let parts = parts(request.input, "input", 1, MAX_INPUT_BYTES, &mut found);
    let given = Reply { call_id: request.call_id, parts, principal: caller.principal.clone() };
    found.into_result(Submit { key, session, run, given })
}

/// Parts of text or inline media. Who made them, and whether they taint, is not for a request to say.
fn parts(parts: Vec<Part>, field: &str, least: usize, most_bytes: usize, found: &mut Violations) -> Vec<Part> {
    let fits = (least..=MAX_PARTS).contains(&parts.len());
    found.require(fits, field, format!("must have {least} to {MAX_PARTS} parts"));
    let bytes: usize = parts.iter().map(mar_task::media::part_bytes).sum();
    found.require(bytes <= most_bytes, field, format!("must be at most {most_bytes} bytes together"));
    for (index, part) in parts.iter().take(MAX_PARTS).enumerate() {
        let inline = match &part.content {
            Some(Content::Text(_)) => true,
            Some(Content::Media(media)) => matches!(media.source, Some(Source::Inline(_))),
            _ => false,
        };
        found.require(inline, &format!("{field}[{index}]"), "must be text or inline media");
        if inline {
            found.item(field, index, |found| mar_task::check_part(part, found));
        }
    }
    parts.into_iter().map(super::said_by_caller).collect()
}

fn check_passages(passages: &[Passage], found: &mut Violations) {
    found.require(passages.len() <= MAX_PASSAGES, "passages", format!("must be at most {MAX_PASSAGES}"));
    for (index, passage) in passages.iter().take(MAX_PASSAGES).enumerate() {
        let bytes = passage.passage_id.len() + passage.document.len() + passage.title.len();
        let fits = !passage.passage_id.is_empty() && bytes <= MAX_PASSAGE_BYTES;
        let form = format!("must have an id and at most {MAX_PASSAGE_BYTES} bytes");
        found.require(fits, &format!("passages[{index}]"), form);
    }
}
