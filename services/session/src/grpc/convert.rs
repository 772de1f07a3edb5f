//! Requests into what the domain asks for; every violation is reported at once.

use mar_proto::session::{
    Concurrency, EndSessionRequest, EraseSessionRequest, RunTaskRequest, Session, StartRunRequest, StartSessionRequest,
    Task, UpdateSessionRequest, WatchRunRequest,
};
use mar_proto::types::{HaltingPolicy, Origin, Part};
use mar_runtime::auth::Caller;
use mar_runtime::violations::Violations;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::config::tenant::is_hook_name;
use crate::runs::{Admit, Follow, Limits};
use crate::sessions::Change;
use crate::store::RequestKey;

mod command;
mod fork;
mod session;
mod submit;

pub use command::{cancel_run, pause_run, resolve_approval, resume_run};
pub use fork::{diff_runs, fork_run};
pub use submit::{submit_input, submit_tool_result};

const START_SESSION: &str = "/agentruntime.session.v1.SessionService/StartSession";
const UPDATE_SESSION: &str = "/agentruntime.session.v1.SessionService/UpdateSession";
const END_SESSION: &str = "/agentruntime.session.v1.SessionService/EndSession";
const ERASE_SESSION: &str = "/agentruntime.session.v1.SessionService/EraseSession";
const START_RUN: &str = "/agentruntime.session.v1.SessionService/StartRun";
const RUN_TASK: &str = "/agentruntime.session.v1.SessionService/RunTask";

/// A session to start.
pub fn start_session(caller: &Caller, request: StartSessionRequest) -> Result<(RequestKey, Session), Violations> {
    let mut found = Violations::new();
    let key = request_key(caller, START_SESSION, &request.request_id, &request, &mut found);
    let wish = request.session.unwrap_or_default();
    found.within("session", |found| session::check(&wish, found));
    found.into_result((key, wish))
}

/// A session to change.
pub fn update_session(caller: &Caller, request: UpdateSessionRequest) -> Result<Change, Violations> {
    let mut found = Violations::new();
    let key = request_key(caller, UPDATE_SESSION, &request.request_id, &request, &mut found);
    let session = request.session.unwrap_or_default();
    let id = parse_session("session.name", &session.name, &mut found).unwrap_or_default();
    found.within("session", |found| session::check(&session, found));
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    found.require(!paths.is_empty(), "update_mask", "must name what changes");
    for (index, path) in paths.iter().enumerate() {
        let known = matches!(path.as_str(), "purpose" | "labels" | "idle_timeout" | "budget");
        found.item("update_mask.paths", index, |found| {
            found.require(known, "", "must be `purpose`, `labels`, `idle_timeout` or `budget`").is_empty()
        });
    }
    let etag = Some(session.etag.as_str()).filter(|etag| !etag.is_empty());
    let version = etag.and_then(|etag| found.take("session.etag", etag.parse::<i64>().map_err(|_| "is not an etag")));
    found.into_result(Change { key, id, session, paths, version })
}

/// A session to end. It needs no `request_id`: to end it twice is to end it once.
pub fn end_session(caller: &Caller, request: &EndSessionRequest) -> Result<(Option<RequestKey>, Uuid), Violations> {
    let mut found = Violations::new();
    let id = parse_session("name", &request.name, &mut found).unwrap_or_default();
    let given = !request.request_id.is_empty();
    let key = given.then(|| request_key(caller, END_SESSION, &request.request_id, request, &mut found));
    found.into_result((key, id))
}

/// A session to erase. It needs no `request_id`: to erase it twice is to erase it once.
pub fn erase_session(caller: &Caller, request: &EraseSessionRequest) -> Result<(Option<RequestKey>, Uuid), Violations> {
    let mut found = Violations::new();
    let id = parse_session("name", &request.name, &mut found).unwrap_or_default();
    let given = !request.request_id.is_empty();
    let key = given.then(|| request_key(caller, ERASE_SESSION, &request.request_id, request, &mut found));
    found.into_result((key, id))
}

/// A run to start.
pub fn start_run(caller: &Caller, request: StartRunRequest, limits: &Limits) -> Result<Admit, Violations> {
    let mut found = Violations::new();
    let key = request_key(caller, START_RUN, &request.request_id, &request, &mut found);
    admit(key, &request.session, request.task, request.concurrency, limits, found)
}

/// A run to start and follow.
pub fn run_task(caller: &Caller, request: RunTaskRequest, limits: &Limits) -> Result<Admit, Violations> {
    let mut found = Violations::new();
    let key = request_key(caller, RUN_TASK, &request.request_id, &request, &mut found);
    admit(key, &request.session, request.task, request.concurrency, limits, found)
}

fn admit(
    key: RequestKey,
    session: &str,
    task: Option<Task>,
    concurrency: i32,
    limits: &Limits,
    mut found: Violations,
) -> Result<Admit, Violations> {
    let session = parse_session("session", session, &mut found).unwrap_or_default();
    let given = task.is_some();
    found.require(given, "task", "must be given");
    // One that is missing has no input either; to say so would not help.
    let (task, limits) = task.map(|task| bounded(task, limits, &mut found)).unwrap_or_default();
    let parallel = parallel(concurrency, &mut found);
    found.into_result(Admit { key, session, task, limits, parallel, fork: None })
}

