//! What a finished run comes to: for people, and as one JSON object.

use std::time::Duration;

use mar_proto::session::{Answer, Event, Reservation, Run, RunSeal, RunState, SessionSeal, TurnCommitted, event_leaf};
use mar_proto::types::{Citation, HaltingPolicy, Usage, part};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::out::{Ink, clean, one_line};
use crate::progress::describe::{halt, input, output, state};
use crate::results;
use crate::slices;
use crate::summaries;
use crate::table::{Align, count, span, table, usd};
use crate::waiting;

/// Characters of a task that stands for it.
const BRIEF_TASK: usize = 200;

/// What `mar` ends with after this run.
pub fn exit(run: &Run) -> Exit {
    match run.state() {
        RunState::Succeeded => Exit::Done,
        RunState::Halted => Exit::RunHalted,
        RunState::Denied => Exit::RunDenied,
        RunState::Cancelled => Exit::RunCancelled,
        _ => Exit::RunFailed,
    }
}

/// The answer's text; its JSON where the task asked for some.
fn answer_text(answer: &Answer, wants_json: bool) -> String {
    let indented =
        || serde_json::from_str::<Value>(&answer.json).map_or(answer.json.clone(), |json| format!("{json:#}"));
    if wants_json && !answer.json.is_empty() {
        return indented();
    }
    let text = parts_text(answer);
    if text.trim().is_empty() { indented() } else { text }
}

