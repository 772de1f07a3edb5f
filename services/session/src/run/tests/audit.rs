//! What must hold of any run, kept by a reader of events who does not trust the machine's own state.

use std::collections::{BTreeMap, BTreeSet};

use mar_proto::session::{EventShared, FinishReason, WaitReason, event_leaf::Body, event_shared};
use mar_proto::types::Usage;
use time::{Duration, OffsetDateTime};

use crate::counters::Amounts;
use crate::run::{Event, Phase, State};

mod calls;
mod children;
mod conversation;
mod decision;
mod delay;
mod doubt;
mod fork;
mod generations;
mod held;
mod history;
mod life;
mod state;
mod summary;

use calls::CallRecord;
use children::Family;
pub use conversation::well_formed;
use fork::OriginRecord;
use held::Asked;
use history::Seen;
use summary::Shortened;

/// A reader of a run's events.
#[derive(Debug, Default)]
pub struct Audit {
    pub limits: Amounts,
    pub used: Amounts,
    pub reserved: Amounts,
    pub overshoot: Amounts,
    pub generation: Option<(i64, i64, Amounts)>,
    pub calls: BTreeMap<String, CallRecord>,
    /// Calls of the turn in hand that have no result yet.
    pub owed: BTreeSet<String>,
    pub turns: BTreeSet<i64>,
    /// Why the model stopped in the last of them.
    pub finish: FinishReason,
    pub last_step: i64,
    pub last_attempt: i64,
    pub reached: BTreeMap<i64, (i64, BTreeSet<String>)>,
    pub rejections: i64,
    /// Of those that a fork begins with.
    pub shared_rejections: i64,
    /// Whether a fork with an agent of its own begins with a turn that asks for tools.
    pub asked: bool,
    /// What the run, a fork, was forked from.
    pub origin: Option<OriginRecord>,
    pub repairs: i64,
    /// Whether the generation in flight repairs an answer.
    pub repairing: bool,
    pub passages: BTreeSet<String>,
    /// The words that came with each of them.
    pub words: BTreeMap<String, String>,
    pub running_since: Option<OffsetDateTime>,
    pub active: Duration,
    /// What was lost of the time since `running_since`.
    pub lost: Duration,
    /// Until when the log has told of lost time.
    pub lost_until: Option<OffsetDateTime>,
    /// When the last event was decided.
    pub latest: Option<OffsetDateTime>,
    /// Where the run was in its life after the last event.
    pub phase: Option<Phase>,
    pub sealed: bool,
    pub waiting: bool,
    pub waits_for: Option<WaitReason>,
    /// What it waited for last, and since when.
    pub waited: Option<(WaitReason, OffsetDateTime)>,
    pub stopped: bool,
    pub ended: bool,
    pub seals: usize,
    pub paused: bool,
    pub approvals: BTreeMap<String, Asked>,
    /// Child runs by call.
    pub delegated: BTreeMap<String, Family>,
    /// Commands of earlier commits.
    pub commands: BTreeSet<uuid::Uuid>,
    /// What is left out of prompts.
    pub shortened: Shortened,
    /// What is seen of earlier runs.
    pub seen: Seen,
    /// Slices of each budget, and what they grant.
    pub purses: BTreeMap<i32, (usize, i64)>,
}

impl Audit {
    pub fn new(state: &State) -> Self {
        let purses = state.budgets.iter().map(|purse| (purse.scope.into(), (0, 0))).collect();
        let seen = Seen::new(&state.history);
        Self { seen, limits: state.limit_amounts(), purses, ..Self::default() }
    }

    /// A committed event, with the state after it.
    pub fn event(&mut self, event: &Event, state: &State) {
        assert!(!self.ended, "an event after the end");
        match &event.body {
            Body::RunAdmitted(_) => panic!("admitted twice"),
            Body::RunClaimed(claimed) => self.unattended(claimed, event, state),
            Body::CountersRebuilt(_) => {}
            Body::SliceGranted(granted) => self.is_granted(granted),
            Body::AgentSealed(_) => self.is_sealed(event),
            Body::GenerationStarted(started) => self.starts(started, state),
            Body::TurnCommitted(turn) => self.turns(turn, event),
            Body::SummaryCommitted(summary) => self.sums_up(summary, event, state),
            Body::GenerationFailed(failed) => self.fails(failed),
            Body::ToolIntent(intent) => self.issues(intent, event, state),
            Body::ToolReturned(back) => self.returns(back, event),
            Body::OriginRecalled(recalled) => self.recalls(recalled, event, state),
            Body::EventShared(shared) => self.shares(shared, event, state),
            Body::AnswerRejected(rejected) => self.rejects(rejected),
            Body::CommitDelayed(delayed) => self.loses(delayed, event, state),
            Body::PauseRequested(_)
            | Body::ApprovalRequested(_)
            | Body::ApprovalDecided(_)
            | Body::CallHandedOver(_) => self.held(event, state),
            Body::DelegationIntent(_) | Body::ChildEnded(_) => self.family(event, state),
            Body::AllotmentRefilled(refilled) => self.refills(refilled),
            Body::CallDoubted(_) | Body::CallProbed(_) => self.doubted(event),
            Body::RunWaiting(waiting) => self.waits(waiting, event, state),
            Body::RunResumed(resumed) => self.resumes(resumed, event),
            Body::StopRequested(stop) => self.is_to_stop(stop, event, state),
            Body::RunEnded(ended) => self.ends(ended, event, state),
        }
        self.phase = Some(state.phase);
        self.latest = Some(event.time);
    }
}

/// What an event counts that a fork begins with.
fn shared_counts(shared: &EventShared) -> Amounts {
    let (mut steps, mut tool_calls) = (0, 0);
    match &shared.body {
        Some(event_shared::Body::Turn(_) | event_shared::Body::Summary(_)) => steps = 1,
        Some(event_shared::Body::Result(_)) => tool_calls = i64::from(shared.counted),
        _ => {}
    }
    Amounts { steps, tool_calls, ..Amounts::default() }
}

pub fn spent(usage: &Usage) -> Amounts {
    Amounts {
        input_tokens: usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens,
        output_tokens: usage.output_tokens + usage.reasoning_tokens,
        cost_nano_usd: usage.cost_nano_usd,
        ..Amounts::default()
    }
}
