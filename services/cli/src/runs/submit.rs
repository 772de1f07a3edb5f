//! `mar runs submit` and `mar runs answer`: what a caller brings to calls that wait for it.

use std::path::Path;

use mar_proto::session::{Run, SubmitInputRequest, SubmitToolResultRequest};
use mar_proto::types::{Part, ToolResult, part::Content};

use super::full_name;
use crate::args::{AnswerArgs, RunArg, SubmitArgs};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::Out;
use crate::run::{new_id, task};
use crate::{report, waiting};

pub(super) async fn submit(args: &SubmitArgs, out: Out) -> Result<Exit, Failure> {
    let content = if args.result == Path::new("-") { task::read_input()? } else { task::read(&args.result)? };
    let endpoint = Endpoint::try_new(&args.run.endpoint)?;
    let name = full_name(&endpoint, &args.run.run).await?;
    let result = ToolResult {
        call_id: call_id(&name, &args.call),
        is_error: args.error,
        content: vec![text(content)],
        ..ToolResult::default()
    };
    let request = SubmitToolResultRequest { request_id: new_id(), run: name, result: Some(result) };
    let answer = endpoint.sessions()?.submit_tool_result(endpoint.request(request)).await;
    let run = answer.map_err(|status| endpoint.failure(status))?.into_inner().run;
    Ok(print(&run.unwrap_or_default(), &args.run, out))
}

pub(super) async fn answer(args: &AnswerArgs, out: Out) -> Result<Exit, Failure> {
    let words = if args.text == "-" { task::read_input()? } else { args.text.clone() };
    let endpoint = Endpoint::try_new(&args.run.endpoint)?;
    let name = full_name(&endpoint, &args.run.run).await?;
    let call_id = args.call.as_deref().map(|call| call_id(&name, call)).unwrap_or_default();
    let request = SubmitInputRequest { request_id: new_id(), run: name, input: vec![text(words)], call_id };
    let answer = endpoint.sessions()?.submit_input(endpoint.request(request)).await;
    let run = answer.map_err(|status| endpoint.failure(status))?.into_inner().run;
    Ok(print(&run.unwrap_or_default(), &args.run, out))
}

/// `{run}/{step}/{index}` of itself or of `{step}/{index}`.
fn call_id(run: &str, call: &str) -> String {
    let id = run.rsplit('/').next().unwrap_or_default();
    if call.matches('/').count() == 1 { format!("{id}/{call}") } else { call.to_owned() }
}

fn text(words: String) -> Part {
    Part { content: Some(Content::Text(words)), ..Part::default() }
}

fn print(run: &Run, args: &RunArg, out: Out) -> Exit {
    if args.json {
        out.json(&report::json(run));
        return Exit::Done;
    }
    out.line(format!("{}  {}", waiting::state_text(run), run.name));
    for hint in waiting::hints(run, out.remark) {
        out.note(hint);
    }
    Exit::Done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_in_full_or_by_its_place() {
        assert_eq!(call_id("sessions/s/runs/r", "3/0"), "r/3/0");
        assert_eq!(call_id("sessions/s/runs/r", "r/3/0"), "r/3/0");
    }
}
