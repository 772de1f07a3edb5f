//! A committed event in one line.

use std::collections::BTreeSet;

use mar_proto::session::event_leaf::Body;
use mar_proto::session::{
    Event, EventContent, GenerationFailed, RunEnded, RunState, StopRequested, ToolIntent, ToolOutcome, ToolReturned,
    TurnCommitted, WaitReason,
};
use mar_proto::types::{HaltReason, Usage};

use super::children;
use crate::out::{Ink, one_line};
use crate::results;
use crate::slices;
use crate::summaries;
use crate::table::{count, span, usd};
use crate::{doubt, waiting};

/// The most of arguments and reasons that a line shows.
const SHOWN: usize = 160;

/// Warnings that people have read: each is worth one line in a run, although every turn repeats it.
#[derive(Debug, Default)]
pub struct Warned(BTreeSet<String>);

impl Warned {
    fn first_time(&mut self, warning: &str) -> bool {
        self.0.insert(warning.to_owned())
    }
}

/// What happened, or none for events that say nothing to people.
pub fn describe(event: &Event, warned: &mut Warned, ink: Ink) -> Option<String> {
    let leaf = event.body.as_ref()?;
    let none = EventContent::default();
    let content = event.content.as_ref().unwrap_or(&none);
    let text = match leaf.body.as_ref()? {
        Body::RunAdmitted(_) => format!("admitted   {}", event.run),
        Body::RunClaimed(claimed) => waiting::claimed(claimed, leaf.time),
        Body::AgentSealed(sealed) => format!("sealed     {}", sealed.descriptor_hash),
        Body::GenerationStarted(started) if started.repair => {
            format!("step {:<5} repairs the answer", started.step)
        }
        Body::GenerationStarted(started) => return summaries::started(started, ink),
        Body::SummaryCommitted(summary) => summaries::committed(summary, ink),
        Body::TurnCommitted(turn) => turn_committed(turn, warned, ink),
        Body::GenerationFailed(failed) => generation_failed(failed, ink),
        Body::ToolIntent(intent) => tool_intent(intent, content, ink),
        Body::ToolReturned(returned) => tool_returned(returned, content, ink),
        Body::AnswerRejected(rejected) => {
            let problems = one_line(&content.problems, SHOWN);
            format!("step {:<5} {} {problems}", rejected.step, ink.warn("the answer does not fit:"))
        }
        Body::CountersRebuilt(_) => "counters   were lost and have been rebuilt from the log".into(),
        Body::RunWaiting(parked) => waiting::parked(parked, &event.run, ink),
        Body::RunResumed(resumed) => waiting::resumed(resumed, leaf.time),
        Body::CommitDelayed(delayed) => waiting::delayed(delayed, ink),
        Body::PauseRequested(_) => ink.warn("is to pause"),
        Body::ApprovalRequested(asked) => waiting::asked(asked, &event.run, ink),
        Body::ApprovalDecided(decided) => waiting::decided(decided, content, ink),
        Body::CallHandedOver(handed) if handed.reason() == WaitReason::ChildRun => return None,
        Body::CallHandedOver(handed) => waiting::handed(handed, &event.run, ink),
        Body::SliceGranted(granted) => return slices::granted(granted, ink),
        Body::DelegationIntent(intent) => children::started(intent, content, &event.run, ink),
        Body::ChildEnded(ended) => children::ended(ended, ink),
        Body::AllotmentRefilled(refilled) => children::refilled(refilled, ink),
        Body::OriginRecalled(recalled) => {
            let what = format!("{} turns shared, {} results recorded", recalled.turns, recalled.recorded_calls);
            format!("  fork     {}", ink.name(&what))
        }
        Body::EventShared(_) => return None,
        Body::CallDoubted(doubted) => doubt::doubted(doubted, ink),
        Body::CallProbed(probed) => doubt::probed(probed, content, ink),
        Body::StopRequested(stop) => stop_requested(stop, ink),
        Body::RunEnded(ended) => run_ended(ended, ink),
    };
    Some(text)
}

fn turn_committed(turn: &TurnCommitted, warned: &mut Warned, ink: Ink) -> String {
    let usage = turn.usage.unwrap_or_default();
    let model = turn.model.strip_prefix("models/").unwrap_or(&turn.model);
    let spent = format!("{} in, {} out, {}", count(input(&usage)), count(output(&usage)), usd(usage.cost_nano_usd));
    let what = match turn.tool_calls {
        0 => "answers".to_owned(),
        1 => "asks for a tool".to_owned(),
        many => format!("asks for {many} tools"),
    };
    let mut text = format!("step {:<5} {} {what}  {}", turn.step, ink.name(&one_line(model, 60)), ink.dim(&spent));
    for attempt in &turn.failed_attempts {
        text.push_str(&format!("\n           after {}", ink.warn(&one_line(attempt, SHOWN))));
    }
    for warning in turn.translation_warnings.iter().filter(|warning| warned.first_time(warning)) {
        text.push_str(&format!("\n           {}", ink.dim(&one_line(warning, SHOWN))));
    }
    text
}

