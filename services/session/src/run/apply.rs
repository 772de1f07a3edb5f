//! From state to state by one event.

use std::sync::Arc;

use mar_proto::session::{
    ApprovalDecided, ApprovalRequested, ApprovalState, EventContent, GenerationFailed, RunEnded, RunState,
    TurnCommitted, WaitReason, event_leaf::Body,
};
use mar_proto::types::{HaltReason, Message, Part, Role, ToolResult, Usage, part::Content};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::amounts::{add_usage, input_tokens};
use super::cut::Cut;
use super::event::repair_request;
use super::history::History;
use super::loop_detector::{LoopDetector, Observed, Rule};
use super::slices::Purse;
use super::state::{Approval, Call, CallState, Decided, Ending, Generation, Phase, RetryDue, State, Stop};
use super::summary::{Aim, CONTEXT_EXCEEDED, SUMMARISE};
use super::{Event, answer};
use crate::counters::Amounts;

mod children;
mod delay;
mod fork;
mod summary;

use children::parent_of;
use fork::fork_of;

/// Commands that are remembered: more than can be on their way at a time.
const REMEMBERED: usize = 256;

/// Output tokens of one generation where the descriptor cannot say.
const DEFAULT_MAX_OUTPUT_TOKENS: i64 = 512;

impl State {
    /// The state after a run's first event, which has to be `RunAdmitted`; `None` for any other.
    pub fn admitted(run: Uuid, session: Uuid, event: &Event) -> Option<Self> {
        let Body::RunAdmitted(admitted) = &event.body else { return None };
        let expires_at = admitted.expire_time.as_ref().and_then(timestamp)?;
        let history = History::new(event.content.history.clone().unwrap_or_default());
        let tainted = history.is_tainted();
        Some(Self {
            run,
            session,
            phase: Phase::Pending(None),
            parent: admitted.parent.as_ref().and_then(parent_of).map(Arc::new),
            fork: admitted.fork.as_ref().and_then(fork_of),
            children: Vec::new(),
            drawn: Amounts::default(),
            epoch: 1,
            next_seq: 1,
            task: Arc::new(event.content.task.clone().unwrap_or_default()),
            limits: admitted.limits.unwrap_or_default(),
            admitted_at: event.time,
            expires_at,
            agent: None,
            max_output_tokens: DEFAULT_MAX_OUTPUT_TOKENS,
            output_schema: Arc::from(""),
            history,
            transcript: Vec::new(),
            head: 0,
            summarised: false,
            summariser: None,
            window: i64::MAX,
            density: None,
            measured: 0,
            step: 0,
            generation: None,
            calls: Vec::new(),
            used: Amounts::default(),
            reserved: Amounts::default(),
            usage: Usage::default(),
            overshoot: Amounts::default(),
            counted_seq: -1,
            takeover_seq: None,
            passages: Default::default(),
            sources: Vec::new(),
            candidate: None,
            cut: None,
            repaired: false,
            repairing: false,
            retry: None,
            failed_models: Vec::new(),
            budgets: admitted.budgets().map(|scope| Purse { scope, slices: 0, cost_nano_usd: 0 }).collect(),
            renews_at: None,
            loops: LoopDetector::new(Rule::default()),
            looping: false,
            stop: None,
            paused: false,
            principal: event.content.principal.as_str().into(),
            approvals: Default::default(),
            commands: Default::default(),
            tainted: tainted || admitted.parent.as_ref().is_some_and(|parent| parent.tainted),
            active: Duration::ZERO,
            running_since: None,
            lost_until: None,
            latest_at: event.time,
            ending: None,
            changed_at: event.time,
        })
    }

