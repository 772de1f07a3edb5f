//! From state to state by one event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mar_proto::session::{EventContent, RunClaimed, RunEnded, RunState, event_leaf::Body};
use mar_proto::types::{HaltReason, HaltingPolicy, Message, Usage};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::history::History;
use super::loop_detector::{LoopDetector, Rule};
use super::slices::Purse;
use super::state::{CallState, Ending, Phase, State, Stop};
use super::{Event, answer};
use crate::counters::Amounts;

mod approval;
mod call;
mod children;
mod delay;
mod fork;
mod generation;
mod summary;
mod waiting;

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
        let of_tainted_parent = admitted.parent.as_ref().is_some_and(|parent| parent.tainted);
        Some(Self {
            parent: admitted.parent.as_ref().and_then(parent_of).map(Arc::new),
            fork: admitted.fork.as_ref().and_then(fork_of),
            task: Arc::new(event.content.task.clone().unwrap_or_default()),
            limits: admitted.limits.unwrap_or_default(),
            tainted: history.is_tainted() || of_tainted_parent,
            history,
            budgets: admitted.budgets().map(|scope| Purse { scope, slices: 0, cost_nano_usd: 0 }).collect(),
            principal: event.content.principal.as_str().into(),
            ..Self::fresh(run, session, event.time, expires_at)
        })
    }

    /// A run that nothing has been asked of and that has done nothing, as of the end of its first event.
    fn fresh(run: Uuid, session: Uuid, admitted_at: OffsetDateTime, expires_at: OffsetDateTime) -> Self {
        Self {
            run,
            session,
            phase: Phase::Pending(None),
            parent: None,
            fork: None,
            children: Vec::new(),
            drawn: Amounts::default(),
            epoch: 1,
            next_seq: 1,
            task: Arc::default(),
            limits: HaltingPolicy::default(),
            admitted_at,
            expires_at,
            agent: None,
            max_output_tokens: DEFAULT_MAX_OUTPUT_TOKENS,
            output_schema: Arc::from(""),
            history: History::default(),
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
            passages: BTreeMap::new(),
            sources: Vec::new(),
            candidate: None,
            cut: None,
            repaired: false,
            repairing: false,
            retry: None,
            failed_models: Vec::new(),
            budgets: Vec::new(),
            renews_at: None,
            loops: LoopDetector::new(Rule::default()),
            looping: false,
            stop: None,
            paused: false,
            principal: Arc::from(""),
            approvals: BTreeMap::new(),
            commands: BTreeSet::new(),
            tainted: false,
            active: Duration::ZERO,
            running_since: None,
            lost_until: None,
            latest_at: admitted_at,
            ending: None,
            changed_at: admitted_at,
        }
    }

    /// Applies the event at `next_seq`.
    pub fn apply(&mut self, event: &Event) {
        self.next_seq += 1;
        self.note_change(event);
        self.commands.extend(event.command);
        while self.commands.len() > REMEMBERED {
            self.commands.pop_first();
        }
        let (at, content, counted_seq) = (event.time, &event.content, event.counted_seq);
        match &event.body {
            // What a probe's answer leads to has an event of its own.
            Body::RunAdmitted(_) | Body::CountersRebuilt(_) | Body::CallProbed(_) => {}
            Body::RunClaimed(claimed) => self.claim(claimed, at),
            Body::AgentSealed(_) => self.seal_agent(content, at),
            Body::OriginRecalled(_) => self.recall(content.recorded_calls.as_ref()),
            Body::EventShared(shared) => self.share(shared, content, counted_seq),
            Body::GenerationStarted(started) => self.start_generation(started),
            Body::TurnCommitted(turn) => self.take_turn(turn, content, counted_seq),
            Body::SummaryCommitted(summary) => self.commit_summary(summary, content, counted_seq),
            Body::GenerationFailed(failed) => self.fail_generation(failed, at, counted_seq),
            Body::ToolIntent(intent) => self.issue(intent, at),
            Body::DelegationIntent(intent) => self.delegate(intent, content, counted_seq),
            Body::ChildEnded(ended) => self.end_child(ended, content, counted_seq),
            Body::AllotmentRefilled(refilled) => self.refill(refilled),
            Body::ToolReturned(returned) => {
                self.return_call(&returned.call_id, content.tool_result.clone().unwrap_or_default());
            }
            Body::AnswerRejected(_) => self.reject(&content.problems),
            Body::RunWaiting(waiting) => self.wait(waiting, at),
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
            Body::StopRequested(stop) => self.stop = Some(Stop::of(stop, at)),
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

    fn claim(&mut self, claimed: &RunClaimed, at: OffsetDateTime) {
        self.epoch = claimed.epoch;
        self.lose(claimed.unattended_since.as_ref().and_then(timestamp), Some(at));
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

/// A protobuf timestamp as a time; `None` outside of the years that both know.
pub fn timestamp(stamp: &prost_types::Timestamp) -> Option<OffsetDateTime> {
    let seconds = OffsetDateTime::from_unix_timestamp(stamp.seconds).ok()?;
    seconds.checked_add(Duration::nanoseconds(i64::from(stamp.nanos)))
}