fn generation_failed(failed: &GenerationFailed, ink: Ink) -> String {
    let next = if failed.retried { ", tries again" } else { "" };
    let mut text = format!("step {:<5} {}{next}", failed.step, ink.warn(&one_line(&failed.reason, SHOWN)));
    for (at, attempt) in failed.failed_attempts.iter().enumerate() {
        // The router goes round its models; what came of one each time alike is told once.
        if failed.failed_attempts[..at].contains(attempt) {
            continue;
        }
        let times = failed.failed_attempts.iter().filter(|other| *other == attempt).count();
        let times = if times > 1 { format!(", {times} times") } else { String::new() };
        text.push_str(&format!("\n           after {}{times}", ink.warn(&one_line(attempt, SHOWN))));
    }
    text
}

fn tool_intent(intent: &ToolIntent, content: &EventContent, ink: Ink) -> String {
    let again = if intent.attempt > 1 { format!(" (attempt {})", intent.attempt) } else { String::new() };
    let name = tool_name(&intent.tool);
    format!("  calls    {} {}{again}", ink.name(&name), one_line(&content.arguments_json, SHOWN))
}

fn tool_returned(returned: &ToolReturned, content: &EventContent, ink: Ink) -> String {
    let took = span(std::time::Duration::from_millis(returned.duration_ms.try_into().unwrap_or_default()));
    let result = content.tool_result.as_ref();
    let mut facts = Vec::new();
    if let Some(result) = result.filter(|result| !result.passages.is_empty()) {
        let ids: Vec<_> = result.passages.iter().map(|passage| passage.passage_id.as_str()).collect();
        facts.push(one_line(&ids.join(", "), SHOWN));
    }
    facts.push(results::size(returned, result));
    facts.push(took);
    let failed = result.is_some_and(|result| result.is_error);
    let outcome = match returned.outcome() {
        ToolOutcome::Ok if !failed => ink.good("ok"),
        ToolOutcome::Ok => ink.warn("reports an error"),
        ToolOutcome::Denied => ink.bad("denied"),
        ToolOutcome::Unknown => ink.bad("outcome unknown"),
        ToolOutcome::NotSent => ink.warn("not sent"),
        ToolOutcome::Error | ToolOutcome::Unspecified => ink.bad("failed"),
    };
    let reason = match returned.reason.as_str() {
        "" => String::new(),
        reason => format!(" {}", one_line(reason, SHOWN)),
    };
    format!("  returned {outcome}{reason}  {}", ink.dim(&facts.join(", ")))
}

fn stop_requested(stop: &StopRequested, ink: Ink) -> String {
    let why = match stop.outcome() {
        RunState::Halted => halt(stop.halt_reason()),
        _ => stop.reason.to_lowercase().replace('_', " "),
    };
    format!("{} {}", ink.warn("stops:"), one_line(&why, SHOWN))
}

fn run_ended(ended: &RunEnded, ink: Ink) -> String {
    let state = state(ended.state());
    match ended.state() {
        RunState::Succeeded => ink.good(&state),
        RunState::Halted => format!("{} {}", ink.warn(&state), halt(ended.halt_reason())),
        _ => {
            let failure = ended.failure.clone().unwrap_or_default();
            format!("{} {}: {}", ink.bad(&state), failure.reason, one_line(&failure.message, SHOWN))
        }
    }
}

/// Input tokens of all classes.
pub fn input(usage: &Usage) -> i64 {
    usage.input_tokens.saturating_add(usage.cached_input_tokens).saturating_add(usage.cache_write_tokens)
}

/// Output tokens, reasoning included.
pub fn output(usage: &Usage) -> i64 {
    usage.output_tokens.saturating_add(usage.reasoning_tokens)
}

/// `tools/docs.search` as `docs.search`.
pub fn tool_name(tool: &str) -> String {
    let name = tool.strip_prefix("tools/").unwrap_or(tool);
    if name.is_empty() { "an unknown tool".to_owned() } else { one_line(name, 80) }
}

/// `SUCCEEDED`.
pub fn state(state: RunState) -> String {
    state.as_str_name().trim_start_matches("RUN_STATE_").to_owned()
}

