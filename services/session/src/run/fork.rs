//! Runs that begin with what another run has recorded.
//!
//! A fork shares turns and results of the run that it was forked from, and goes on by itself. One with an agent of its own
//! shares no results, and no turns that have read some: its policies decide on each first. A fork's calls have the results
//! that the first run's log holds of them; what that run did not call is called only where it changes nothing, unless the
//! fork may have effects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mar_descriptor::{Hash, domain};
use mar_proto::session::{
    Agent, EventContent, EventShared, OriginRecalled, RecordedCall, RecordedCalls, ToolOutcome, event_leaf::Body,
    event_shared,
};
use mar_proto::types::{HaltReason, Message, part::Content};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Event;
use super::absorb::Plan;
use super::event::{Draft, halted, tool_unanswered};
use super::state::{Call, CallState, State};
use crate::counters::Amounts;

/// SHA-256 over a call's tool and arguments.
pub type CallDigest = [u8; 32];

/// What a fork was forked from, and what it has recalled of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fork {
    /// The run.
    pub origin: Uuid,
    /// The last event that both share.
    pub through_seq: i64,
    /// Whether calls that the first run did not make may have effects.
    pub allow_effects: bool,
    /// Whether the fork has a task of its own, and so an agent of its own.
    pub own_task: bool,
    /// Places of results by call, in their order; `None` until they were read.
    pub recorded: Option<Arc<BTreeMap<CallDigest, Vec<i64>>>>,
    /// How many of them were given, shared ones included.
    pub taken: BTreeMap<CallDigest, usize>,
}

/// What the log of a fork's origin says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recalled {
    /// The agent, where the fork shares it.
    pub agent: Option<Agent>,
    /// What both runs begin with.
    pub shared: Vec<Shared>,
    /// Every call with a result, by the place of the result.
    pub recorded: Vec<(CallDigest, i64)>,
}

impl Recalled {
    /// What the shared events count.
    pub fn counted(&self) -> Amounts {
        self.shared.iter().fold(Amounts::default(), |sum, shared| sum + shared.counted())
    }
}

/// An event that both runs begin with.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    /// As the fork's log has it.
    pub event: EventShared,
    /// The payloads, as they are.
    pub content: EventContent,
}

impl Shared {
    fn counted(&self) -> Amounts {
        match self.event.body {
            Some(event_shared::Body::Turn(_) | event_shared::Body::Summary(_)) => {
                Amounts { steps: 1, ..Amounts::default() }
            }
            Some(event_shared::Body::Result(_)) if self.event.counted => {
                Amounts { tool_calls: 1, ..Amounts::default() }
            }
            _ => Amounts::default(),
        }
    }
}

/// Reads the log of a fork's origin, from its first event on.
#[derive(Debug, Default)]
pub struct Recollection {
    through_seq: i64,
    own_task: bool,
    found: Recalled,
    /// A turn whose results are not all there yet, with those that are.
    open: Vec<Shared>,
    /// Results that the open turn waits for.
    owed: usize,
    /// Nothing more is shared.
    shut: bool,
    /// Digests of the last turn's calls by `{step}/{index}`.
    calls: BTreeMap<String, CallDigest>,
    /// Calls that were begun.
    begun: BTreeSet<String>,
    /// Calls whose results were left out since the last turn.
    elided: Vec<String>,
    /// Messages of earlier runs that were left out since the last turn or summary.
    left_out: i64,
    /// The bound of the last prompt.
    input_bound: i64,
}

impl Recollection {
    /// Nothing was read yet.
    pub fn new(through_seq: i64, own_task: bool) -> Self {
        Self { through_seq, own_task, ..Self::default() }
    }

