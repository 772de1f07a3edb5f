//! What tests read out of runs, events and requests.

use std::path::PathBuf;

use anyhow::Context as _;
use mar_proto::session::run_frame::Frame;
use mar_proto::session::{Event, EventContent, RunFrame, event_leaf::Body};
use mar_proto::types::{ErrorReason, Passage, ToolResult};
use mar_tests::Followed;
use tonic::Status;

/// What an event says.
pub fn body(event: &Event) -> Option<&Body> {
    event.body.as_ref()?.body.as_ref()
}

/// Contents of the events, in order.
pub fn contents(followed: &Followed) -> impl Iterator<Item = &EventContent> {
    followed.events().into_iter().filter_map(|event| event.content.as_ref())
}

/// Tool results of a run, in order.
pub fn results(followed: &Followed) -> Vec<&ToolResult> {
    contents(followed).filter_map(|content| content.tool_result.as_ref()).collect()
}

/// Passages that a run received.
pub fn passages(followed: &Followed) -> Vec<&Passage> {
    results(followed).into_iter().flat_map(|result| &result.passages).collect()
}

/// The sealed descriptor of a run, as JSON.
pub fn descriptor(followed: &Followed) -> anyhow::Result<serde_json::Value> {
    let agent = contents(followed).find_map(|content| content.agent.as_ref()).context("no agent was sealed")?;
    let sealed = agent.descriptor.as_ref().context("the agent has no descriptor")?;
    Ok(serde_json::from_slice(&sealed.canonical)?)
}

/// The model's answers by name of the model.
pub fn models(followed: &Followed) -> Vec<&str> {
    let turns = followed.events().into_iter().filter_map(|event| match body(event) {
        Some(Body::TurnCommitted(turn)) => Some(turn.model.as_str()),
        _ => None,
    });
    turns.collect()
}

/// Why each turn's model was chosen.
pub fn selections(followed: &Followed) -> Vec<&str> {
    let turns = followed.events().into_iter().filter_map(|event| match body(event) {
        Some(Body::TurnCommitted(turn)) => Some(turn.selection.as_str()),
        _ => None,
    });
    turns.collect()
}

/// The position of the first frame that fits.
pub fn position(frames: &[RunFrame], fits: impl Fn(&Frame) -> bool) -> Option<usize> {
    frames.iter().position(|frame| frame.frame.as_ref().is_some_and(&fits))
}

/// The numbers of the events among frames.
pub fn seqs(frames: &[RunFrame]) -> Vec<i64> {
    let seqs = frames.iter().filter_map(|frame| match &frame.frame {
        Some(Frame::Event(event)) => Some(event.seq),
        _ => None,
    });
    seqs.collect()
}

/// Why a call was refused.
pub fn reason(status: &Status) -> Option<ErrorReason> {
    mar_runtime::status::Reason::of(status)
}

/// A program under `.tools`, or nothing where it is not installed and need not be.
///
/// # Panics
/// With `MAR_REQUIRE_TOOLS=1`, when it is missing.
pub fn tool(path: &str) -> Option<PathBuf> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.tools").join(path);
    if let Ok(found) = file.canonicalize() {
        return Some(found);
    }
    let required = std::env::var_os("MAR_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "{} is missing: run scripts/install-tools.sh", file.display());
    eprintln!("skipped: {path} is not installed; scripts/install-tools.sh installs it");
    None
}

/// The name of what happened in an event.
pub fn name(event: &Event) -> &'static str {
    mar_tests::client::name_of(event)
}
