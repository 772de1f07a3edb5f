//! Forks, and how two runs differ.

use mar_proto::session::{DiffRunsRequest, ForkRunRequest};
use mar_runtime::auth::Caller;
use mar_runtime::violations::Violations;

use super::{bounded, parallel, parse_run, request_key};
use crate::diff::Pair;
use crate::runs::{Fork, Limits};

const FORK_RUN: &str = "/agentruntime.session.v1.SessionService/ForkRun";

/// A run to fork.
pub fn fork_run(caller: &Caller, request: ForkRunRequest, limits: &Limits) -> Result<Fork, Violations> {
    let mut found = Violations::new();
    let key = request_key(caller, FORK_RUN, &request.request_id, &request, &mut found);
    let (session, run) = parse_run("name", &request.name, &mut found).unwrap_or_default();
    found.require(request.through_seq >= 0, "through_seq", "must be 0 or more");
    let task = request.task.map(|task| bounded(task, limits, &mut found));
    let parallel = parallel(request.concurrency, &mut found);
    let (through_seq, allow_effects) = (request.through_seq, request.allow_effects);
    found.into_result(Fork { key, session, run, through_seq, task, allow_effects, parallel })
}

/// Two runs to compare.
pub fn diff_runs(request: &DiffRunsRequest) -> Result<Pair, Violations> {
    let mut found = Violations::new();
    let (session, run) = parse_run("name", &request.name, &mut found).unwrap_or_default();
    let given = !request.base.is_empty();
    let base = given.then(|| parse_run("base", &request.base, &mut found).unwrap_or_default());
    if let Some((of, _)) = base {
        found.require(of == session, "base", "must be a run of the same session");
    }
    found.into_result(Pair { session, run, base: base.map(|(_, base)| base) })
}
