//! What callers bring to calls that wait for them.

use std::time::Duration;

use mar_proto::session::{HeldCall, Run, Task, WaitReason, event_leaf::Body};
use mar_proto::types::{ToolResult, part::Content};
use mar_runtime::violations::Violations;
use mar_task::schema::{OutputSchema, keys_are_distinct};
use uuid::Uuid;

use super::command::Posted;
use super::{READ_BYTES, READ_EVENTS, Runs, has_ended};
use crate::error::Error;
use crate::log;
use crate::run::{Command, Reply, Submission};
use crate::store::RequestKey;
use crate::view;

/// How long the answer waits for the run to have taken what was brought.
const TAKING: Duration = Duration::from_secs(5);
/// What a tool of the caller's is named after.
const PREFIX: &str = "tools/caller.";

/// Something for a call that waits for it.
#[derive(Debug, Clone)]
pub struct Submit<T> {
    /// The request's id in its scope.
    pub key: RequestKey,
    /// The session.
    pub session: Uuid,
    /// The run.
    pub run: Uuid,
    /// What is brought.
    pub given: T,
}

impl Runs {
    /// Gives the result of a call that is in the caller's hands.
    pub async fn submit_result(&self, tenant: &str, submit: Submit<Submission>) -> Result<Run, Error> {
        let call_id = submit.given.result.call_id.clone();
        let wanted = |call: &HeldCall| call.wait_reason() == WaitReason::ToolResult && call.call_id == call_id;
        let (before, held) = match self.waiting(tenant, &submit, &call_id, wanted).await? {
            (before, Some(held)) => (before, held),
            (before, None) => return Ok(before),
        };
        check_form(before.task.as_ref(), &held.tool, &submit.given.result)?;
        let command = Command::ToolResult(Box::new(submit.given.clone()));
        self.bring(tenant, &submit, (&before, &held), command).await
    }

    /// Answers a call that asks the caller.
    pub async fn submit_input(&self, tenant: &str, submit: Submit<Reply>) -> Result<Run, Error> {
        let named = submit.given.call_id.clone();
        let wanted =
            |call: &HeldCall| call.wait_reason() == WaitReason::Input && (named.is_empty() || call.call_id == named);
        let (before, held) = match self.waiting(tenant, &submit, &named, wanted).await? {
            (before, Some(held)) => (before, held),
            (before, None) => return Ok(before),
        };
        let reply = Reply { call_id: held.call_id.clone(), ..submit.given.clone() };
        self.bring(tenant, &submit, (&before, &held), Command::Input(reply)).await
    }

    /// The run, and the call that waits for this. No call where the same request was made before: it has done what it could.
    async fn waiting<T: Sync>(
        &self,
        tenant: &str,
        submit: &Submit<T>,
        call_id: &str,
        wanted: impl Fn(&HeldCall) -> bool + Send,
    ) -> Result<(Run, Option<HeldCall>), Error> {
        let name = view::run_name(submit.session, submit.run);
        let run = self.get(tenant, submit.session, submit.run, &name).await?;
        match self.store().request_seen(tenant, &submit.key).await? {
            Some(true) => return Ok((run, None)),
            Some(false) => return Err(Error::RequestIdReused),
            None => {}
        }
        if let Some(held) = run.held_calls.iter().find(|call| wanted(call)).cloned() {
            return Ok((run, Some(held)));
        }
        if i16::try_from(run.state).is_ok_and(has_ended) {
            return Err(Error::RunState { name, state: run.state() });
        }
        Err(Error::CallState { call_id: call_id.to_owned(), why: "no such call is in the caller's hands now" })
    }

    /// Makes it durable, and answers the run when it has taken it, or a few seconds have passed.
    async fn bring<T: Sync>(
        &self,
        tenant: &str,
        submit: &Submit<T>,
        (before, held): (&Run, &HeldCall),
        command: Command,
    ) -> Result<Run, Error> {
        let Submit { key, session, run, .. } = submit;
        let name = view::run_name(*session, *run);
        let (posted, id) = self.post_named(tenant, *run, Some(key), &command).await?;
        match posted {
            Posted::New => {}
            Posted::Before => return self.get(tenant, *session, *run, &name).await,
            Posted::Closed => {
                let now = self.get(tenant, *session, *run, &name).await?;
                return Err(Error::RunState { name, state: now.state() });
            }
        }
        let gone = |run: &Run| run.held_calls.iter().all(|call| call.call_id != held.call_id);
        let taking = self.until(tenant, *session, *run, &name, gone);
        let now = match mar_runtime::clock::within(self.clock(), TAKING, taking).await {
            Ok(taken) => taken?,
            Err(_) => return self.get(tenant, *session, *run, &name).await,
        };
        match self.closed_by(tenant, *run, before.next_seq, &held.call_id).await? {
            // Somebody else was there first, or the run was stopped.
            Some(other) if other != id.to_string() => {
                Err(Error::CallState { call_id: held.call_id.clone(), why: "it is over already" })
            }
            _ => Ok(now),
        }
    }

    /// The command that closed a call, empty for none of a caller's; `None` while the call is open.
    async fn closed_by(&self, tenant: &str, run: Uuid, from: i64, call_id: &str) -> Result<Option<String>, Error> {
        let mut from = from;
        loop {
            let rows = self.store().event_read(tenant, run, from, READ_EVENTS, READ_BYTES).await?;
            let Some(last) = rows.last() else { return Ok(None) };
            from = last.seq + 1;
            for row in &rows {
                let (leaf, event) = log::decode(run, row)?;
                if matches!(&event.body, Body::ToolReturned(back) if back.call_id == call_id) {
                    return Ok(Some(leaf.command_id));
                }
            }
        }
    }
}

/// Whether a result is what the task says of its tool.
fn check_form(task: Option<&Task>, tool: &str, result: &ToolResult) -> Result<(), Violations> {
    let name = tool.strip_prefix(PREFIX).unwrap_or_default();
    let declared = task.and_then(|task| task.caller_tools.iter().find(|tool| tool.name == name));
    let schema = declared.map_or("", |tool| tool.output_schema_json.as_str());
    if schema.is_empty() || result.is_error {
        return Ok(());
    }
    let mut found = Violations::new();
    let text = match result.content.as_slice() {
        [part] => match &part.content {
            Some(Content::Text(text)) => Some(text),
            _ => None,
        },
        _ => None,
    };
    match text.map(|text| (serde_json::from_str::<serde_json::Value>(text), keys_are_distinct(text))) {
        Some((Ok(_), Err(problem))) => {
            found.field("result.content[0].text", problem);
        }
        Some((Ok(document), Ok(()))) => {
            // A schema that was admitted compiles.
            let fits = OutputSchema::parse(schema).is_ok_and(|schema| schema.accepts(&document));
            found.require(fits, "result.content[0].text", "does not fit the output schema of the tool");
        }
        _ => {
            found.field("result.content", "must be one part of text with JSON, as the tool's output schema asks");
        }
    }
    found.into_result(())
}
