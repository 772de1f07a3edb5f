//! What is wanted of runs.

use mar_proto::session::{CancelRunRequest, PauseRunRequest, ResumeRunRequest};
use mar_runtime::auth::Caller;
use mar_runtime::violations::Violations;

use super::{parse_run, request_key};
use crate::runs::Target;

const CANCEL_RUN: &str = "/agentruntime.session.v1.SessionService/CancelRun";
const PAUSE_RUN: &str = "/agentruntime.session.v1.SessionService/PauseRun";
const RESUME_RUN: &str = "/agentruntime.session.v1.SessionService/ResumeRun";

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
