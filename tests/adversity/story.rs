//! Reading a run's events.

use std::future::Future;
use std::time::Duration;

use mar_proto::session::event_leaf::Body;
use mar_proto::session::{Event, Run, RunState};
use mar_proto::types::part::Content;
use mar_proto::types::{HaltReason, ToolResult};
use mar_testkit::wait;
use mar_tests::{Client, client};

/// Longer than anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The bodies of events.
pub fn bodies<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<Body> {
    events.into_iter().filter_map(|event| event.body.clone()?.body).collect()
}

/// The names of events.
pub fn names<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<&'static str> {
    events.into_iter().map(client::name_of).collect()
}

/// The reasons of generations that failed.
pub fn failures(bodies: &[Body]) -> Vec<(String, bool)> {
    let failed = bodies.iter().filter_map(|body| match body {
        Body::GenerationFailed(failed) => Some((failed.reason.clone(), failed.retried)),
        _ => None,
    });
    failed.collect()
}

/// How many generations were reserved, each with a reservation of its own.
pub fn reservations(bodies: &[Body]) -> usize {
    let reserved = |body: &&Body| matches!(body, Body::GenerationStarted(begun) if begun.reservation.is_some());
    bodies.iter().filter(reserved).count()
}

/// What tool calls gave: outcome, reason and size.
pub fn returns(bodies: &[Body]) -> Vec<(String, String, i64)> {
    let returned = bodies.iter().filter_map(|body| match body {
        Body::ToolReturned(back) => Some((
            back.outcome().as_str_name().trim_start_matches("TOOL_OUTCOME_").to_owned(),
            back.reason.clone(),
            back.size_bytes,
        )),
        _ => None,
    });
    returned.collect()
}

/// What the model was told of tool calls.
pub fn results<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<ToolResult> {
    events.into_iter().filter_map(|event| event.content.clone()?.tool_result).collect()
}

/// The text of a result.
pub fn text(result: &ToolResult) -> String {
    let texts = result.content.iter().filter_map(|part| match &part.content {
        Some(Content::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// A run's end in words: the state, and its reason where it has one.
pub fn end(run: &Run) -> String {
    let state = run.state().as_str_name().trim_start_matches("RUN_STATE_").to_owned();
    let halt = run.halt_reason();
    if halt != HaltReason::Unspecified {
        return format!("{state} {}", halt.as_str_name().trim_start_matches("HALT_REASON_"));
    }
    match &run.failure {
        Some(failure) => format!("{state} {}", failure.reason),
        None => state,
    }
}

/// Looks at a run until it is as wanted.
pub async fn until(client: &Client, name: &str, holds: impl Fn(&Run) -> bool) -> anyhow::Result<Run> {
    let look = || async {
        let run = client.clone().get(name).await.ok()?;
        holds(&run).then_some(run)
    };
    match wait::until_some(PATIENCE, look).await {
        Ok(run) => Ok(run),
        Err(overdue) => anyhow::bail!("{overdue}: {:#?}", client.clone().get(name).await),
    }
}

/// Looks until a condition holds.
pub async fn when<F: Future<Output = bool>>(holds: impl FnMut() -> F) -> anyhow::Result<()> {
    Ok(wait::until(PATIENCE, holds).await?)
}

/// Whether a run is over.
pub fn is_over(run: &Run) -> bool {
    run.state() as i32 >= RunState::Succeeded as i32
}
