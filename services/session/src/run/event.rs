//! Making events.

use mar_proto::session::{
    AllotmentRefilled, AnswerRejected, ChildRun, ChildTasks, CommitDelayed, CountersRebuilt, DelegationIntent,
    EventContent, GenerationFailed, GenerationStarted, RunEnded, RunFailure, RunResumed, RunState, RunWaiting,
    StopRequested, ToolIntent, ToolOutcome, ToolReturned, TurnCommitted, WaitReason, event_leaf::Body,
};
use mar_proto::types::{HaltReason, Message, Origin, Part, ToolResult, Usage, part::Content};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::delegation::{Carving, ChildEnd};
use super::input::{CallReturn, Delay, FinishedTurn};
use super::next::Due;
use super::state::{Call, Generation, State, Stop};
use super::summary::{Aim, SUMMARISE};
use crate::counters::Amounts;

/// Name of the store as a dependency that is away.
const STORE: &str = "session store";

/// A body with its payloads.
pub(super) type Draft = (Body, EventContent);

/// A body without payloads.
pub(super) fn bare(body: Body) -> Draft {
    (body, EventContent::default())
}

/// The turn with our call ids, tool names and origins.
pub(super) fn turn_committed(state: &State, turn: &FinishedTurn) -> Draft {
    let mut message = turn.message.clone();
    let mut index = 0;
    for part in &mut message.parts {
        part.set_origin(Origin::Model);
        part.tainted = state.tainted;
        if let Some(Content::ToolCall(call)) = &mut part.content {
            call.call_id = format!("{}/{}/{index}", state.run, turn.step);
            index += 1;
        }
    }
    let body = TurnCommitted {
        step: turn.step,
        attempt: turn.attempt,
        model: turn.model.clone(),
        selection: turn.selection.clone(),
        usage: Some(turn.usage),
        finish_reason: turn.finish_reason.into(),
        tool_calls: index,
        translation_warnings: turn.translation_warnings.clone(),
        failed_attempts: turn.failed_attempts.clone(),
    };
    (Body::TurnCommitted(body), EventContent { turn: Some(message), ..EventContent::default() })
}

/// Attempts that an event tells of, and bytes of each.
const MOST_ATTEMPTS: usize = 32;
const MAX_ATTEMPT: usize = 512;

fn bounded(told: &str) -> String {
    told[..told.floor_char_boundary(MAX_ATTEMPT)].to_owned()
}

/// A generation that yielded nothing.
pub(super) fn generation_failed(
    generation: &Generation,
    reason: &str,
    (models, attempts): (&[String], &[String]),
    usage: Usage,
    retried: bool,
) -> Draft {
    bare(Body::GenerationFailed(GenerationFailed {
        models: models.to_vec(),
        failed_attempts: attempts.iter().take(MOST_ATTEMPTS).map(|told| bounded(told)).collect(),
        step: generation.step,
        attempt: generation.attempt,
        reason: reason.to_owned(),
        usage: Some(usage),
        retried,
    }))
}

/// A generation about to be issued.
pub(super) fn generation_started(due: &Due, left: Amounts) -> Draft {
    let (role, replaces) = match due.aim {
        Aim::Turn => ("", 0),
        Aim::Summary { replaces } | Aim::History { replaces } => (SUMMARISE, replaces),
    };
    bare(Body::GenerationStarted(GenerationStarted {
        step: due.step,
        attempt: due.attempt,
        reservation: Some(due.reservation.to_reservation()),
        left: Some(left.to_reservation()),
        repair: due.repair,
        role: role.to_owned(),
        replaces: i64::try_from(replaces).unwrap_or(i64::MAX),
        elided: due.elided.clone(),
        history: matches!(due.aim, Aim::History { .. }),
        history_left_out: i64::try_from(due.left_out.messages).unwrap_or(i64::MAX),
        history_left_out_reason: due.left_out.reason.to_owned(),
    }))
}