    /// Takes the next event in.
    pub fn take(&mut self, seq: i64, event: &Event) {
        use event_shared::Body as Part;
        match &event.body {
            Body::AgentSealed(_) if seq <= self.through_seq && !self.own_task => {
                self.found.agent.clone_from(&event.content.agent);
            }
            Body::GenerationStarted(started) => {
                self.elided.extend(started.elided.iter().cloned());
                self.left_out += started.history_left_out;
                self.input_bound = started.reservation.as_ref().map_or(0, |reservation| reservation.input_tokens);
            }
            Body::TurnCommitted(turn) => self.part(seq, Part::Turn(turn.clone()), &event.content, true),
            Body::SummaryCommitted(summary) => self.part(seq, Part::Summary(summary.clone()), &event.content, true),
            Body::ToolIntent(intent) => {
                self.begun.insert(place(&intent.call_id).to_owned());
            }
            Body::ToolReturned(back) => {
                let counted = self.begun.contains(place(&back.call_id));
                self.part(seq, Part::Result(back.clone()), &event.content, counted);
            }
            Body::AnswerRejected(rejected) => self.part(seq, Part::Rejection(*rejected), &event.content, true),
            // A fork of a fork.
            Body::EventShared(shared) => {
                if let Some(body) = &shared.body {
                    self.elided.extend(shared.elided.iter().cloned());
                    self.left_out += shared.history_left_out;
                    self.input_bound = shared.input_bound;
                    self.part(seq, body.clone(), &event.content, shared.counted);
                }
            }
            _ => {}
        }
    }

    /// All that was read.
    pub fn finish(mut self) -> Recalled {
        self.close();
        self.found
    }

    fn part(&mut self, seq: i64, body: event_shared::Body, content: &EventContent, counted: bool) {
        use event_shared::Body as Part;
        let (elided, input_bound) = match &body {
            Part::Turn(_) => (std::mem::take(&mut self.elided), self.input_bound),
            _ => Default::default(),
        };
        let history_left_out = match &body {
            Part::Turn(_) | Part::Summary(_) => std::mem::take(&mut self.left_out),
            _ => 0,
        };
        let (is_turn, is_result) = (matches!(body, Part::Turn(_)), matches!(body, Part::Result(_)));
        if is_turn {
            self.close();
            self.calls = content.turn.iter().flat_map(calls).collect();
            self.owed = self.calls.len();
        }
        if let Part::Result(back) = &body {
            let digest = self.calls.get(place(&back.call_id)).filter(|_| counted);
            // What was never made has no result.
            if let Some(digest) = digest.filter(|_| back.outcome() != ToolOutcome::NotSent) {
                self.found.recorded.push((*digest, seq));
            }
        }
        if seq > self.through_seq || self.shut {
            return;
        }
        // Another agent's policies may withhold what these calls brought, and every later turn has read it.
        self.shut = self.own_task && is_turn && self.owed > 0;
        let content = EventContent {
            turn: content.turn.clone(),
            tool_result: content.tool_result.clone(),
            problems: content.problems.clone(),
            summary: content.summary.clone(),
            ..EventContent::default()
        };
        let event = EventShared { seq, counted, elided, input_bound, history_left_out, body: Some(body) };
        self.open.push(Shared { event, content });
        if is_result {
            self.owed = self.owed.saturating_sub(1);
        }
        if self.owed == 0 {
            self.found.shared.append(&mut self.open);
        }
    }

    /// A turn is shared without its results where some of them are not: all of them are replayed.
    fn close(&mut self) {
        self.found.shared.extend(self.open.drain(..).take(1));
    }
}

/// `{step}/{index}` of a call's id, which is the same in a fork.
pub(super) fn place(call_id: &str) -> &str {
    call_id.split_once('/').map_or(call_id, |(_, place)| place)
}

fn calls(turn: &Message) -> impl Iterator<Item = (String, CallDigest)> {
    turn.parts.iter().filter_map(|part| match &part.content {
        Some(Content::ToolCall(call)) => {
            Some((place(&call.call_id).to_owned(), call_digest(&call.tool, &call.arguments_json)))
        }
        _ => None,
    })
}

/// What makes two calls the same: tool, and arguments in their canonical form. Arguments that have none count byte by byte.
pub fn call_digest(tool: &str, arguments_json: &str) -> CallDigest {
    let canonical = serde_json::from_str(arguments_json).ok();
    let canonical = canonical.and_then(|value| Hash::of_foreign(domain::TOOL_ARGUMENTS, &value).ok());
    let mut hash = Sha256::new();
    hash.update(b"mcp-agent-runtime/recorded-call/v1\n");
    hash.update((tool.len() as u64).to_be_bytes());
    hash.update(tool.as_bytes());
    match canonical {
        Some(digest) => hash.update(digest.as_bytes()),
        None => hash.update(arguments_json.as_bytes()),
    }
    hash.finalize().into()
}

