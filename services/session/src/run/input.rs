//! What reaches a run from outside, whole and with its time.

use mar_proto::session::Agent;
use mar_proto::session::{FinishReason, ToolOutcome};
use mar_proto::types::{Message, ToolResult, Usage};
use time::OffsetDateTime;

/// An input and when it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// By the executor's clock.
    pub at: OffsetDateTime,
    /// The input.
    pub input: Input,
}

/// What reaches a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The executor that admitted the run begins with it.
    Begin,
    /// Another owner, or the same after a restart, takes the run over: what its predecessor had in flight is lost.
    Claimed {
        /// Number of the ownership.
        epoch: i64,
        /// Id of the replica.
        owner: String,
    },
    /// An agent was synthesised.
    Synthesised(Box<Agent>),
    /// Synthesis waits for a part that is down; it is retried by the executor.
    SynthesisDelayed {
        /// Which part.
        dependency: String,
    },
    /// No agent can be synthesised.
    SynthesisFailed {
        /// Name of an `ErrorReason`.
        reason: String,
        /// One sentence, without payloads.
        message: String,
    },
    /// A generation yielded a turn.
    Turn(Box<FinishedTurn>),
    /// A generation yielded none.
    GenerationFailed {
        /// Its step.
        step: i64,
        /// Its try.
        attempt: i64,
        /// Name of an `ErrorReason`.
        reason: String,
        /// Whether another try may do better.
        retry: Retry,
        /// What it used where that is known; `None` settles at the full reservation.
        usage: Option<Usage>,
    },
    /// A tool call came back.
    Returned(Box<CallReturn>),
    /// Somebody wants the run to stop.
    Cancel {
        /// CANCELLED_BY_CALLER or SESSION_ENDED.
        reason: &'static str,
        /// Who.
        principal: String,
    },
    /// Nothing but the time.
    Timer,
}

/// Whether a failed generation is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail again.
    Never,
    /// It reached a provider and may succeed next time; counts towards [`super::MAX_ATTEMPTS`].
    Bounded,
    /// It reached nobody: a part of the runtime is down. Repeated until the run expires.
    WhenBack,
}

/// A generation's turn.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedTurn {
    /// Its step.
    pub step: i64,
    /// Its try.
    pub attempt: i64,
    /// What the model said; its tool calls name `tools/…` where they name a tool of the agent.
    pub message: Message,
    /// `models/{model}`
    pub model: String,
    /// Why it was chosen.
    pub selection: String,
    /// What the generation used.
    pub usage: Usage,
    /// Why the model stopped.
    pub finish_reason: FinishReason,
    /// What translation dropped or changed.
    pub translation_warnings: Vec<String>,
    /// The router's tries that failed.
    pub failed_attempts: Vec<String>,
}

/// A tool call that came back.
#[derive(Debug, Clone, PartialEq)]
pub struct CallReturn {
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// Session's number of the try.
    pub attempt: i64,
    /// How it ended.
    pub outcome: ToolOutcome,
    /// Why, where the outcome is not OK.
    pub reason: String,
    /// What the model sees.
    pub result: ToolResult,
    /// The gateway's decision record.
    pub decision_json: String,
    /// Hashes of the policies that decided.
    pub policy_hashes: Vec<String>,
    /// Size of the upstream's answer before it was cut.
    pub size_bytes: i64,
    /// From issue to answer.
    pub duration_ms: i64,
}