/// A task with everything that it leaves open, and its limits.
fn bounded(mut task: Task, limits: &Limits, found: &mut Violations) -> (Task, HaltingPolicy) {
    let limits = found.within("task", |found| {
        mar_task::check(&task, found);
        found.within("halting", |found| limits.complete(task.halting.as_ref(), found))
    });
    mar_task::complete(&mut task);
    for part in &mut task.input {
        *part = said_by_caller(std::mem::take(part));
    }
    (task, limits)
}

/// What a caller brings is the caller's, whatever it says of itself.
fn said_by_caller(part: Part) -> Part {
    Part { content: part.content, origin: Origin::Caller.into(), tainted: false }
}

fn parallel(concurrency: i32, found: &mut Violations) -> bool {
    let concurrency =
        found.take("concurrency", Concurrency::try_from(concurrency).map_err(|_| "must be SERIAL or PARALLEL"));
    concurrency == Some(Concurrency::Parallel)
}

/// A run to follow.
pub fn watch_run(caller: &Caller, request: WatchRunRequest) -> Result<Follow, Violations> {
    let mut found = Violations::new();
    let (session, run) = parse_run("name", &request.name, &mut found).unwrap_or_default();
    found.require(request.from_seq >= 0, "from_seq", "must be 0 or more");
    let after = <[u8; 32]>::try_from(&request.after_hash[..]).ok();
    let known = request.after_hash.is_empty() || after.is_some() && request.from_seq > 0;
    found.require(known, "after_hash", "must be empty, or the 32 bytes of the event before a `from_seq` above 0");
    let (tenant, deltas) = (caller.tenant.clone(), !request.without_deltas);
    found.into_result(Follow { tenant, session, run, from_seq: request.from_seq, after, deltas })
}

/// A `request_id` in its scope, with the digest of the body. The digest leaves the id itself in: it is the same whenever the
/// ids are.
pub(super) fn request_key<T: prost::Message>(
    caller: &Caller,
    method: &'static str,
    request_id: &str,
    request: &T,
    found: &mut Violations,
) -> RequestKey {
    let fits = (1..=128).contains(&request_id.len()) && request_id.bytes().all(|byte| byte.is_ascii_graphic());
    found.require(fits, "request_id", "must be 1 to 128 printable ASCII characters");
    RequestKey {
        principal: caller.principal.clone(),
        method,
        request_id: request_id.to_owned(),
        digest: Sha256::digest(request.encode_to_vec()).into(),
    }
}

/// `sessions/{session}`
pub fn parse_session(field: &str, name: &str, found: &mut Violations) -> Option<Uuid> {
    let id = name.strip_prefix("sessions/").and_then(parse_id);
    found.require(id.is_some(), field, "must be `sessions/{session}`");
    id
}

/// `sessions/{session}/runs/{run}`
pub fn parse_run(field: &str, name: &str, found: &mut Violations) -> Option<(Uuid, Uuid)> {
    let parts = name.strip_prefix("sessions/").and_then(|rest| rest.split_once("/runs/"));
    let ids = parts.and_then(|(session, run)| Some((parse_id(session)?, parse_id(run)?)));
    found.require(ids.is_some(), field, "must be `sessions/{session}/runs/{run}`");
    ids
}

/// Only the form that we write ourselves, so that a name is one string.
fn parse_id(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| id.to_string() == text)
}

/// A session's name alone.
pub fn session_of(field: &str, name: &str) -> Result<Uuid, Violations> {
    let mut found = Violations::new();
    let id = parse_session(field, name, &mut found).unwrap_or_default();
    found.into_result(id)
}

/// A run's name alone.
pub fn run_of(field: &str, name: &str) -> Result<(Uuid, Uuid), Violations> {
    let mut found = Violations::new();
    let ids = parse_run(field, name, &mut found).unwrap_or_default();
    found.into_result(ids)
}

/// `hooks/{hook}/notices/{notice}`
pub fn dead_notice(name: &str) -> Result<(String, String), Violations> {
    let mut found = Violations::new();
    let parts = name.strip_prefix("hooks/").and_then(|rest| rest.split_once("/notices/"));
    let fits =
        |id: &str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    let parts = parts.filter(|(hook, id)| is_hook_name(hook) && fits(id));
    found.require(parts.is_some(), "name", "must be `hooks/{hook}/notices/{notice}`");
    let (hook, id) = parts.unwrap_or_default();
    found.into_result((hook.to_owned(), id.to_owned()))
}

#[cfg(test)]
mod tests {
    use mar_proto::types::part::Content;

    use super::*;

    #[test]
    fn what_a_caller_says_is_the_callers_whatever_it_says_of_itself() {
        let content = Some(Content::Text("hi".into()));
        let claimed = Part { content: content.clone(), origin: Origin::Platform.into(), tainted: true };
        let task = Task { r#type: "chat".into(), input: vec![claimed], ..Task::default() };
        let request = RunTaskRequest { task: Some(task), ..RunTaskRequest::default() };
        let mut found = Violations::new();
        let (task, _) = bounded(request.task.unwrap_or_default(), &Limits::default(), &mut found);
        assert_eq!(task.input, [Part { content, origin: Origin::Caller.into(), tainted: false }]);
    }
}
