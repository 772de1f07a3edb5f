//! What the log says of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mar_proto::session::{Agent, Answer, ApprovalState, RunFailure, RunState, Task, Totals, WaitReason};
use mar_proto::types::{
    Doubt, Executor, HaltReason, HaltingPolicy, Media, Message, Probe, ToolDefinition, ToolResult, Usage,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::answer::Summariser;
use super::cut::Cut;
use super::delegation::{Delegated, Parent};
use super::fork::Fork;
use super::history::History;
use super::loop_detector::LoopDetector;
use super::quotes::Source;
use super::slices::Purse;
use super::summary::{Aim, Density};
use crate::counters::Amounts;

/// Bytes of a message's frame (role marks, separators) that a provider's template may turn into tokens.
pub(super) const MESSAGE_OVERHEAD: i64 = 16;
/// Tokens of an image beyond the bytes of its part: at least, at most.
const IMAGE: (usize, usize) = (2_048, 65_536);
/// Bytes that a router may add to the prompt to describe tools and output form.
pub(super) const PROMPT_OVERHEAD: i64 = 4_096;

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
    /// The last failed generation of the step, while another try is due.
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
    /// Session's number of the try.
    pub attempt: i64,
    /// What it may use.
    pub reservation: Amounts,
    /// What it is for.
    pub aim: Aim,
}

/// A tool call of the current step.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// The provider's id.
    pub provider_call_id: String,
    /// `tools/…`, or what the model wrote.
    pub tool: String,
    /// The tool as sealed; `None` where the model named none of the agent's.
    pub definition: Option<ToolDefinition>,
    /// Arguments as the model wrote them.
    pub arguments_json: String,
    /// Id of the human decision that a policy asked for.
    pub approval: Option<String>,
    /// Id of the human decision on its doubt, until it is issued again.
    pub question: Option<String>,
    /// The `seq` of the result that the log of the run's origin holds of it, which it is given.
    pub recorded: Option<i64>,
    /// When its last try was issued.
    pub issued_at: Option<OffsetDateTime>,
    /// How far it is.
    pub state: CallState,
}

impl Call {
    /// Whether the gateway only decides on it: the caller, or the runtime, makes it once it is handed over.
    pub fn is_made_elsewhere(&self) -> bool {
        self.definition.as_ref().is_some_and(|tool| tool.executor() != Executor::Unspecified)
    }

    /// What the operator declares about calls whose outcome nobody knows.
    pub fn doubt(&self) -> Option<&Doubt> {
        self.definition.as_ref()?.doubt.as_ref()
    }

    /// The key under which its tool knows it.
    pub fn idempotency_key(&self, run: Uuid) -> String {
        super::idempotency_key(run, &self.call_id, &self.arguments_json)
    }

    /// What can be asked whether it took effect.
    pub fn probe(&self) -> Option<&Probe> {
        self.doubt()?.probe.as_ref()
    }

    /// Id of the human decision that it waits for, or waited for last.
    pub fn asked(&self) -> Option<&str> {
        self.question.as_deref().or(self.approval.as_deref())
    }
}

/// A human decision on one exact call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// `{step}-{index}`
    pub id: String,
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// `tools/{upstream}.{tool}`
    pub tool: String,
    /// The exact arguments.
    pub arguments_json: String,
    /// Whether untrusted content had entered the conversation.
    pub tainted: bool,
    /// What it is bound to, as the gateway computed it.
    pub digest: String,
    /// Why a policy wants it.
    pub message: String,
    /// Who may decide; empty for anybody but the run's own principal.
    pub group: String,
    /// How many have to approve.
    pub needed: i32,
    /// When it was asked for.
    pub asked_at: OffsetDateTime,
    /// When it lapses.
    pub expires_at: OffsetDateTime,
    /// Where it stands.
    pub state: ApprovalState,
    /// Decisions so far, in order.
    pub decisions: Vec<Decided>,
    /// Whether it is on the doubt about a call that was issued.
    pub in_doubt: bool,
}

/// One person's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Who.
    pub principal: String,
    /// Whether the call may go ahead.
    pub approved: bool,
    /// Why.
    pub comment: String,
    /// When.
    pub at: OffsetDateTime,
}

