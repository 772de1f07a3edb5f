//! What reaches a run from outside, whole and with its time.

use mar_proto::session::{Agent, BudgetScope, FinishReason, ToolOutcome, WaitReason};
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::{Message, Part, ToolResult, Usage};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::delegation::ChildEnd;
use super::fork::Recalled;
use super::slices::Granted;

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
        /// Since when nobody is known to have executed it; `None` where nobody knows.
        unattended_since: Option<OffsetDateTime>,
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
        /// Its attempt.
        attempt: i64,
        /// Name of an `ErrorReason`.
        reason: String,
        /// Whether another attempt may do better.
        retry: Retry,
        /// What it used where that is known; `None` settles at the full reservation.
        usage: Option<Usage>,
        /// One sentence of who refused it, without payloads; may be empty.
        message: String,
        /// `models/{model}` that were tried in vain.
        models: Vec<String>,
        /// What was tried and what came of it, one line each, without payloads.
        attempts: Vec<String>,
    },
    /// What the run, a fork, goes on from.
    Recalled(Box<Recalled>),
    /// A tool call came back.
    Returned(Box<CallReturn>),
    /// The probe of a call in doubt was asked.
    Probed(Box<Probed>),
    /// The gateway wants a human's decision before it makes a call.
    ApprovalWanted(Box<ApprovalWanted>),
    /// The gateway lets a call be made, which is the caller's to make.
    HandedOver {
        /// `{run}/{step}/{index}`
        call_id: String,
        /// Session's number of the attempt.
        attempt: i64,
        /// TOOL_RESULT, INPUT or CHILD_RUN.
        reason: WaitReason,
        /// The gateway's decision record.
        decision_json: String,
        /// Hashes of the policies that decided.
        policy_hashes: Vec<String>,
    },
    /// A caller wants something of the run; durable before it comes here.
    Commanded {
        /// Its id: it takes effect once.
        id: Uuid,
        /// What it wants.
        command: Command,
    },
    /// A child run cannot be admitted any more.
    ChildRefused {
        /// The child.
        run: Uuid,
    },
    /// The run has to stop for a reason of the runtime's own.
    Cancel {
        /// CANCELLED_BY_CALLER or SESSION_ENDED.
        reason: &'static str,
        /// Who.
        principal: String,
    },
    /// The service stops: what came with it is closed, and nothing begins.
    Draining,
    /// A slice of a budget was granted.
    Granted(Box<Granted>),
    /// A budget has less than the run lacks.
    Exhausted {
        /// Whose budget.
        scope: BudgetScope,
        /// Number of the slice that was asked for.
        number: i64,
        /// When it is worth asking again.
        again_at: OffsetDateTime,
    },
    /// A commit waited for a store that was away.
    CommitDelayed(Delay),
    /// A budget cannot be asked; it is tried again by the executor.
    SliceDelayed {
        /// Which part is down.
        dependency: String,
    },
    /// Nothing but the time.
    Timer,
}

/// What a caller, or another run of its tree, wants of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The run's parent was halted.
    HaltWithParent,
    /// A child run has ended.
    ChildEnded {
        /// The child.
        run: Uuid,
        /// How.
        end: Box<ChildEnd>,
    },
    /// Stop.
    Cancel {
        /// CANCELLED_BY_CALLER or SESSION_ENDED.
        reason: String,
        /// Who.
        principal: String,
    },
    /// Park when nothing is in flight.
    Pause {
        /// Who.
        principal: String,
    },
    /// Go on.
    Resume,
    /// A budget was changed: ask it again.
    Renew,
    /// A decision on an approval.
    Resolve(Resolution),
    /// The result of a call that the caller makes.
    ToolResult(Box<Submission>),
    /// What the caller says to a call that asks it.
    Input(Reply),
}

/// A stretch of time in which the run could do nothing but wait for its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// When the commit was tried for the first time.
    pub since: OffsetDateTime,
    /// When it was durable.
    pub until: OffsetDateTime,
    /// How often it was tried in vain.
    pub failures: i64,
}

/// The result of a call that the caller makes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Submission {
    /// As it was brought; once the gateway was asked, as the agent may receive it.
    pub result: ToolResult,
    /// Who brought it.
    pub principal: String,
    /// The gateway's decision record; empty before it was asked.
    pub decision_json: String,
    /// Hashes of the policies that decided.
    pub policy_hashes: Vec<String>,
    /// Size of what was brought, before it was cut.
    pub size_bytes: i64,
}

/// What the caller says to a call that asks it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// Text and media.
    pub parts: Vec<Part>,
    /// Who says it.
    pub principal: String,
}

/// A decision on an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// Id within the run.
    pub approval: String,
    /// The digest that was looked at.
    pub digest: String,
    /// Whether the call may go ahead.
    pub approved: bool,
    /// Who decides.
    pub principal: String,
    /// Why.
    pub comment: String,
}

/// A call that waits for a human's decision.
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovalWanted {
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// Session's number of the attempt.
    pub attempt: i64,
    /// What the decision is bound to.
    pub digest: String,
    /// Why a policy wants it.
    pub message: String,
    /// Who may decide; empty for anybody but the run's own principal.
    pub group: String,
    /// How many have to approve, at least 1.
    pub needed: i32,
    /// After how long it lapses.
    pub expires_after: Duration,
    /// The gateway's decision record.
    pub decision_json: String,
    /// Hashes of the policies that decided.
    pub policy_hashes: Vec<String>,
}

/// Whether a failed generation is worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail again.
    Never,
    /// It reached a provider and may succeed next time; counts towards [`super::MAX_ATTEMPTS`], unless a model failed that
    /// had not failed in the step before.
    Bounded,
    /// It reached nobody: a part of the runtime is down. Repeated until the run expires.
    WhenBack,
}

/// A generation's turn.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedTurn {
    /// Its step.
    pub step: i64,
    /// Its attempt.
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
    /// The router's attempts that failed.
    pub failed_attempts: Vec<String>,
}

/// What the probe of a call in doubt says.
#[derive(Debug, Clone, PartialEq)]
pub struct Probed {
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// The attempt in doubt.
    pub attempt: i64,
    /// Whether the call took effect.
    pub answer: ProbeAnswer,
    /// Why the probe could not be asked; else empty.
    pub reason: String,
    /// What the call had answered, where it took effect.
    pub result: ToolResult,
    /// The probe's own answer, where there is one.
    pub evidence: Option<ToolResult>,
    /// How often it was asked.
    pub asked: i64,
    /// The gateway's decision record.
    pub decision_json: String,
    /// Hashes of the policies that decided.
    pub policy_hashes: Vec<String>,
    /// From the first question to the answer.
    pub duration_ms: i64,
}

/// A tool call that came back.
#[derive(Debug, Clone, PartialEq)]
pub struct CallReturn {
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// Session's number of the attempt.
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
    /// Whether it is the result that the log of the run's origin holds: nothing was sent.
    pub recorded: bool,
    /// Size of the upstream's answer before it was cut.
    pub size_bytes: i64,
    /// From issue to answer.
    pub duration_ms: i64,
}