fn parts_text(answer: &Answer) -> String {
    let texts = answer.parts.iter().filter_map(|part| match &part.content {
        Some(part::Content::Text(text) | part::Content::Refusal(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Of which type its task is.
pub fn task_type(run: &Run) -> &str {
    let named = run.task.as_ref().map(|task| task.r#type.as_str());
    named.filter(|name| !name.is_empty()).unwrap_or("answer")
}

/// The first text of its task.
pub fn task_text(run: &Run) -> &str {
    let parts = run.task.iter().flat_map(|task| &task.input);
    let mut texts = parts.filter_map(|part| match &part.content {
        Some(part::Content::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.next().unwrap_or_default()
}

/// The run for people: answer, sources, limits, hash and seal.
pub fn lines(run: &Run, ink: Ink) -> Vec<String> {
    beside_children(run, None, ink)
}

/// The same, with what its children have used beside what it has used in all.
pub fn beside_children(run: &Run, children: Option<&Reservation>, ink: Ink) -> Vec<String> {
    let mut lines = Vec::new();
    match run.state() {
        RunState::Succeeded => {
            let answer = run.answer.clone().unwrap_or_default();
            let wants_json = run.task.as_ref().is_some_and(|task| !task.output_schema_json.is_empty());
            lines.push(clean(&answer_text(&answer, wants_json)));
            lines.push(String::new());
            lines.extend(sources(&answer.citations, ink));
        }
        RunState::Halted => lines.push(format!("{} by its limits: {}", ink.warn("HALTED"), halt(run.halt_reason()))),
        other => {
            let failure = run.failure.clone().unwrap_or_default();
            let why = format!("{}: {}", failure.reason, one_line(&failure.message, 1_000));
            lines.push(format!(
                "{} {}",
                ink.bad(&state(other)),
                if failure.reason.is_empty() { String::new() } else { why }
            ));
            lines.extend(hints(&failure.reason).iter().map(|hint| ink.dim(hint)));
        }
    }
    if run.state() != RunState::Succeeded {
        lines.push(String::new());
    }
    lines.extend(limits(run, children, ink));
    lines.push(String::new());
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    lines.push(format!("descriptor  {}", or_none(&run.descriptor_hash)));
    let seal = run.seal.as_ref();
    let events = seal.map_or(String::new(), |seal| format!("  ({} events)", seal.head_seq + 1));
    lines.push(format!("seal        {}{events}", or_none(seal.map_or("", |seal| seal.hash.as_str()))));
    lines.push(format!("run         {}", run.name));
    lines
}

/// What to do about a failure that only an operator can mend.
fn hints(reason: &str) -> &'static [&'static str] {
    match reason {
        "PROVIDER_CREDENTIAL" => &[
            "No provider's key is set and accepted: `mar models list` says which are usable, and what each other lacks.",
        ],
        "PROVIDER_UNAVAILABLE" => &[
            "Set the key of a provider that was passed over, or start the server of a model that did not answer;",
            "`mar models list` says which are usable now. Without any: `mar rehearse` plays one, for --model rehearsal.",
        ],
        _ => &[],
    }
}

fn sources(citations: &[Citation], ink: Ink) -> Vec<String> {
    if citations.is_empty() {
        return Vec::new();
    }
    let source = |(at, citation): (usize, &Citation)| {
        let passage = citation.passage.clone().unwrap_or_default();
        let mut text = format!("  [{}] {}", at + 1, ink.name(&one_line(&passage.passage_id, 120)));
        if !passage.title.is_empty() {
            text.push_str(&format!("  {}", one_line(&passage.title, 80)));
        }
        if !citation.quote.is_empty() {
            text.push_str(&ink.dim(&format!("  \"{}\"", one_line(&citation.quote, 160))));
            if !citation.quote_found {
                text.push_str("  (not found in what the run received of it)");
            }
        }
        text
    };
    let mut lines = vec![ink.bold("SOURCES")];
    lines.extend(citations.iter().enumerate().map(source));
    lines.push(String::new());
    lines
}

fn limits(run: &Run, children: Option<&Reservation>, ink: Ink) -> Vec<String> {
    let totals = run.totals.unwrap_or_default();
    let usage = totals.usage.unwrap_or_default();
    let limits = run.limits.unwrap_or_default();
    let of = |limit: Option<i64>| limit.map_or("-".into(), count);
    let row = |name: &str, used: String, of: String, by_children: Option<String>| {
        let beside = children.map(|_| by_children.unwrap_or("-".into()));
        [name.to_owned(), used].into_iter().chain(beside).chain([of]).collect::<Vec<_>>()
    };
    let below = |amount: fn(&Reservation) -> i64| children.map(amount);
    let counted = |amount: fn(&Reservation) -> i64| below(amount).map(count);
    let active = Duration::from_millis(totals.active_time_ms.try_into().unwrap_or_default());
    let max_active = limits.max_active_time.and_then(|time| Duration::try_from(time).ok());
    let rows = [
        row("steps", count(totals.steps), of(limits.max_steps), counted(|used| used.steps)),
        row("tool calls", count(totals.tool_calls), of(limits.max_tool_calls), counted(|used| used.tool_calls)),
        row("input tokens", count(input(&usage)), of(limits.max_input_tokens), counted(|used| used.input_tokens)),
        row("output tokens", count(output(&usage)), of(limits.max_output_tokens), counted(|used| used.output_tokens)),
        row(
            "cost",
            usd(usage.cost_nano_usd),
            limits.max_cost_nano_usd.map_or("-".into(), usd),
            below(|used| used.cost_nano_usd).map(usd),
        ),
        row("active time", span(active), max_active.map_or("-".into(), span), None),
    ];
    let beside = children.map(|_| ("BY CHILDREN", Align::Right));
    let columns = [("LIMITS", Align::Left), ("USED", Align::Right)].into_iter().chain(beside);
    let columns: Vec<_> = columns.chain([("OF", Align::Right)]).collect();
    table(ink, &columns, &rows)
}

/// A run among others as JSON: what it is, how it stands, what it has used.
pub fn brief(run: &Run) -> Value {
    let Value::Object(mut fields) = json(run) else { return Value::Null };
    let kept = ["run", "state", "wait_reason", "task_type", "halt_reason", "failure", "descriptor_hash", "totals"];
    fields.retain(|name, _| kept.contains(&name.as_str()));
    fields.insert("depth".into(), json!(run.depth));
    fields.insert("task".into(), json!(one_line(task_text(run), BRIEF_TASK)));
    Value::Object(fields)
}

/// What child runs have used, as JSON.
pub fn reservation(used: &Reservation) -> Value {
    json!({
        "steps": used.steps,
        "tool_calls": used.tool_calls,
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cost_nano_usd": used.cost_nano_usd,
    })
}

/// The run as one JSON object.
pub fn json(run: &Run) -> Value {
    let totals = run.totals.unwrap_or_default();
    let answer = run.answer.as_ref().map(|answer| {
        json!({
            "text": parts_text(answer),
            "json": parsed(&answer.json),
            "citations": answer.citations.iter().map(citation).collect::<Vec<_>>(),
        })
    });
    let failure = run.failure.as_ref().map(|failure| json!({"reason": failure.reason, "message": failure.message}));
    let halted = run.state() == RunState::Halted;
    json!({
        "run": run.name,
        "session": run.name.split("/runs/").next(),
        "state": state(run.state()),
        "wait_reason": waiting::reason(run),
        "pausing": run.pausing,
        "held_calls": run.held_calls.iter().map(waiting::held_json).collect::<Vec<_>>(),
        "task_type": run.task.as_ref().map(|task| &task.r#type),
        "answer": answer,
        "halt_reason": halted.then(|| run.halt_reason().as_str_name().trim_start_matches("HALT_REASON_")),
        "failure": failure,
        "descriptor_hash": run.descriptor_hash,
        "seal": run.seal.as_ref().map(seal),
        "totals": {
            "steps": totals.steps,
            "tool_calls": totals.tool_calls,
            "usage": totals.usage.as_ref().map(usage),
            "overshoot": totals.overshoot.as_ref().map(usage),
            "active_time_ms": totals.active_time_ms,
        },
        "limits": run.limits.as_ref().map(policy),
        "create_time": run.create_time.as_ref().map(timestamp),
        "end_time": run.end_time.as_ref().map(timestamp),
    })
}

/// What happened in the run, event by event, as JSON.
pub fn event_json(event: &Event) -> Value {
    let leaf = event.body.clone().unwrap_or_default();
    let content = event.content.clone().unwrap_or_default();
    let mut value = json!({
        "seq": event.seq,
        "time": leaf.time.as_ref().map(timestamp),
        "hash": hex::encode(&event.hash),
        "kind": kind(leaf.body.as_ref()),
    });
    let Value::Object(fields) = &mut value else { return value };
    match leaf.body {
        Some(event_leaf::Body::TurnCommitted(turn)) => fields.extend(turn_fields(&turn)),
        Some(event_leaf::Body::SummaryCommitted(summary)) => fields.extend(summaries::fields(&summary)),
        Some(event_leaf::Body::GenerationStarted(started))
            if !started.elided.is_empty() || started.history_left_out > 0 =>
        {
            fields.insert("step".into(), json!(started.step));
            fields.insert("elided".into(), json!(started.elided));
            fields.insert("history_left_out".into(), json!(started.history_left_out));
            fields.insert("history_left_out_reason".into(), json!(started.history_left_out_reason));
        }
        Some(event_leaf::Body::ToolIntent(intent)) => {
            fields.insert("call_id".into(), json!(intent.call_id));
            fields.insert("tool".into(), json!(intent.tool));
            fields.insert("arguments".into(), parsed(&content.arguments_json));
        }
        Some(event_leaf::Body::ToolReturned(returned)) => {
            fields.extend(results::fields(&returned, &content.tool_result.unwrap_or_default()));
        }
        Some(event_leaf::Body::AgentSealed(sealed)) => {
            fields.insert("descriptor_hash".into(), json!(sealed.descriptor_hash));
        }
        Some(event_leaf::Body::GenerationFailed(failed)) => {
            fields.insert("step".into(), json!(failed.step));
            fields.insert("attempt".into(), json!(failed.attempt));
            fields.insert("reason".into(), json!(failed.reason));
            fields.insert("retried".into(), json!(failed.retried));
            fields.insert("models".into(), json!(failed.models));
            fields.insert("failed_attempts".into(), json!(failed.failed_attempts));
            fields.insert("usage".into(), failed.usage.as_ref().map_or(Value::Null, usage));
        }
        Some(event_leaf::Body::AnswerRejected(rejected)) => {
            fields.insert("step".into(), json!(rejected.step));
            fields.insert("problems".into(), json!(content.problems));
        }
        Some(event_leaf::Body::SliceGranted(granted)) => fields.extend(slices::fields(&granted)),
        Some(body) => fields.extend(waiting::event_fields(&body, &content, &event.run)),
        None => {}
    }
    value
}

fn turn_fields(turn: &TurnCommitted) -> [(String, Value); 7] {
    [
        ("step".into(), json!(turn.step)),
        ("model".into(), json!(turn.model)),
        ("selection".into(), json!(turn.selection)),
        ("usage".into(), turn.usage.as_ref().map_or(Value::Null, usage)),
        ("tool_calls".into(), json!(turn.tool_calls)),
        ("failed_attempts".into(), json!(turn.failed_attempts)),
        ("translation_warnings".into(), json!(turn.translation_warnings)),
    ]
}

fn kind(body: Option<&event_leaf::Body>) -> &'static str {
    use event_leaf::Body;
    match body {
        Some(Body::RunAdmitted(_)) => "RUN_ADMITTED",
        Some(Body::RunClaimed(_)) => "RUN_CLAIMED",
        Some(Body::AgentSealed(_)) => "AGENT_SEALED",
        Some(Body::GenerationStarted(_)) => "GENERATION_STARTED",
        Some(Body::TurnCommitted(_)) => "TURN_COMMITTED",
        Some(Body::SummaryCommitted(_)) => "SUMMARY_COMMITTED",
        Some(Body::GenerationFailed(_)) => "GENERATION_FAILED",
        Some(Body::ToolIntent(_)) => "TOOL_INTENT",
        Some(Body::ToolReturned(_)) => "TOOL_RETURNED",
        Some(Body::AnswerRejected(_)) => "ANSWER_REJECTED",
        Some(Body::CountersRebuilt(_)) => "COUNTERS_REBUILT",
        Some(Body::CommitDelayed(_)) => "COMMIT_DELAYED",
        Some(Body::RunWaiting(_)) => "RUN_WAITING",
        Some(Body::RunResumed(_)) => "RUN_RESUMED",
        Some(Body::PauseRequested(_)) => "PAUSE_REQUESTED",
        Some(Body::ApprovalRequested(_)) => "APPROVAL_REQUESTED",
        Some(Body::ApprovalDecided(_)) => "APPROVAL_DECIDED",
        Some(Body::CallHandedOver(_)) => "CALL_HANDED_OVER",
        Some(Body::SliceGranted(_)) => "SLICE_GRANTED",
        Some(Body::DelegationIntent(_)) => "DELEGATION_INTENT",
        Some(Body::ChildEnded(_)) => "CHILD_ENDED",
        Some(Body::AllotmentRefilled(_)) => "ALLOTMENT_REFILLED",
        Some(Body::OriginRecalled(_)) => "ORIGIN_RECALLED",
        Some(Body::EventShared(_)) => "EVENT_SHARED",
        Some(Body::CallDoubted(_)) => "CALL_DOUBTED",
        Some(Body::CallProbed(_)) => "CALL_PROBED",
        Some(Body::StopRequested(_)) => "STOP_REQUESTED",
        Some(Body::RunEnded(_)) => "RUN_ENDED",
        None => "UNKNOWN",
    }
}

/// JSON text as JSON; text that is none as a string; none where it is empty.
fn parsed(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn citation(citation: &Citation) -> Value {
    let passage = citation.passage.clone().unwrap_or_default();
    json!({
        "passage_id": passage.passage_id,
        "document": passage.document,
        "title": passage.title,
        "quote": citation.quote,
        "quote_found": citation.quote_found,
    })
}

fn seal(seal: &RunSeal) -> Value {
    json!({
        "hash": seal.hash,
        "head": hex::encode(&seal.head),
        "head_seq": seal.head_seq,
        "outcome": seal.outcome,
        "key_id": seal.signature.as_ref().map(|signature| &signature.key_id),
    })
}

/// The seal of a session as JSON.
pub fn session_seal(seal: &SessionSeal) -> Value {
    json!({
        "hash": seal.hash,
        "runs": seal.runs,
        "run_seals": hex::encode(&seal.run_seals),
        "head": hex::encode(&seal.head),
        "head_seq": seal.head_seq,
        "key_id": seal.signature.as_ref().map(|signature| &signature.key_id),
    })
}

/// What was used, as JSON.
pub fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_nano_usd": usage.cost_nano_usd,
        "estimated": usage.estimated,
    })
}

fn policy(limits: &HaltingPolicy) -> Value {
    let seconds = |time: Option<prost_types::Duration>| time.map(|time| time.seconds);
    json!({
        "max_steps": limits.max_steps,
        "max_tool_calls": limits.max_tool_calls,
        "max_active_time_s": seconds(limits.max_active_time),
        "expire_after_s": seconds(limits.expire_after),
        "max_depth": limits.max_depth,
        "max_input_tokens": limits.max_input_tokens,
        "max_output_tokens": limits.max_output_tokens,
        "max_cost_nano_usd": limits.max_cost_nano_usd,
    })
}

/// RFC 3339, in UTC.
pub fn timestamp(time: &prost_types::Timestamp) -> String {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let format = &time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(nanos);
    time.ok().and_then(|time| time.format(format).ok()).unwrap_or_default()
}
