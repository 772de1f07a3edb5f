//! What is wanted of runs.

use mar_proto::session::{ApprovalState, CancelRunRequest, PauseRunRequest, ResolveApprovalRequest, ResumeRunRequest};
use mar_runtime::auth::Caller;
use mar_runtime::violations::Violations;

use super::{parse_run, request_key};
use crate::runs::{Decide, Target};

const CANCEL_RUN: &str = "/agentruntime.session.v1.SessionService/CancelRun";
const PAUSE_RUN: &str = "/agentruntime.session.v1.SessionService/PauseRun";
const RESUME_RUN: &str = "/agentruntime.session.v1.SessionService/ResumeRun";
const RESOLVE_APPROVAL: &str = "/agentruntime.session.v1.SessionService/ResolveApproval";
/// Characters of a comment.
const MAX_COMMENT: usize = 2_000;

/// A run to cancel.
pub fn cancel_run(caller: &Caller, request: &CancelRunRequest) -> Result<Target, Violations> {
    target(caller, CANCEL_RUN, &request.request_id, &request.name, request)
}

/// A run to pause.
pub fn pause_run(caller: &Caller, request: &PauseRunRequest) -> Result<Target, Violations> {
    target(caller, PAUSE_RUN, &request.request_id, &request.name, request)
}

/// A run to resume.
pub fn resume_run(caller: &Caller, request: &ResumeRunRequest) -> Result<Target, Violations> {
    target(caller, RESUME_RUN, &request.request_id, &request.name, request)
}

/// These need no `request_id`: to want it twice is to want it once.
fn target<T: prost::Message>(
    caller: &Caller,
    method: &'static str,
    request_id: &str,
    name: &str,
    request: &T,
) -> Result<Target, Violations> {
    let mut found = Violations::new();
    let (session, run) = parse_run("name", name, &mut found).unwrap_or_default();
    let given = !request_id.is_empty();
    let key = given.then(|| request_key(caller, method, request_id, request, &mut found));
    found.into_result(Target { key, session, run })
}

/// A decision on an approval.
pub fn resolve_approval(caller: &Caller, request: ResolveApprovalRequest) -> Result<Decide, Violations> {
    let mut found = Violations::new();
    let key = request_key(caller, RESOLVE_APPROVAL, &request.request_id, &request, &mut found);
    let place = parse_approval(&request.name);
    let form = "must be `sessions/{session}/runs/{run}/approvals/{approval}`";
    found.require(place.is_some(), "name", form);
    let (session, run, approval) = place.unwrap_or_default();
    found.require(!request.call_digest.is_empty(), "call_digest", "must be the digest of the call that was looked at");
    let approved = request.resolution() == ApprovalState::Approved;
    let decides = approved || request.resolution() == ApprovalState::Denied;
    found.require(decides, "resolution", "must be APPROVED or DENIED");
    let fits = request.comment.chars().count() <= MAX_COMMENT;
    found.require(fits, "comment", format!("must have at most {MAX_COMMENT} characters"));
    let (digest, comment) = (request.call_digest, request.comment);
    found.into_result(Decide { key, session, run, approval, digest, approved, comment })
}

fn parse_approval(name: &str) -> Option<(uuid::Uuid, uuid::Uuid, String)> {
    let (run, approval) = name.split_once("/approvals/")?;
    let (session, run) = parse_run("name", run, &mut Violations::new())?;
    let fits = (1..=64).contains(&approval.len()) && approval.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    fits.then(|| (session, run, approval.to_owned()))
}