impl Fork {
    /// Where the first run's log holds the result of a call.
    fn result_of(&self, digest: &CallDigest) -> Option<i64> {
        let places = self.recorded.as_ref()?.get(digest)?;
        let taken = self.taken.get(digest).copied().unwrap_or(0);
        places.get(taken).or(places.last()).copied()
    }
}

impl State {
    /// The `seq` of the result that a call is given; `None` for one that is to be made.
    pub(super) fn recorded_result(&self, call: &Call) -> Option<i64> {
        let fork = self.fork.as_ref()?;
        call.recorded.or_else(|| fork.result_of(&call_digest(&call.tool, &call.arguments_json)))
    }

    /// Whether the run is a fork that does not know yet what it goes on from.
    pub(super) fn is_to_recall(&self) -> bool {
        self.fork.as_ref().is_some_and(|fork| fork.recorded.is_none())
    }

    fn may_have_effects(&self) -> bool {
        self.fork.as_ref().is_none_or(|fork| fork.allow_effects)
    }
}

impl Plan {
    /// What the origin's log says: what both share comes first, then the agent where they share it.
    pub(super) fn recalled(&mut self, recalled: &Recalled, at: OffsetDateTime) {
        if !self.awaits_agent() || !self.state.is_to_recall() {
            return;
        }
        let counted = recalled.counted();
        let limits = self.state.limit_amounts();
        if counted.steps > limits.steps || counted.tool_calls > limits.tool_calls {
            let steps = counted.steps > limits.steps;
            let reason = if steps { HaltReason::MaxSteps } else { HaltReason::MaxToolCalls };
            return self.end(halted(reason), None);
        }
        self.settle = self.settle + counted;
        self.emit(at, origin_recalled(recalled));
        for shared in &recalled.shared {
            self.emit(at, (Body::EventShared(shared.event.clone()), shared.content.clone()));
        }
        match &recalled.agent {
            Some(agent) => self.seal_agent(agent, at),
            None => self.synthesise(),
        }
    }

    /// Tells the model of calls that are not to be made: of a turn that was cut, of no tool of the agent, and of a fork what may
    /// have effects that the first run did not have.
    pub(super) fn turn_down(&mut self, at: OffsetDateTime) {
        let wanted = self.state.calls.iter().filter(|call| call.state == CallState::Wanted);
        let (cut, last) = (self.state.cut, self.state.calls.last().map(|call| call.call_id.clone()));
        for call in wanted.cloned().collect::<Vec<_>>() {
            let is_last = last.as_ref() == Some(&call.call_id);
            if let Some((reason, text)) = cut.and_then(|cut| cut.unmade(&call, is_last)) {
                self.emit(at, tool_unanswered(&call, ToolOutcome::Error, reason, text));
                continue;
            }
            let Some(definition) = &call.definition else {
                let text = format!(
                    "TOOL_NOT_FOUND: there is no tool named {:?}; use only the tools that you were given",
                    call.tool
                );
                self.emit(at, tool_unanswered(&call, ToolOutcome::Error, "TOOL_NOT_FOUND", &text));
                continue;
            };
            let harmless = definition.read_only || self.state.may_have_effects();
            if !harmless && self.state.recorded_result(&call).is_none() {
                let text = "EFFECTS_NOT_ALLOWED: the run that this one was forked from did not make this call, and calls \
                            that may change something are not made anew";
                self.emit(at, tool_unanswered(&call, ToolOutcome::Denied, "EFFECTS_NOT_ALLOWED", text));
            }
        }
    }
}

fn origin_recalled(recalled: &Recalled) -> Draft {
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let turns = recalled.shared.iter().filter(|one| matches!(one.event.body, Some(event_shared::Body::Turn(_))));
    let body = OriginRecalled {
        turns: count(turns.count()),
        recorded_calls: count(recalled.recorded.len()),
        agent: recalled.agent.is_some(),
    };
    let calls =
        recalled.recorded.iter().map(|(digest, seq)| RecordedCall { digest: digest.to_vec().into(), seq: *seq });
    let recorded = (!recalled.recorded.is_empty()).then(|| RecordedCalls { calls: calls.collect() });
    (Body::OriginRecalled(body), EventContent { recorded_calls: recorded, ..EventContent::default() })
}