/// `max steps`.
pub fn halt(reason: HaltReason) -> String {
    name(reason.as_str_name(), "HALT_REASON_")
}

pub(crate) fn name(constant: &str, prefix: &str) -> String {
    constant.trim_start_matches(prefix).to_lowercase().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use mar_proto::session::EventLeaf;
    use mar_proto::types::{Part, ToolResult, part};

    use super::*;

    fn event(body: Body, content: EventContent) -> Event {
        Event {
            body: Some(EventLeaf { body: Some(body), ..EventLeaf::default() }),
            content: Some(content),
            ..Event::default()
        }
    }

    #[test]
    fn a_call_shows_its_query() {
        let intent = ToolIntent { tool: "tools/docs.search".into(), ..ToolIntent::default() };
        let content = EventContent { arguments_json: "{\"query\":\"a\x1b[2J\"}".into(), ..EventContent::default() };
        let text = describe(&event(Body::ToolIntent(intent), content), &mut Warned::default(), Ink(false)).unwrap();
        assert_eq!(text, "  calls    docs.search {\"query\":\"a\u{fffd}[2J\"}");
    }

    #[test]
    fn a_denied_call_is_told_apart() {
        let mut returned = ToolReturned { reason: "POLICY_DENIED".into(), ..ToolReturned::default() };
        returned.set_outcome(ToolOutcome::Denied);
        let content = EventContent { tool_result: Some(ToolResult::default()), ..EventContent::default() };
        let text = describe(&event(Body::ToolReturned(returned), content), &mut Warned::default(), Ink(false)).unwrap();
        assert!(text.contains("denied POLICY_DENIED"), "{text}");
    }

    #[test]
    fn a_result_that_was_cut_is_told_apart() {
        let mut returned = ToolReturned { size_bytes: 100_000_000, ..ToolReturned::default() };
        returned.set_outcome(ToolOutcome::Ok);
        let kept = Part { content: Some(part::Content::Text("x".repeat(65_536))), ..Part::default() };
        let result = ToolResult { truncated: true, content: vec![kept], ..ToolResult::default() };
        let content = EventContent { tool_result: Some(result), ..EventContent::default() };
        let event = event(Body::ToolReturned(returned), content);
        let text = describe(&event, &mut Warned::default(), Ink(false)).unwrap();
        assert!(text.contains("ok  truncated to 64.0 KiB of 95.4 MiB, "), "{text}");
        let json = crate::report::event_json(&event);
        assert_eq!((&json["truncated"], &json["kept_bytes"]), (&true.into(), &65_536.into()));
    }

    #[test]
    fn an_end_says_why() {
        let mut ended = RunEnded::default();
        ended.set_state(RunState::Halted);
        ended.set_halt_reason(HaltReason::MaxSteps);
        let text = describe(&event(Body::RunEnded(ended), EventContent::default()), &mut Warned::default(), Ink(false))
            .unwrap();
        assert_eq!(text, "HALTED max steps");
    }

    #[test]
    fn attempts_that_came_to_the_same_are_told_once() {
        let failed_attempts = ["a: UNAVAILABLE (x)", "b: BROKEN (y)", "a: UNAVAILABLE (x)"].map(str::to_owned).to_vec();
        let reason = "PROVIDER_UNAVAILABLE".to_owned();
        let body = GenerationFailed { step: 3, reason, failed_attempts, retried: true, ..GenerationFailed::default() };
        let event = event(Body::GenerationFailed(body), EventContent::default());
        let text = describe(&event, &mut Warned::default(), Ink(false)).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let told = ["after a: UNAVAILABLE (x), 2 times", "after b: BROKEN (y)"];
        assert_eq!(lines, ["step 3     PROVIDER_UNAVAILABLE, tries again", told[0], told[1]]);
    }

    #[test]
    fn a_warning_is_told_once_in_a_run() {
        let turn = |step, warnings: &[&str]| {
            let translation_warnings = warnings.iter().map(|warning| (*warning).to_owned()).collect();
            Body::TurnCommitted(TurnCommitted { step, translation_warnings, ..TurnCommitted::default() })
        };
        let mut warned = Warned::default();
        let mut lines = |step, warnings| {
            let event = event(turn(step, warnings), EventContent::default());
            describe(&event, &mut warned, Ink(false)).unwrap().lines().count()
        };
        assert_eq!(lines(1, &["maxLength was dropped"]), 2);
        assert_eq!(lines(2, &["maxLength was dropped"]), 1);
        assert_eq!(lines(3, &["maxLength was dropped", "minLength was dropped"]), 2);
    }
}
