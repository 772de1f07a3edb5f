//! Child runs in words.

use mar_proto::session::{
    AllotmentRefilled, ChildEnded, DelegationIntent, DelegationMode, EventContent, Reservation, RunState,
};
use mar_proto::types::part::Content;

use crate::out::{Ink, one_line};
use crate::table::{count, usd};

/// Characters of a task that are shown.
const SHOWN: usize = 100;

/// A call that starts child runs.
pub fn started(intent: &DelegationIntent, content: &EventContent, run: &str, ink: Ink) -> String {
    let what = match intent.mode() {
        DelegationMode::BestOf => "the best answer of",
        DelegationMode::Vote => "a vote of",
        DelegationMode::All | DelegationMode::Unspecified => "the answers of",
    };
    let mut text = format!("delegates  for {what} {} sub-agents", intent.children.len());
    let session = run.split_once("/runs/").map_or(run, |(session, _)| session);
    let tasks = content.child_tasks.iter().flat_map(|tasks| &tasks.tasks);
    let mut tasks = tasks.map(|task| match task.input.first().and_then(|part| part.content.as_ref()) {
        Some(Content::Text(text)) => one_line(text, SHOWN),
        _ => String::new(),
    });
    for child in &intent.children {
        let name = format!("{session}/runs/{}", child.run);
        text.push_str(&format!("\n           {} {}", ink.name(&name), ink.dim(&tasks.next().unwrap_or_default())));
    }
    text
}

/// A child run that has ended.
pub fn ended(ended: &ChildEnded, ink: Ink) -> String {
    let used = ended.used.unwrap_or_default();
    let state = ended.state().as_str_name().trim_start_matches("RUN_STATE_");
    let why = match (&ended.failure, ended.state()) {
        (_, RunState::Halted) => ended.halt_reason().as_str_name().trim_start_matches("HALT_REASON_").to_owned(),
        (Some(failure), _) => one_line(&failure.reason, SHOWN),
        (None, _) => String::new(),
    };
    let fine = ended.state() == RunState::Succeeded;
    let state = if fine { state.to_owned() } else { ink.warn(format!("{state} {why}").trim_end()) };
    format!("sub-agent  {} {state}  {}", ended.run, ink.dim(&spent(&used)))
}

/// A child run that draws on its parent.
pub fn refilled(refilled: &AllotmentRefilled, ink: Ink) -> String {
    format!("refilled   from its parent  {}", ink.dim(&spent(&refilled.drawn.unwrap_or_default())))
}

fn spent(amounts: &Reservation) -> String {
    format!(
        "{} steps, {} in, {} out, {}",
        amounts.steps,
        count(amounts.input_tokens),
        count(amounts.output_tokens),
        usd(amounts.cost_nano_usd)
    )
}
