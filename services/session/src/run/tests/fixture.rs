//! Tasks, agents, turns and results.

use std::sync::LazyLock;

use mar_descriptor::{Descriptor, ModelRole, RolePrompt, Sampling};
use mar_proto::session::{
    Agent, BudgetScope, EventContent, EventShared, FinishReason, ParentRun, ReservationPrice, RunAdmitted, RunEnded,
    SliceGranted, Task, ToolOutcome, WaitReason, event_leaf::Body, event_shared,
};
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::{
    Doubt, Executor, HaltReason, HaltingPolicy, Message, OnBudget, OnUnknown, Part, Passage, Probe, Role,
    SealedDescriptor, ToolCall, ToolDefinition, ToolResult, Usage, part::Content,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::counters::{Amounts, Pool};
use crate::log::stamp;
use crate::run::{
    ApprovalWanted, CallReturn, Command, Event, FinishedTurn, Granted, Input, Lack, Probed, Reply, Resolution,
    Submission, error_result,
};

pub const RUN: Uuid = Uuid::from_u128(7);
pub const SESSION: Uuid = Uuid::from_u128(8);
pub const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
/// May be repeated, and changes nothing.
pub const SEARCH: &str = "tools/docs.search";
/// May not.
pub const SEND: &str = "tools/mail.send";
/// The caller makes it, and may not make it twice.
pub const PICK: &str = "tools/caller.pick";
/// Starts child runs.
pub const DELEGATE: &str = "tools/runtime.delegate";
/// May not be repeated, but asked about; what nobody knows the model is told.
pub const BOOK: &str = "tools/desk.book";
/// May not be repeated, but asked about; what nobody knows a human decides.
pub const PAY: &str = "tools/bank.pay";
/// May not be repeated nor asked about; a human decides.
pub const WIRE: &str = "tools/bank.wire";
/// Output tokens of one generation.
pub const MAX_OUTPUT: i64 = 100;
/// Output tokens of one summary.
pub const SUMMARY_OUTPUT: i64 = 40;
/// A passage that comes with a long result.
pub const LONG: &str = "b#2";

const SCHEMA: &str =
    r#"{"type":"object","required":["answer"],"properties":{"answer":{"type":"string"},"citations":{"type":"array"}}}"#;

/// Limits that stop nothing in a short run.
pub fn roomy() -> HaltingPolicy {
    HaltingPolicy {
        max_steps: Some(16),
        max_tool_calls: Some(64),
        max_active_time: Some(seconds(60)),
        expire_after: Some(seconds(600)),
        max_depth: Some(0),
        max_input_tokens: Some(10_000_000),
        max_output_tokens: Some(1_000_000),
        max_cost_nano_usd: Some(1_000_000_000_000),
        on_budget: OnBudget::Halt.into(),
    }
}

pub fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

pub fn admitted(limits: HaltingPolicy) -> Event {
    admitted_on(limits, &[])
}

/// A run that draws on these budgets.
pub fn admitted_on(limits: HaltingPolicy, budgets: &[BudgetScope]) -> Event {
    let life = Duration::seconds(limits.expire_after.as_ref().map_or(0, |after| after.seconds));
    let body = RunAdmitted {
        session: format!("sessions/{SESSION}"),
        task_type: "answer".to_owned(),
        environment: "dev".to_owned(),
        limits: Some(limits),
        expire_time: Some(stamp(START + life)),
        history_through: String::new(),
        budgets: budgets.iter().map(|scope| (*scope).into()).collect(),
        parent: None,
        fork: None,
    };
    let content =
        EventContent { task: Some(Task::default()), principal: "user:ada".to_owned(), ..EventContent::default() };
    Event { time: START, body: Body::RunAdmitted(body), content, counted_seq: None, command: None }
}

/// The first event of a child run, which may draw from this pool.
pub fn admitted_child(limits: HaltingPolicy, pool: Pool, ceiling: Amounts) -> Event {
    let mut event = admitted(limits);
    if let Body::RunAdmitted(body) = &mut event.body {
        body.parent = Some(ParentRun {
            run: pool.parent.to_string(),
            root: pool.parent.to_string(),
            call_id: format!("{}/1/0", pool.parent),
            intent_seq: pool.seq,
            index: 0,
            depth: 1,
            pool_seq: pool.seq,
            pool_nonce: pool.nonce,
            ceiling: Some(ceiling.to_reservation()),
            tainted: false,
            descriptor_hash: String::new(),
        });
    }
    event
}

/// What an answer of the agent has to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Prose,
    Schema,
}

pub fn agent(form: Form) -> Agent {
    static BOTH: LazyLock<[Agent; 2]> = LazyLock::new(|| [synthesised(Form::Prose), synthesised(Form::Schema)]);
    BOTH[usize::from(form == Form::Schema)].clone()
}