    /// Applies the event at `next_seq`.
    pub fn apply(&mut self, event: &Event) {
        self.next_seq += 1;
        self.note_change(event);
        if let Some(command) = event.command {
            self.commands.insert(command);
            while self.commands.len() > REMEMBERED {
                self.commands.pop_first();
            }
        }
        let (at, content) = (event.time, &event.content);
        match &event.body {
            Body::RunAdmitted(_) | Body::CountersRebuilt(_) => {}
            Body::RunClaimed(claimed) => {
                self.epoch = claimed.epoch;
                self.lose(claimed.unattended_since.as_ref().and_then(timestamp), Some(at));
            }
            Body::AgentSealed(_) => self.seal_agent(content, at),
            Body::OriginRecalled(_) => self.recall(content.recorded_calls.as_ref()),
            Body::EventShared(shared) => self.share(shared, content, event.counted_seq),
            Body::GenerationStarted(started) => {
                let reservation = started.reservation.as_ref().map(Amounts::of_reservation).unwrap_or_default();
                let replaces = usize::try_from(started.replaces).unwrap_or(0);
                let aim = match started.role.as_str() {
                    SUMMARISE if started.history => Aim::History { replaces },
                    SUMMARISE => Aim::Summary { replaces },
                    _ => Aim::Turn,
                };
                self.leave_history_out(started.history_left_out);
                for call_id in &started.elided {
                    self.elide(call_id);
                }
                self.start_generation(Generation { step: started.step, attempt: started.attempt, reservation, aim });
            }
            Body::TurnCommitted(turn) => {
                let bound = self.generation.as_ref().map_or(0, |open| open.reservation.input_tokens);
                self.commit_turn(turn, content, event.counted_seq, bound);
            }
            Body::SummaryCommitted(summary) => self.commit_summary(summary, content, event.counted_seq),
            Body::GenerationFailed(failed) => self.fail_generation(failed, at, event.counted_seq),
            Body::ToolIntent(intent) => {
                if intent.attempt == 1 {
                    self.used.tool_calls += 1;
                }
                self.set_call(&intent.call_id, CallState::Open { attempt: intent.attempt });
                if let Some(call) = self.calls.iter_mut().find(|call| call.call_id == intent.call_id) {
                    call.issued_at = Some(at);
                    call.question = None;
                    call.recorded = intent.recorded_seq;
                }
                if intent.attempt == 1 && intent.recorded_seq.is_some() {
                    self.take_recorded(&intent.call_id);
                }
            }
            Body::DelegationIntent(intent) => self.delegate(intent, content, event.counted_seq),
            Body::ChildEnded(ended) => self.end_child(ended, content, event.counted_seq),
            Body::AllotmentRefilled(refilled) => {
                let drawn = refilled.drawn.as_ref().map(Amounts::of_reservation).unwrap_or_default();
                self.drawn = self.drawn + drawn;
            }
            Body::ToolReturned(returned) => {
                self.abandon_children(&returned.call_id);
                self.return_call(&returned.call_id, content.tool_result.clone().unwrap_or_default());
            }
            Body::AnswerRejected(_) => self.reject(&content.problems),
            Body::RunWaiting(waiting) => {
                self.wait(waiting.reason(), at);
                self.renews_at = waiting.until.as_ref().and_then(timestamp);
            }
            Body::SliceGranted(granted) => self.take_slice(granted),
            Body::RunResumed(resumed) => self.resume(resumed.reason(), at),
            Body::CommitDelayed(delayed) => {
                let (since, until) = (delayed.since.as_ref(), delayed.until.as_ref());
                self.lose(since.and_then(timestamp), until.and_then(timestamp));
            }
            Body::PauseRequested(_) => self.paused = true,
            Body::ApprovalRequested(asked) => self.ask(asked, content, at),
            Body::ApprovalDecided(decided) => self.decide_approval(decided, content, at),
            Body::CallHandedOver(handed) => {
                self.set_call(&handed.call_id, CallState::Handed { reason: handed.reason() });
            }
            Body::CallDoubted(doubted) => {
                self.set_call(&doubted.call_id, CallState::Doubted { attempt: doubted.attempt });
            }
            // What it leads to has an event of its own.
            Body::CallProbed(_) => {}
            Body::StopRequested(stop) => {
                self.stop = Some(Stop {
                    at,
                    outcome: stop.outcome(),
                    halt_reason: stop.halt_reason(),
                    reason: stop.reason.clone(),
                });
            }
            Body::RunEnded(ended) => self.end(ended, content, at),
        }
        self.latest_at = at;
    }

    /// Notes the counter change that came before the event's commit.
    fn note_change(&mut self, event: &Event) {
        let Some(seq) = event.counted_seq else { return };
        if matches!(event.body, Body::RunClaimed(_)) {
            self.takeover_seq = Some(seq);
        }
        if self.takeover_seq == Some(seq) {
            self.counted_seq = -1;
        } else {
            self.takeover_seq = None;
            self.counted_seq = seq;
        }
    }

