//! What a call to an upstream gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mar_proto::tool::Dispatch;
use mar_proto::types::{Origin, Part, Passage, part};
use serde_json::{Map, Value};

/// One call on its way to an upstream.
#[derive(Clone, Debug)]
pub struct Call {
    /// The tool's name at the upstream.
    pub tool: String,
    /// The arguments, checked against the schema.
    pub arguments: Map<String, Value>,
    /// Stable over retries.
    pub idempotency_key: String,
    /// W3C trace context: `traceparent` and `tracestate`, as far as there is one.
    pub trace: Vec<(&'static str, String)>,
    /// Whether the call has left the gateway.
    pub sent: Sent,
}

/// Remembers how far a call has got. "Has left" is set before the first byte goes, so "no" is certain and "yes" is not.
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    left: AtomicBool,
    too_large: AtomicBool,
}

impl Sent {
    /// The call is about to leave.
    pub fn mark(&self) {
        self.0.left.store(true, Ordering::Release);
    }

    /// The answer came, and was larger than is read.
    pub fn mark_too_large(&self) {
        self.0.too_large.store(true, Ordering::Release);
    }

    /// Whether the answer was larger than is read.
    pub fn is_too_large(&self) -> bool {
        self.0.too_large.load(Ordering::Acquire)
    }

    /// How far a call got that brought no answer.
    pub fn dispatch(&self) -> Dispatch {
        if self.0.left.load(Ordering::Acquire) { Dispatch::Unknown } else { Dispatch::NotSent }
    }
}

/// What a tool answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// What the model sees.
    pub parts: Vec<Part>,
    /// What an answer may cite.
    pub passages: Vec<Passage>,
    /// Whether the tool reports an error of its own.
    pub is_error: bool,
    /// Its size in bytes, before anything was dropped or cut.
    pub size: usize,
    /// Whether something was dropped or cut.
    pub truncated: bool,
}

/// Why no answer came. The names are those of the API's `Failed.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The upstream is down, restarting or busy.
    Unavailable,
    /// Time was up.
    Timeout,
    /// The upstream broke off, or answered with something that is not its protocol.
    Broken,
    /// The answer was larger than is read.
    TooLarge,
}

impl Reason {
    /// The reason's name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "UPSTREAM_UNAVAILABLE",
            Self::Timeout => "TIMEOUT",
            Self::Broken => "UPSTREAM_BROKEN",
            Self::TooLarge => "RESULT_TOO_LARGE",
        }
    }
}

/// No answer came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// What the model is told, without payloads.
    pub message: String,
    /// Whether the call may have had an effect.
    pub dispatch: Dispatch,
}

impl Failure {
    /// A failure.
    pub fn new(reason: Reason, dispatch: Dispatch, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), dispatch }
    }
}

/// A part of text by a tool.
pub fn tool_text(text: impl Into<String>) -> Part {
    Part { content: Some(part::Content::Text(text.into())), origin: Origin::Tool.into(), tainted: false }
}

/// A remark of the gateway's for the model.
pub fn note(text: impl Into<String>) -> Part {
    Part { content: Some(part::Content::Text(text.into())), origin: Origin::Platform.into(), tainted: false }
}