/// How far a call is.
#[derive(Debug, Clone, PartialEq)]
pub enum CallState {
    /// The turn asks for it; nothing is reserved.
    Wanted,
    /// Its intent is in the log: this try may have had its effect.
    Open {
        /// Session's number of the try.
        attempt: i64,
    },
    /// A try was issued, nobody knows whether it took effect, and its probe is being asked.
    Doubted {
        /// The try in doubt.
        attempt: i64,
    },
    /// It waits for a human's decision: on whether it is made, or, of a call in doubt, on whether it is issued again.
    Asking {
        /// The try that was asked about.
        attempt: i64,
    },
    /// It may go ahead.
    Approved {
        /// The try that was asked about.
        attempt: i64,
    },
    /// Child runs work on it.
    Delegated(Box<Delegated>),
    /// It is in the caller's hands, or, for CHILD_RUN, about to start child runs.
    Handed {
        /// What the run waits for.
        reason: WaitReason,
    },
    /// It is over.
    Returned(Box<ToolResult>),
}

/// Another try of a generation that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryDue {
    /// Tries that reached a provider, from the last one on in which a model failed for the first time in the step.
    pub reached: i64,
    /// Number of the last try.
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

    /// Time in RUNNING as of `now`.
    pub fn active_time(&self, now: OffsetDateTime) -> Duration {
        self.active + self.running_since.map_or(Duration::ZERO, |since| (now - since).max(Duration::ZERO))
    }

    /// When `max_active_time` will have passed if the run goes on running.
    pub fn active_deadline(&self) -> Option<OffsetDateTime> {
        let limit = self.limits.max_active_time.as_ref()?;
        let left = Duration::new(limit.seconds, limit.nanos) - self.active;
        self.running_since.and_then(|since| since.checked_add(left))
    }

    /// Whether a generation or a call is in flight.
    pub fn in_flight(&self) -> bool {
        self.generation.is_some() || self.open_calls().next().is_some() || self.doubted_calls().next().is_some()
    }

    /// Calls whose intent is in the log and whose result is not.
    pub fn open_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| matches!(call.state, CallState::Open { .. }))
    }

    /// Calls whose probe is being asked.
    pub fn doubted_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| matches!(call.state, CallState::Doubted { .. }))
    }

    /// Calls that a human or the caller holds, or that were just approved.
    pub fn held_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| {
            matches!(call.state, CallState::Asking { .. } | CallState::Approved { .. } | CallState::Handed { .. })
        })
    }

    /// What the run waits for with nothing in flight; `None` while it can go on by itself.
    pub fn parks_for(&self) -> Option<WaitReason> {
        if self.in_flight() {
            return None;
        }
        let held = |wanted: fn(&CallState) -> bool| self.calls.iter().any(|call| wanted(&call.state));
        let ready = |state: &CallState| {
            matches!(state, CallState::Approved { .. } | CallState::Handed { reason: WaitReason::ChildRun })
        };
        if held(ready) && !self.paused {
            return None;
        }
        if held(|state| matches!(state, CallState::Asking { .. })) {
            return Some(WaitReason::Approval);
        }
        let handed = self.calls.iter().find_map(|call| match call.state {
            CallState::Handed { reason } if reason != WaitReason::ChildRun => Some(reason),
            _ => None,
        });
        let children = self.has_open_children().then_some(WaitReason::ChildRun);
        handed.or(children).or(self.paused.then_some(WaitReason::Paused))
    }

    /// What the run waits for, since [`State::changed_at`].
    pub fn waits_for(&self) -> Option<WaitReason> {
        match self.phase {
            Phase::Waiting(reason) | Phase::Pending(Some(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Whether the run waits for a command or a time: it needs no executor until then.
    pub fn is_parked(&self) -> bool {
        let waits = matches!(self.phase, Phase::Waiting(reason) if reason != WaitReason::Dependency);
        // What it waited for may have come, and a slice is being asked for: nothing would bring that to a run that is let go of.
        let waits = waits && (self.parks_for().is_some() || self.renews_at.is_some());
        let unfunded = self.phase == Phase::Pending(Some(WaitReason::Budget));
        (waits && !self.is_due() || unfunded) && self.stop.is_none() && !self.in_flight()
    }

    /// Whether the run is over.
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// When the run next has something to do without any input. Stays where it is while counters are away: who asks them
    /// paces the asking.
    pub fn wake_at(&self) -> Option<OffsetDateTime> {
        if self.ended() {
            return None;
        }
        if let Some(stop) = &self.stop {
            return Some(if self.in_flight() { stop.at + super::CANCEL_GRACE } else { self.children_due(stop) });
        }
        let mut at = self.expires_at;
        if let Some(active) = self.active_deadline() {
            at = at.min(active);
        }
        // Something in flight brings its own input, and counters that are away hold back a try however overdue.
        if matches!(self.phase, Phase::Waiting(WaitReason::Dependency)) {
            at = at.min(self.changed_at + Duration::seconds(1));
        } else if self.is_due() {
            at = at.min(self.changed_at);
        } else if let Some(retry) = &self.retry
            && !self.in_flight()
            && !self.paused
        {
            at = at.min(retry.at);
        }
        let renewal = self.renews_at.into_iter();
        Some(self.approvals_due().chain(renewal).fold(at, OffsetDateTime::min))
    }

    /// Whether the run, a child, goes on at once: what it has committed says what it may draw for, and nothing brings another
    /// input. Budgets are its root's to ask.
    fn is_due(&self) -> bool {
        let stands = matches!(self.phase, Phase::Running | Phase::Waiting(_)) && self.parent.is_some();
        stands && !self.in_flight() && self.retry.is_none() && self.parks_for().is_none()
    }

    /// Until when the children of a run that stops are waited for.
    pub fn children_due(&self, stop: &Stop) -> OffsetDateTime {
        let levels = i32::try_from(self.limits.max_depth.unwrap_or(0).clamp(1, 8)).unwrap_or(1);
        stop.at + super::CHILDREN_GRACE * levels
    }

    /// When the approvals that are asked for lapse.
    fn approvals_due(&self) -> impl Iterator<Item = OffsetDateTime> {
        let asking = self.calls.iter().filter(|call| matches!(call.state, CallState::Asking { .. }));
        asking.filter_map(|call| self.approval(call).map(|approval| approval.expires_at))
    }

    /// The approval that a call waits for, or waited for last.
    pub fn approval(&self, call: &Call) -> Option<&Arc<Approval>> {
        self.approvals.get(call.asked()?)
    }

    /// An upper bound of the tokens of the prompt that the next generation sends: one token for each byte, which a byte-level
    /// tokenizer never exceeds. The settlement gives back what was not used.
    pub fn prompt_bound(&self) -> i64 {
        let start = PROMPT_OVERHEAD + self.prompt_frame();
        self.transcript.iter().fold(start, |sum, message| sum.saturating_add(message_bytes(message) + MESSAGE_OVERHEAD))
    }

    /// Bytes of a prompt that are in none of its messages: the tools, and the answer's form.
    pub(super) fn prompt_frame(&self) -> i64 {
        let form = i64::try_from(2 * self.output_schema.len()).unwrap_or(i64::MAX / 4);
        self.tool_bytes().saturating_add(form)
    }

    /// Size of the tool definitions as a model is told of them.
    fn tool_bytes(&self) -> i64 {
        let tools = self.agent.as_ref().map_or(&[][..], |agent| agent.tools.as_slice());
        let bytes: usize =
            tools.iter().map(|tool| tool.alias.len() + tool.description.len() + 2 * tool.input_schema_json.len()).sum();
        i64::try_from(bytes).unwrap_or(i64::MAX / 4)
    }

    /// The tool of the agent that a turn names.
    pub fn tool(&self, name: &str) -> Option<&ToolDefinition> {
        self.agent.as_ref()?.tools.iter().find(|tool| tool.name == name)
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

/// Size of what a message says.
pub(super) fn message_bytes(message: &Message) -> i64 {
    use mar_proto::types::part::Content;
    let bytes: usize = message
        .parts
        .iter()
        .map(|part| match &part.content {
            Some(Content::Text(text) | Content::Refusal(text)) => text.len(),
            Some(Content::ToolCall(call)) => call.tool.len() + call.arguments_json.len() + call.provider_call_id.len(),
            Some(Content::ToolResult(result)) => {
                result.content.iter().map(prost::Message::encoded_len).sum::<usize>() + result.provider_call_id.len()
            }
            Some(Content::Media(media)) => media_bound(media) + prost::Message::encoded_len(part),
            Some(_) => prost::Message::encoded_len(part),
            None => 0,
        })
        .sum();
    i64::try_from(bytes).unwrap_or(i64::MAX / 4)
}

/// What media may cost beyond the size of their part: a blob's bytes, which are elsewhere. No provider makes more tokens of an
/// image than [`IMAGE`], and the router reckons with some for the smallest.
fn media_bound(media: &Media) -> usize {
    let size = usize::try_from(media.size_bytes).unwrap_or(0);
    if media.media_type.starts_with("image/") { size.clamp(IMAGE.0, IMAGE.1) } else { size }
}