fn synthesised(form: Form) -> Agent {
    let mut descriptor = Descriptor::default();
    let sampling = Sampling { max_output_tokens: MAX_OUTPUT, ..Sampling::default() };
    descriptor.model.roles.insert("reason".to_owned(), ModelRole { sampling, ..ModelRole::default() });
    let sampling = Sampling { max_output_tokens: SUMMARY_OUTPUT, ..Sampling::default() };
    descriptor.model.roles.insert("summarise".to_owned(), ModelRole { sampling, ..ModelRole::default() });
    descriptor.prompt.roles.insert("summarise".to_owned(), RolePrompt::new("sum it up"));
    descriptor.prompt.output_schema = (form == Form::Schema).then(|| SCHEMA.to_owned());
    let sealed = SealedDescriptor {
        hash: descriptor.hash().unwrap().to_string(),
        canonical: descriptor.canonical().unwrap().into(),
        signatures: Vec::new(),
    };
    Agent {
        descriptor: Some(sealed),
        prompt: vec![message(Role::System, [text("be brief")]), message(Role::User, [text("what is it?")])],
        tools: vec![
            tool(SEARCH, true),
            tool(SEND, false),
            tool(PICK, false),
            tool(DELEGATE, false),
            in_doubt(BOOK, true, OnUnknown::TellModel),
            in_doubt(PAY, true, OnUnknown::AskHuman),
            in_doubt(WIRE, false, OnUnknown::AskHuman),
        ],
        price: Some(ReservationPrice { input_per_million: 3_000_000_000, output_per_million: 15_000_000_000 }),
        context_tokens: 0,
    }
}

/// An agent whose models read and write so many tokens at once.
pub fn agent_of_window(form: Form, context_tokens: i64) -> Agent {
    Agent { context_tokens, ..agent(form) }
}

fn tool(name: &str, idempotent: bool) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        alias: name.replace(['/', '.'], "_"),
        description: "a tool".to_owned(),
        input_schema_json: r#"{"type":"object"}"#.to_owned(),
        definition_hash: format!("sha256:{name}"),
        idempotent,
        read_only: name == SEARCH,
        executor: match name {
            PICK => Executor::Caller,
            DELEGATE => Executor::Runtime,
            _ => Executor::Unspecified,
        }
        .into(),
        ..ToolDefinition::default()
    }
}

fn in_doubt(name: &str, probed: bool, on_unknown: OnUnknown) -> ToolDefinition {
    let probe = Probe {
        tool: format!("{name}-status"),
        definition_hash: "sha256:status".to_owned(),
        key_argument: "key".to_owned(),
        settles_after_ms: 0,
    };
    let doubt = Doubt {
        probe: probed.then_some(probe),
        on_unknown: on_unknown.into(),
        group: "office".to_owned(),
        expires_after_ms: if on_unknown == OnUnknown::AskHuman { 60_000 } else { 0 },
    };
    ToolDefinition { doubt: Some(doubt), ..tool(name, false) }
}

/// What a probe says; it was asked once.
pub fn probed(call_id: &str, attempt: i64, answer: ProbeAnswer) -> Input {
    let said = ToolResult { content: vec![text(answer.as_str_name())], ..ToolResult::default() };
    Input::Probed(Box::new(Probed {
        call_id: call_id.to_owned(),
        attempt,
        answer,
        reason: String::new(),
        result: ToolResult { content: vec![text("done before")], ..ToolResult::default() },
        evidence: Some(said),
        asked: 1,
        decision_json: r#"{"verdict":"allow"}"#.to_owned(),
        policy_hashes: vec!["sha256:p".to_owned()],
        duration_ms: 1,
    }))
}

pub fn message(role: Role, parts: impl IntoIterator<Item = Part>) -> Message {
    Message { role: role.into(), parts: parts.into_iter().collect() }
}

pub fn text(text: &str) -> Part {
    Part { content: Some(Content::Text(text.to_owned())), ..Part::default() }
}

