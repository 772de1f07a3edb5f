//! What the log says of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mar_proto::session::{Agent, Answer, RunFailure, RunState, StopRequested, Task, Totals, WaitReason};
use mar_proto::types::{HaltReason, HaltingPolicy, Message, Usage};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::answer::Summariser;
use super::cut::Cut;
use super::delegation::Parent;
use super::fork::Fork;
use super::history::History;
use super::loop_detector::LoopDetector;
use super::quotes::Source;
use super::slices::Purse;
use super::summary::{Aim, Density};
use crate::counters::Amounts;

mod approval;
mod call;
mod prompt;
mod waiting;

pub use approval::{Approval, Decided};
pub use call::{Call, CallState};
pub(super) use prompt::{MESSAGE_OVERHEAD, PROMPT_OVERHEAD, message_bytes};

/// A run, as far as its log tells.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The run.
    pub run: Uuid,
    /// Its session.
    pub session: Uuid,
    /// Where it is in its life.
    pub phase: Phase,
    /// Number of the ownership.
    pub epoch: i64,
    /// The `seq` of the next event.
    pub next_seq: i64,
    /// What was asked.
    pub task: Arc<Task>,
    /// Effective limits, complete.
    pub limits: HaltingPolicy,
    /// The run that started it; `None` for a root run.
    pub parent: Option<Arc<Parent>>,
    /// What it was forked from; `None` where it was not.
    pub fork: Option<Fork>,
    /// Every run that it started, in order.
    pub children: Vec<Uuid>,
    /// What it has drawn from its parent's pool.
    pub drawn: Amounts,
    /// When it was admitted.
    pub admitted_at: OffsetDateTime,
    /// When it halts at the latest.
    pub expires_at: OffsetDateTime,
    /// The sealed agent.
    pub agent: Option<Arc<Agent>>,
    /// Output tokens that one generation may write, from the descriptor.
    pub max_output_tokens: i64,
    /// JSON Schema of the answer as JSON text, from the descriptor; empty for free text.
    pub output_schema: Arc<str>,
    /// What the agent sees of the session's earlier runs.
    pub history: History,
    /// The conversation: prompt with history, turns, tool results, repair requests.
    pub transcript: Vec<Arc<Message>>,
    /// How many of its messages come before what the run did itself: the prompt with history, the task last; 0 before an
    /// agent is sealed.
    pub head: usize,
    /// Whether a summary of earlier steps follows them.
    pub summarised: bool,
    /// Who summarises, from the descriptor; `None` where it seals nobody.
    pub summariser: Option<Arc<Summariser>>,
    /// Input and output tokens that one generation may have together: as the router said of the agent's models, and less than
    /// what it has refused since.
    pub window: i64,
    /// What the last prompt was counted at; `None` before the first.
    pub density: Option<Density>,
    /// How many messages of the conversation that prompt had.
    pub measured: usize,
    /// Number of the step, 0 before the first.
    pub step: i64,
    /// The generation in flight.
    pub generation: Option<Generation>,
    /// The calls of the current step, by index.
    pub calls: Vec<Call>,
    /// What is used: settled plus reservations in flight.
    pub used: Amounts,
    /// What is reserved and not settled.
    pub reserved: Amounts,
    /// What is settled.
    pub usage: Usage,
    /// By how much settlements exceeded their reservations.
    pub overshoot: Amounts,
    /// The last counter change that the log holds; -1 for none, and when the log has settled something without the
    /// counters since: they saw another last, so the next change overwrites them.
    pub counted_seq: i64,
    /// The counter change of the last takeover's own commit, as long as it is the last. Its predecessor may have made another
    /// at the same `seq` and died before the commit; counters that fell back to that one look the same. So the log does not
    /// claim to know it: `counted_seq` is -1, and the next change overwrites them.
    pub takeover_seq: Option<i64>,
    /// Titles of the passages that the run has received, by id.
    pub passages: BTreeMap<String, String>,
    /// What the run can quote: the results that brought passages, whatever has become of them in the conversation.
    pub sources: Vec<Arc<Source>>,
    /// The turn that awaits judgement as a final answer.
    pub candidate: Option<Arc<Message>>,
    /// What kept the last turn, as an answer or with calls, from its end.
    pub cut: Option<Cut>,
    /// Whether the repair step has been used.
    pub repaired: bool,
    /// Whether the step in hand repairs an answer.
    pub repairing: bool,
    /// The last failed generation of the step, while another attempt is due.
    pub retry: Option<RetryDue>,
    /// `models/{model}` that failed in the step in hand, each once, in order.
    pub failed_models: Vec<String>,
    /// What the run has of the budgets that it draws on.
    pub budgets: Vec<Purse>,
    /// When the budget that it waits for is asked again.
    pub renews_at: Option<OffsetDateTime>,
    /// Remembers the last calls and what came of them.
    pub loops: LoopDetector,
    /// Whether the agent goes round in circles.
    pub looping: bool,
    /// The run is to stop.
    pub stop: Option<Stop>,
    /// The run is to park when nothing of it is in flight.
    pub paused: bool,
    /// Who had it admitted; may not decide on its approvals.
    pub principal: Arc<str>,
    /// Every approval that was asked for, by id.
    pub approvals: BTreeMap<String, Arc<Approval>>,
    /// The last commands that took effect: each does once.
    pub commands: BTreeSet<Uuid>,
    /// Whether untrusted content has entered the conversation.
    pub tainted: bool,
    /// Time in RUNNING before `running_since`.
    pub active: Duration,
    /// Since when it is RUNNING without a pause; later by what it has lost.
    pub running_since: Option<OffsetDateTime>,
    /// Until when the log knows of time that was lost: none of it is given back twice.
    pub lost_until: Option<OffsetDateTime>,
    /// When the last event was decided.
    pub latest_at: OffsetDateTime,
    /// The answer, failure or halt reason, when it has ended.
    pub ending: Option<Ending>,
    /// When the state last changed.
    pub changed_at: OffsetDateTime,
}

