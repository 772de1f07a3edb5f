//! Model providers behind one trait: what a call is, what comes back, and how it can fail.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use mar_descriptor::Sampling;
use mar_proto::types::Part;

use crate::catalogue::Model;
use crate::price::Tokens;
use crate::prompt::Prompt;

pub mod credential;
pub mod http;
pub mod openai;
pub mod pool;

/// One attempt of one model.
#[derive(Clone, Debug)]
pub struct Call {
    /// The model.
    pub model: Arc<Model>,
    /// What to generate from.
    pub prompt: Arc<Prompt>,
    /// How answers are sampled.
    pub sampling: Sampling,
    /// The most that the answer may have, in tokens, reasoning included.
    pub max_output_tokens: i64,
    /// Whether deltas are wanted.
    pub delivery: Delivery,
}

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// In one piece.
    Whole,
    /// With deltas, where the model streams.
    Streamed,
}

/// What happens while a model answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The model has begun to write; another model must not take over from here on.
    Began,
    /// A piece of the answer.
    Delta(Delta),
    /// The finished answer, always the last event.
    Finished(Box<Answer>),
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Index of the part within the answer.
    pub part: usize,
    /// Where in the part the piece begins, in bytes.
    pub offset: usize,
    /// What the part is.
    pub kind: DeltaKind,
    /// The piece.
    pub text: String,
}

/// What a delta is a piece of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaKind {
    /// The answer.
    Text,
    /// Reasoning.
    Reasoning,
    /// A tool call's arguments.
    ToolArguments,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Text, reasoning and tool calls in the model's order.
    pub parts: Vec<Part>,
    /// Why the model stopped.
    pub finish: Finish,
    /// What the provider says was used; none when it says nothing.
    pub tokens: Option<Tokens>,
    /// What translation dropped or changed.
    pub warnings: Vec<String>,
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It had said everything.
    Stop,
    /// It waits for tools.
    ToolCalls,
    /// It reached the most that it may write.
    Length,
    /// Its provider withheld the rest.
    ContentFilter,
}

impl Finish {
    /// The name in turns.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::ToolCalls => "TOOL_CALLS",
            Self::Length => "LENGTH",
            Self::ContentFilter => "CONTENT_FILTER",
        }
    }
}

/// Why an attempt failed. The detail is the router's own text: nothing that a provider sent is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// What to do about it.
    pub class: FailureClass,
    /// What happened, for people.
    pub detail: String,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Whether the provider may have read the input all the same, so that it counts as used.
    pub consumed: Consumed,
}

/// What a failed attempt may have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumed {
    /// The provider turned it away.
    Nothing,
    /// The provider may have read the input.
    Input,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// 401, 402, 403, or no credential: the provider is dead to us until somebody acts.
    Credential,
    /// 429: back off.
    RateLimited,
    /// 400, 404, 422 and the like: the same request never succeeds.
    Refused,
    /// 5xx, no connection, no byte in time: try again or elsewhere.
    Unavailable,
    /// An answer that is not in the provider's format, or broke off.
    Broken,
}

impl FailureClass {
    /// The name in turns and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "CREDENTIAL",
            Self::RateLimited => "RATE_LIMITED",
            Self::Refused => "REFUSED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Broken => "BROKEN",
        }
    }
}

impl Failure {
    /// A failure after which the provider has used nothing.
    pub fn new(class: FailureClass, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into(), retry_after: None, consumed: Consumed::Nothing }
    }

    /// The provider's answer is not its format, or broke off.
    pub fn broken(detail: impl Into<String>) -> Self {
        Self { consumed: Consumed::Input, ..Self::new(FailureClass::Broken, detail) }
    }

    /// The provider did not answer in time and may have worked all the same.
    pub fn silent(detail: impl Into<String>) -> Self {
        Self { consumed: Consumed::Input, ..Self::new(FailureClass::Unavailable, detail) }
    }
}

/// The events of one attempt. Dropping it closes the connection.
pub type Events = BoxStream<'static, Result<Event, Failure>>;

/// A model provider.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// Begins an attempt. An error here came before any output.
    ///
    /// # Errors
    /// [`Failure`] with what to do about it.
    async fn generate(&self, call: Call) -> Result<Events, Failure>;

    /// What is wrong with the credential, if anything.
    fn credential_problem(&self) -> Option<credential::Problem>;

    /// Where it answers, as `host:port`, if that is on this machine. An address within somebody's network is told to nobody.
    fn own_address(&self) -> Option<&str>;

    /// Whether it answers at this moment. None where it asks for a credential: nobody is called for a mere look who may count
    /// calls or take the key amiss.
    async fn look(&self) -> Option<Result<(), Failure>>;

    /// The texts that the model reads beyond the conversation's own, for counting: how tools and schemas are told.
    fn told(&self, model: &Model, prompt: &Prompt) -> Vec<String>;
}