/// A part that asks for a tool.
pub fn ask(tool: &str, provider_call_id: &str) -> Part {
    let call = ToolCall {
        provider_call_id: provider_call_id.to_owned(),
        tool: tool.to_owned(),
        arguments_json: format!(r#"{{"q":"{provider_call_id}"}}"#),
        ..ToolCall::default()
    };
    Part { content: Some(Content::ToolCall(call)), ..Part::default() }
}

/// A part that hands these tasks to child runs.
pub fn hand_out(provider_call_id: &str, tasks: &[&str]) -> Part {
    let mut part = ask(DELEGATE, provider_call_id);
    if let Some(Content::ToolCall(call)) = &mut part.content {
        call.arguments_json = serde_json::json!({"tasks": tasks}).to_string();
    }
    part
}

/// An answer in the schema's form that cites these passages.
pub fn cited_answer(passages: &[&str]) -> String {
    quoting_answer(passages, "q")
}

/// One that quotes these words of each.
pub fn quoting_answer(passages: &[&str], quote: &str) -> String {
    let citations: Vec<_> = passages.iter().map(|id| serde_json::json!({"passage_id": id, "quote": quote})).collect();
    serde_json::json!({"answer": "42", "citations": citations}).to_string()
}

pub fn usage(input_tokens: i64, output_tokens: i64) -> Usage {
    Usage {
        input_tokens,
        output_tokens,
        cost_nano_usd: input_tokens * 3_000 + output_tokens * 15_000,
        ..Usage::default()
    }
}

pub fn finished(step: i64, attempt: i64, parts: Vec<Part>, usage: Usage) -> FinishedTurn {
    FinishedTurn {
        step,
        attempt,
        message: message(Role::Assistant, parts),
        model: "models/m".to_owned(),
        selection: "cheapest".to_owned(),
        usage,
        finish_reason: FinishReason::Stop,
        translation_warnings: Vec::new(),
        failed_attempts: Vec::new(),
    }
}

/// A turn that used 50 and 10 tokens.
pub fn turn(step: i64, attempt: i64, parts: Vec<Part>) -> Input {
    Input::Turn(Box::new(finished(step, attempt, parts, usage(50, 10))))
}

pub fn call_id(step: i64, index: i64) -> String {
    format!("{RUN}/{step}/{index}")
}

/// A call that came back with a passage where it is fine.
pub fn returned(call_id: &str, attempt: i64, outcome: ToolOutcome, passage: &str) -> Input {
    let result = if outcome == ToolOutcome::Ok {
        let found = Passage { passage_id: passage.to_owned(), ..Passage::default() };
        let passages = if passage.is_empty() { Vec::new() } else { vec![found] };
        let words = if passage == LONG { "found ".repeat(300) } else { "found".to_owned() };
        ToolResult { content: vec![Part { tainted: true, ..text(&words) }], passages, ..ToolResult::default() }
    } else {
        error_result("it failed")
    };
    Input::Returned(Box::new(CallReturn {
        call_id: call_id.to_owned(),
        attempt,
        outcome,
        reason: if outcome == ToolOutcome::Ok { String::new() } else { "UPSTREAM_FAILED".to_owned() },
        result,
        decision_json: r#"{"verdict":"allow"}"#.to_owned(),
        policy_hashes: vec!["sha256:p".to_owned()],
        recorded: false,
        size_bytes: 5,
        duration_ms: 1,
    }))
}

/// A call that two people have to agree to within a minute.
pub fn wanted(call_id: &str, attempt: i64) -> Input {
    Input::ApprovalWanted(Box::new(ApprovalWanted {
        call_id: call_id.to_owned(),
        attempt,
        digest: "sha256:d".to_owned(),
        message: "mail leaves the house".to_owned(),
        group: "office".to_owned(),
        needed: 2,
        expires_after: Duration::seconds(60),
        decision_json: r#"{"verdict":"require_approval"}"#.to_owned(),
        policy_hashes: vec!["sha256:p".to_owned()],
    }))
}

pub fn command(id: u128, command: Command) -> Input {
    Input::Commanded { id: Uuid::from_u128(id), command }
}

/// A decision of `user:{who}` on the approval.
pub fn resolve(id: u128, approval: &str, who: &str, approved: bool) -> Input {
    command(
        id,
        Command::Resolve(Resolution {
            approval: approval.to_owned(),
            digest: "sha256:d".to_owned(),
            approved,
            principal: format!("user:{who}"),
            comment: "as agreed".to_owned(),
        }),
    )
}

pub fn handed(call_id: &str, attempt: i64, reason: WaitReason) -> Input {
    let decision_json = r#"{"verdict":"allow"}"#.to_owned();
    Input::HandedOver { call_id: call_id.to_owned(), attempt, reason, decision_json, policy_hashes: Vec::new() }
}

pub fn result_of_caller(call_id: &str) -> Command {
    let result = ToolResult { call_id: call_id.to_owned(), content: vec![text("done")], ..ToolResult::default() };
    Command::ToolResult(Box::new(Submission { result, principal: "user:ada".to_owned(), ..Submission::default() }))
}

pub fn reply(call_id: &str, words: &str) -> Command {
    let (call_id, principal) = (call_id.to_owned(), "user:ada".to_owned());
    Command::Input(Reply { call_id, parts: vec![text(words)], principal })
}

/// What a budget grants of what was asked for.
pub fn granted(lack: &Lack, cost_nano_usd: i64) -> Input {
    let slice = SliceGranted {
        scope: lack.scope.into(),
        slice: format!("{:?}-{}", lack.scope, lack.number),
        day: -1,
        cost_nano_usd,
        runs: lack.runs,
        crossed: Vec::new(),
    };
    Input::Granted(Box::new(Granted { number: lack.number, slice }))
}

/// One word for an event, for sequences that are read.
pub fn word(event: &Event) -> String {
    match &event.body {
        Body::RunAdmitted(_) => "Admitted".to_owned(),
        Body::RunClaimed(claimed) => format!("Claimed({})", claimed.epoch),
        Body::AgentSealed(_) => "Sealed".to_owned(),
        Body::GenerationStarted(started) if started.history => {
            format!("Looking back({}.{})", started.step, started.attempt)
        }
        Body::GenerationStarted(started) if started.role == "summarise" => {
            format!("Summing({}.{})", started.step, started.attempt)
        }
        Body::GenerationStarted(started) => format!("Started({}.{})", started.step, started.attempt),
        Body::TurnCommitted(turn) => format!("Turn({}.{})", turn.step, turn.attempt),
        Body::SummaryCommitted(summary) if summary.history => {
            format!("Looked back({}.{})", summary.step, summary.attempt)
        }
        Body::SummaryCommitted(summary) => format!("Summary({}.{})", summary.step, summary.attempt),
        Body::GenerationFailed(failed) => format!("Failed({}.{} {})", failed.step, failed.attempt, failed.reason),
        Body::ToolIntent(intent) => format!("Intent({}.{})", place(&intent.call_id), intent.attempt),
        Body::ToolReturned(back) => {
            format!("Returned({} {})", place(&back.call_id), short(back.outcome().as_str_name(), "TOOL_OUTCOME_"))
        }
        Body::AnswerRejected(rejected) => format!("Rejected({})", rejected.problems),
        Body::CountersRebuilt(rebuilt) => format!("Rebuilt({})", rebuilt.found_seq),
        Body::RunWaiting(_) => "Waiting".to_owned(),
        Body::RunResumed(_) => "Resumed".to_owned(),
        Body::StopRequested(_) => "Stop".to_owned(),
        Body::CommitDelayed(_) => "Delayed".to_owned(),
        Body::PauseRequested(_) => "PauseRequested".to_owned(),
        Body::ApprovalRequested(asked) => format!("Asked({})", asked.approval),
        Body::ApprovalDecided(decided) => {
            format!("Decided({} {})", decided.approval, short(decided.state().as_str_name(), "APPROVAL_STATE_"))
        }
        Body::CallHandedOver(handed) => format!("Handed({})", place(&handed.call_id)),
        Body::SliceGranted(granted) => {
            format!("Slice({} {})", short(granted.scope().as_str_name(), "BUDGET_SCOPE_"), granted.cost_nano_usd)
        }
        Body::DelegationIntent(intent) => format!("Delegated({} {})", place(&intent.call_id), intent.children.len()),
        Body::ChildEnded(ended) => format!("ChildEnded({})", short(ended.state().as_str_name(), "RUN_STATE_")),
        Body::AllotmentRefilled(_) => "Refilled".to_owned(),
        Body::OriginRecalled(recalled) => format!("Recalled({} {})", recalled.turns, recalled.recorded_calls),
        Body::EventShared(shared) => word_shared(shared),
        Body::CallDoubted(doubted) => format!("Doubted({}.{})", place(&doubted.call_id), doubted.attempt),
        Body::CallProbed(probed) => {
            format!("Probed({} {})", place(&probed.call_id), short(probed.answer().as_str_name(), "PROBE_ANSWER_"))
        }
        Body::RunEnded(ended) => word_of_end(ended),
    }
}

fn word_shared(shared: &EventShared) -> String {
    match &shared.body {
        Some(event_shared::Body::Turn(turn)) => format!("Shared(turn {})", turn.step),
        Some(event_shared::Body::Result(back)) => format!("Shared(result {})", place(&back.call_id)),
        Some(event_shared::Body::Summary(summary)) => format!("Shared(summary {})", summary.step),
        _ => "Shared(rejection)".to_owned(),
    }
}

fn word_of_end(ended: &RunEnded) -> String {
    let state = short(ended.state().as_str_name(), "RUN_STATE_");
    let why = match (&ended.failure, ended.halt_reason()) {
        (failure, HaltReason::Unspecified) => failure.as_ref().map_or("", |failure| &failure.reason),
        (_, reason) => short(reason.as_str_name(), "HALT_REASON_"),
    };
    if why.is_empty() { format!("Ended({state})") } else { format!("Ended({state} {why})") }
}

fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.trim_start_matches(prefix)
}

/// `{step}/{index}` of a call id.
fn place(call_id: &str) -> &str {
    call_id.split_once('/').map_or(call_id, |(_, place)| place)
}