    fn seal_agent(&mut self, content: &EventContent, at: OffsetDateTime) {
        let agent = content.agent.clone().unwrap_or_default();
        if let Some(descriptor) = &agent.descriptor
            && let Some(sealed) = answer::sealed(&descriptor.canonical)
        {
            self.max_output_tokens = sealed.max_output_tokens;
            self.output_schema = sealed.output_schema.into();
            self.summariser = sealed.summariser.map(Arc::new);
        }
        if agent.context_tokens > 0 {
            self.window = agent.context_tokens;
        }
        let mut prompt: Vec<Arc<Message>> = agent.prompt.iter().cloned().map(Arc::new).collect();
        // The task's own message comes last.
        let task = prompt.len().saturating_sub(1);
        prompt.splice(task..task, self.history.shown().cloned());
        // What a fork shares comes after it.
        self.head = prompt.len();
        self.measured += self.head;
        self.transcript.splice(0..0, prompt);
        for call in &mut self.calls {
            call.definition = agent.tools.iter().find(|tool| tool.name == call.tool).cloned();
        }
        self.agent = Some(Arc::new(agent));
        self.run(at);
    }

    fn start_generation(&mut self, generation: Generation) {
        let Generation { step, attempt, reservation, .. } = generation;
        self.step = step;
        self.calls.clear();
        self.candidate = None;
        self.retry = self.retry.map(|retry| RetryDue { attempt, ..retry });
        self.used = self.used + reservation;
        self.reserved = self.reserved + reservation;
        self.generation = Some(generation);
    }

    /// Closes the generation in flight at what it used. Its step stays used whatever became of it.
    fn settle(&mut self, usage: &Usage, counted_seq: Option<i64>) {
        let Some(generation) = self.generation.take() else { return };
        let reserved = Amounts { steps: 0, ..generation.reservation };
        let difference = Amounts::of_usage(usage) - reserved;
        self.used = self.used + difference;
        self.reserved = self.reserved - generation.reservation;
        self.overshoot = self.overshoot + difference.max(Amounts::default());
        add_usage(&mut self.usage, usage);
        if counted_seq.is_none() && !difference.is_zero() {
            self.counted_seq = -1;
        }
    }

    /// Takes a turn in. `bound` is that of its prompt, 0 where it is not known.
    fn commit_turn(&mut self, turn: &TurnCommitted, content: &EventContent, counted_seq: Option<i64>, bound: i64) {
        let usage = turn.usage.unwrap_or_default();
        // What several tries have read tells nothing of one prompt.
        if bound > 0 && turn.failed_attempts.is_empty() {
            self.measure(input_tokens(&usage), bound);
        }
        self.settle(&usage, counted_seq);
        self.retry = None;
        self.failed_models.clear();
        self.repairing = false;
        let message = Arc::new(content.turn.clone().unwrap_or_default());
        if says_something(&message) {
            self.transcript.push(Arc::clone(&message));
        }
        self.cut = Cut::of(turn.finish_reason());
        self.calls = self.wanted(&message);
        if self.calls.is_empty() {
            self.candidate = Some(message);
        }
    }

    fn reject(&mut self, problems: &str) {
        self.candidate = None;
        self.repaired = true;
        self.repairing = true;
        self.transcript.push(Arc::new(repair_request(problems)));
    }

    /// The calls that a turn asks for, by index.
    fn wanted(&self, message: &Message) -> Vec<Call> {
        let calls = message.parts.iter().filter_map(|part| match &part.content {
            Some(Content::ToolCall(call)) => Some(call),
            _ => None,
        });
        calls
            .map(|call| Call {
                call_id: call.call_id.clone(),
                provider_call_id: call.provider_call_id.clone(),
                tool: call.tool.clone(),
                definition: self.tool(&call.tool).cloned(),
                arguments_json: call.arguments_json.clone(),
                approval: None,
                question: None,
                recorded: None,
                issued_at: None,
                state: CallState::Wanted,
            })
            .collect()
    }