/// Where a run is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its agent is being synthesised. Holds what it waits for, where that is down.
    Pending(Option<WaitReason>),
    /// The loop is going on.
    Running,
    /// Parked.
    Waiting(WaitReason),
    /// Over.
    Ended(RunState),
}

/// A generation in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its step.
    pub step: i64,
    /// Session's number of the attempt.
    pub attempt: i64,
    /// What it may use.
    pub reservation: Amounts,
    /// What it is for.
    pub aim: Aim,
}

/// Another attempt of a generation that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryDue {
    /// Attempts that reached a provider, from the last one on in which a model failed for the first time in the step.
    pub reached: i64,
    /// Number of the last attempt.
    pub attempt: i64,
    /// Not before.
    pub at: OffsetDateTime,
}

/// A durable demand to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// When it became durable.
    pub at: OffsetDateTime,
    /// CANCELLED or HALTED.
    pub outcome: RunState,
    /// Set when HALTED.
    pub halt_reason: HaltReason,
    /// Set when CANCELLED.
    pub reason: String,
}

impl Stop {
    /// As it stands in the log.
    pub fn of(requested: &StopRequested, at: OffsetDateTime) -> Self {
        Self {
            at,
            outcome: requested.outcome(),
            halt_reason: requested.halt_reason(),
            reason: requested.reason.clone(),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// With an answer.
    Answered(Box<Answer>),
    /// By a limit.
    Halted(HaltReason),
    /// Without an answer.
    Failed(RunFailure),
}

impl State {
    /// The run's limits as amounts, with what it has drawn.
    pub fn limit_amounts(&self) -> Amounts {
        self.allotment() + self.drawn
    }

    /// The limits that the run was admitted with.
    pub fn allotment(&self) -> Amounts {
        let limits = &self.limits;
        Amounts {
            steps: limits.max_steps.unwrap_or(0),
            tool_calls: limits.max_tool_calls.unwrap_or(0),
            input_tokens: limits.max_input_tokens.unwrap_or(0),
            output_tokens: limits.max_output_tokens.unwrap_or(0),
            cost_nano_usd: limits.max_cost_nano_usd.unwrap_or(0),
        }
    }

    /// Whether the run is over.
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Totals as callers see them.
    pub fn totals(&self, now: OffsetDateTime) -> Totals {
        Totals {
            steps: self.used.steps,
            tool_calls: self.used.tool_calls,
            usage: Some(self.usage),
            reserved: Some(self.reserved.to_usage(false)),
            overshoot: Some(self.overshoot.to_usage(false)),
            active_time_ms: i64::try_from(self.active_time(now).whole_milliseconds()).unwrap_or(i64::MAX),
        }
    }
}