/// Child runs about to be admitted.
pub(super) fn delegation_intent(carving: &Carving, pool_nonce: i64) -> Draft {
    let child = |child: &super::Child| ChildRun {
        run: child.run.to_string(),
        limits: Some(child.limits),
        ceiling: Some(child.ceiling.to_reservation()),
    };
    let body = DelegationIntent {
        call_id: carving.call_id.clone(),
        mode: carving.mode.into(),
        children: carving.children.iter().map(child).collect(),
        reserved: Some(carving.reserved.to_reservation()),
        pool: Some(carving.pool.to_reservation()),
        pool_nonce,
    };
    let tasks = carving.children.iter().map(|child| (*child.task).clone()).collect();
    (Body::DelegationIntent(body), EventContent { child_tasks: Some(ChildTasks { tasks }), ..EventContent::default() })
}

/// A child run that has ended.
pub(super) fn child_ended(run: Uuid, end: &ChildEnd) -> Draft {
    (Body::ChildEnded(end.to_leaf(run)), EventContent { answer: end.answer.clone(), ..EventContent::default() })
}

/// The run's limits have grown.
pub(super) fn refilled(drawn: Amounts) -> Draft {
    bare(Body::AllotmentRefilled(AllotmentRefilled { drawn: Some(drawn.to_reservation()) }))
}

/// A call about to be issued.
pub(super) fn tool_intent(state: &State, call: &Call, attempt: i64) -> Draft {
    let definition = call.definition.as_ref();
    let body = ToolIntent {
        call_id: call.call_id.clone(),
        tool: call.tool.clone(),
        idempotency_key: call.idempotency_key(state.run),
        idempotent: definition.is_some_and(|tool| tool.idempotent),
        attempt,
        recorded_seq: state.recorded_result(call),
    };
    (Body::ToolIntent(body), EventContent { arguments_json: call.arguments_json.clone(), ..EventContent::default() })
}

/// H(run, call id, arguments): stable over retries of a call, new in a fork.
pub fn idempotency_key(run: Uuid, call_id: &str, arguments_json: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"mcp-agent-runtime/idempotency-key/v1\n");
    hash.update(run.as_bytes());
    hash.update((call_id.len() as u64).to_be_bytes());
    hash.update(call_id.as_bytes());
    hash.update(Sha256::digest(arguments_json.as_bytes()));
    hex::encode(hash.finalize())
}

/// A call that came back.
pub(super) fn tool_returned(call: &Call, back: &CallReturn) -> Draft {
    let mut result = back.result.clone();
    result.call_id.clone_from(&call.call_id);
    result.provider_call_id.clone_from(&call.provider_call_id);
    result.tool.clone_from(&call.tool);
    // A recorded result is what it was: a person may have said it.
    if !back.recorded {
        for part in &mut result.content {
            part.set_origin(Origin::Tool);
        }
    }
    let body = ToolReturned {
        call_id: call.call_id.clone(),
        outcome: back.outcome.into(),
        reason: back.reason.clone(),
        size_bytes: back.size_bytes,
        duration_ms: back.duration_ms,
        policy_hashes: back.policy_hashes.clone(),
        recorded_seq: call.recorded.filter(|_| back.recorded),
    };
    let content = EventContent {
        tool_result: Some(result),
        decision_json: back.decision_json.clone(),
        ..EventContent::default()
    };
    (Body::ToolReturned(body), content)
}

/// A call that ends without its tool's answer.
pub(super) fn tool_unanswered(call: &Call, outcome: ToolOutcome, reason: &str, text: &str) -> Draft {
    let back = CallReturn {
        call_id: call.call_id.clone(),
        attempt: 0,
        outcome,
        reason: reason.to_owned(),
        result: error_result(text),
        decision_json: String::new(),
        policy_hashes: Vec::new(),
        recorded: false,
        size_bytes: 0,
        duration_ms: 0,
    };
    tool_returned(call, &back)
}