    fn fail_generation(&mut self, failed: &GenerationFailed, at: OffsetDateTime, counted_seq: Option<i64>) {
        let usage = failed.usage.unwrap_or_default();
        let aim = self.generation.as_ref().map(|open| open.aim).unwrap_or_default();
        if failed.reason == CONTEXT_EXCEEDED {
            self.narrow();
        }
        self.settle(&usage, counted_seq);
        if !failed.retried {
            self.history.given_up |= matches!(aim, Aim::History { .. });
            self.retry = None;
            return;
        }
        // Another model need not wait for one that may recover.
        let tries = if self.finds_another(&failed.models) { 1 } else { failed.attempt };
        let reached = self.reached_with(&failed.models) + i64::from(super::absorb::reaches_provider(&failed.reason));
        for model in &failed.models {
            if !self.failed_models.contains(model) {
                self.failed_models.push(model.clone());
            }
        }
        let at_once = [super::absorb::LOST, CONTEXT_EXCEEDED].contains(&failed.reason.as_str());
        let delay = if at_once { Duration::ZERO } else { backoff(tries) };
        self.retry = Some(RetryDue { reached, attempt: failed.attempt, at: at + delay });
    }

    /// Tries that count when one more fails with these models. As long as each try finds other models dead than the ones
    /// before, there may be a live one behind them: the count begins anew.
    pub(super) fn reached_with(&self, models: &[String]) -> i64 {
        if self.finds_another(models) { 0 } else { self.retry.map_or(0, |retry| retry.reached) }
    }

    fn finds_another(&self, models: &[String]) -> bool {
        models.iter().any(|model| !self.failed_models.contains(model))
    }