/// A result that tells the model of a failure.
pub fn error_result(text: &str) -> ToolResult {
    let part = Part { content: Some(Content::Text(text.to_owned())), ..Part::default() };
    ToolResult { is_error: true, content: vec![part], ..ToolResult::default() }
}

/// An answer that does not fit.
pub(super) fn answer_rejected(step: i64, problems: &[String]) -> Draft {
    let body = AnswerRejected { step, problems: i64::try_from(problems.len()).unwrap_or(i64::MAX) };
    let text = format!(
        "Your answer cannot be accepted:\n{}\nAnswer again and mend this.",
        problems.iter().map(|problem| format!("- {problem}")).collect::<Vec<_>>().join("\n")
    );
    (Body::AnswerRejected(body), EventContent { problems: text, ..EventContent::default() })
}

/// What the model is told of an answer that does not fit.
pub(super) fn repair_request(problems: &str) -> Message {
    let part =
        Part { content: Some(Content::Text(problems.to_owned())), origin: Origin::Platform.into(), ..Part::default() };
    Message { role: mar_proto::types::Role::User.into(), parts: vec![part] }
}

/// The counters were rebuilt.
pub(super) fn counters_rebuilt(found_seq: i64) -> Draft {
    bare(Body::CountersRebuilt(CountersRebuilt { found_seq }))
}

/// The run waits for a part that is down.
pub(super) fn waiting_for(dependency: &str) -> Draft {
    bare(Body::RunWaiting(RunWaiting {
        reason: WaitReason::Dependency.into(),
        dependency: dependency.to_owned(),
        until: None,
    }))
}

/// The run waits with nothing in flight.
pub(super) fn parked(reason: WaitReason) -> Draft {
    bare(Body::RunWaiting(RunWaiting { reason: reason.into(), ..RunWaiting::default() }))
}

/// The run waits for a budget.
pub(super) fn renewing(until: time::OffsetDateTime) -> Draft {
    let until = Some(crate::log::stamp(until));
    bare(Body::RunWaiting(RunWaiting { reason: WaitReason::Budget.into(), until, ..RunWaiting::default() }))
}

/// A commit waited for the store.
pub(super) fn commit_delayed(delay: Delay) -> Draft {
    bare(Body::CommitDelayed(CommitDelayed {
        since: Some(crate::log::stamp(delay.since)),
        until: Some(crate::log::stamp(delay.until)),
        dependency: STORE.to_owned(),
        failures: delay.failures,
    }))
}

/// The run goes on.
pub(super) fn resumed(state: &State, reason: WaitReason) -> Draft {
    let waits = state.waits_for() == Some(reason);
    let since = waits.then(|| crate::log::stamp(state.changed_at));
    bare(Body::RunResumed(RunResumed { reason: reason.into(), since }))
}

/// The run is to stop.
pub(super) fn stop_requested(outcome: RunState, halt_reason: HaltReason, reason: &str, principal: &str) -> Draft {
    let body = StopRequested { outcome: outcome.into(), halt_reason: halt_reason.into(), reason: reason.to_owned() };
    (Body::StopRequested(body), EventContent { principal: principal.to_owned(), ..EventContent::default() })
}

/// The run is over as its stop demanded.
pub(super) fn ended_by(stop: &Stop) -> RunEnded {
    let failure = (stop.outcome == RunState::Cancelled)
        .then(|| RunFailure { reason: stop.reason.clone(), message: "the run was cancelled".to_owned() });
    RunEnded { state: stop.outcome.into(), halt_reason: stop.halt_reason.into(), failure, totals: None }
}

/// The run is over without an answer.
pub(super) fn failed(state: RunState, reason: &str, message: &str) -> RunEnded {
    let failure = RunFailure { reason: reason.to_owned(), message: message.to_owned() };
    RunEnded { state: state.into(), halt_reason: 0, failure: Some(failure), totals: None }
}

/// The run is over by a limit.
pub(super) fn halted(reason: HaltReason) -> RunEnded {
    RunEnded { state: RunState::Halted.into(), halt_reason: reason.into(), failure: None, totals: None }
}