    fn set_call(&mut self, call_id: &str, state: CallState) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.call_id == call_id) {
            call.state = state;
        }
    }

    fn return_call(&mut self, call_id: &str, result: ToolResult) {
        let received = result.passages.iter().map(|passage| (passage.passage_id.clone(), passage.title.clone()));
        self.passages.extend(received);
        self.receive(&result);
        self.tainted |= result.content.iter().any(|part| part.tainted);
        self.close_question(call_id);
        self.set_call(call_id, CallState::Returned(Box::new(result)));
        let results: Vec<Part> = self
            .calls
            .iter()
            .filter_map(|call| match &call.state {
                CallState::Returned(result) => {
                    let tainted = result.content.iter().any(|part| part.tainted);
                    let content = Some(Content::ToolResult((**result).clone()));
                    Some(Part { content, origin: mar_proto::types::Origin::Tool.into(), tainted })
                }
                _ => None,
            })
            .collect();
        if results.len() == self.calls.len() {
            self.observe();
            self.transcript.push(Arc::new(Message { role: Role::Tool.into(), parts: results }));
        }
    }

    /// Shows a turn's calls to the loop detector. What one turn asks for twice it cannot have learnt from, so it counts once.
    fn observe(&mut self) {
        let mut seen: Vec<Observed> = Vec::new();
        for call in &self.calls {
            let CallState::Returned(result) = &call.state else { continue };
            let observed = Observed {
                tool: call.tool.clone(),
                arguments: Sha256::digest(call.arguments_json.as_bytes()).into(),
                result: digest(result),
            };
            if !seen.contains(&observed) {
                seen.push(observed);
            }
        }
        let repeated = seen.into_iter().filter_map(|call| self.loops.observe(call)).count();
        self.looping |= repeated > 0;
    }

    /// A call that is over waits for nobody any more.
    fn close_question(&mut self, call_id: &str) {
        let pending =
            |approval: &&mut Arc<Approval>| approval.call_id == call_id && approval.state == ApprovalState::Pending;
        if let Some(approval) = self.approvals.values_mut().find(pending) {
            Arc::make_mut(approval).state = ApprovalState::Expired;
        }
    }

    fn wait(&mut self, reason: WaitReason, at: OffsetDateTime) {
        self.renews_at = None;
        self.active = self.active_time(at);
        self.running_since = None;
        self.phase = match self.phase {
            Phase::Pending(_) => Phase::Pending(Some(reason)),
            _ => Phase::Waiting(reason),
        };
        self.changed_at = at;
    }

    /// A run that is resumed before it could park goes on as it was.
    fn resume(&mut self, reason: WaitReason, at: OffsetDateTime) {
        if reason == WaitReason::Paused {
            self.paused = false;
            if self.phase != Phase::Waiting(WaitReason::Paused) {
                return;
            }
        }
        if matches!(self.phase, Phase::Pending(_)) {
            self.phase = Phase::Pending(None);
            self.renews_at = None;
            return;
        }
        self.run(at);
    }

    fn ask(&mut self, asked: &ApprovalRequested, content: &EventContent, at: OffsetDateTime) {
        let question = content.approval.clone().unwrap_or_default();
        let tainted = self.tainted;
        let Some(call) = self.calls.iter_mut().find(|call| call.call_id == asked.call_id) else { return };
        let (attempt, in_doubt) = match call.state {
            CallState::Open { attempt } => (attempt, false),
            CallState::Doubted { attempt } => (attempt, true),
            _ => return,
        };
        let approval = Approval {
            id: asked.approval.clone(),
            call_id: call.call_id.clone(),
            tool: call.tool.clone(),
            arguments_json: call.arguments_json.clone(),
            tainted,
            digest: question.call_digest,
            message: question.message,
            group: asked.group.clone(),
            needed: asked.needed,
            asked_at: at,
            expires_at: asked.expire_time.as_ref().and_then(timestamp).unwrap_or(self.expires_at),
            state: ApprovalState::Pending,
            decisions: Vec::new(),
            in_doubt,
        };
        let asked = if in_doubt { &mut call.question } else { &mut call.approval };
        *asked = Some(approval.id.clone());
        call.state = CallState::Asking { attempt };
        self.approvals.insert(approval.id.clone(), Arc::new(approval));
    }

    fn decide_approval(&mut self, decided: &ApprovalDecided, content: &EventContent, at: OffsetDateTime) {
        let Some(approval) = self.approvals.get_mut(&decided.approval).map(Arc::make_mut) else { return };
        approval.state = decided.state();
        if decided.decision() != ApprovalState::Expired {
            approval.decisions.push(Decided {
                principal: content.principal.clone(),
                approved: decided.decision() == ApprovalState::Approved,
                comment: content.comment.clone(),
                at,
            });
        }
        let call = self.calls.iter_mut().find(|call| call.call_id == approval.call_id);
        if let Some(call) = call.filter(|_| approval.state == ApprovalState::Approved)
            && let CallState::Asking { attempt } = call.state
        {
            call.state = CallState::Approved { attempt };
        }
    }

    fn run(&mut self, at: OffsetDateTime) {
        self.phase = Phase::Running;
        self.renews_at = None;
        self.running_since = Some(at);
        self.changed_at = at;
    }

    fn end(&mut self, ended: &RunEnded, content: &EventContent, at: OffsetDateTime) {
        self.active = self.active_time(at);
        self.running_since = None;
        self.phase = Phase::Ended(ended.state());
        self.renews_at = None;
        self.changed_at = at;
        self.ending = Some(match ended.state() {
            RunState::Succeeded => Ending::Answered(Box::new(content.answer.clone().unwrap_or_default())),
            RunState::Halted => Ending::Halted(HaltReason::try_from(ended.halt_reason).unwrap_or_default()),
            _ => Ending::Failed(ended.failure.clone().unwrap_or_default()),
        });
    }
}

/// What the model saw of a result.
fn digest(result: &ToolResult) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([u8::from(result.is_error)]);
    for part in &result.content {
        hash.update(part.encode_length_delimited_to_vec());
    }
    hash.finalize().into()
}

/// Whether a turn belongs into the conversation: no provider takes back an empty one.
fn says_something(message: &Message) -> bool {
    message.parts.iter().any(|part| match &part.content {
        Some(Content::Text(text)) => !text.trim().is_empty(),
        content => content.is_some(),
    })
}

/// Pause before try `attempt + 1`: 250 ms doubling up to 30 s.
fn backoff(attempt: i64) -> Duration {
    let doublings = u32::try_from(attempt.clamp(1, 8) - 1).unwrap_or(0);
    (Duration::milliseconds(250) * 2_i32.pow(doublings)).min(Duration::seconds(30))
}

/// A protobuf timestamp as a time; `None` outside of the years that both know.
pub fn timestamp(stamp: &prost_types::Timestamp) -> Option<OffsetDateTime> {
    let seconds = OffsetDateTime::from_unix_timestamp(stamp.seconds).ok()?;
    seconds.checked_add(Duration::nanoseconds(i64::from(stamp.nanos)))
}
