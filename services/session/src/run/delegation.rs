//! Child runs: what a call that delegates takes from the run's limits, and how the children's ends become its result.

use std::sync::Arc;

use bytes::Bytes;
use mar_proto::session::{Answer, ChildEnded, DelegationMode, RunFailure, RunState, Task};
use mar_proto::types::{HaltReason, HaltingPolicy, Usage};
use mar_task::delegation::Delegation;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::state::{Call, CallState, State};
use crate::counters::{Amounts, MAX_AMOUNT, Pool};

/// The least that a child gets of each amount: a turn, and tokens that are not none.
const LEAST: Amounts = Amounts { steps: 1, tool_calls: 0, input_tokens: 1, output_tokens: 1, cost_nano_usd: 0 };

/// The run that a run was started by.
#[derive(Debug, Clone, PartialEq)]
pub struct Parent {
    /// The run.
    pub run: Uuid,
    /// Root of the run tree.
    pub root: Uuid,
    /// Its call, `{run}/{step}/{index}`.
    pub call_id: String,
    /// The `seq` of its `DelegationIntent`.
    pub intent_seq: i64,
    /// Place among the children of the call.
    pub index: i64,
    /// How many runs are above the child.
    pub depth: i64,
    /// What the child may draw from.
    pub pool: Pool,
    /// The most that the child may use with everything that it draws.
    pub ceiling: Amounts,
    /// Hash of the parent's sealed agent, which the child's does not go beyond.
    pub descriptor_hash: String,
}

/// The child runs of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Delegated {
    /// The `seq` of the event that holds them.
    pub intent_seq: i64,
    /// How their answers become the call's result.
    pub mode: DelegationMode,
    /// In the order of their tasks.
    pub children: Vec<Child>,
    /// What was taken for them: allotments and pool.
    pub reserved: Amounts,
    /// The pool.
    pub pool: Pool,
    /// Its size.
    pub pool_size: Amounts,
}

/// A child run, as its parent knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// The run.
    pub run: Uuid,
    /// Its limits.
    pub limits: HaltingPolicy,
    /// The most that it may use with everything that it draws.
    pub ceiling: Amounts,
    /// What it is to do.
    pub task: Arc<Task>,
    /// How it ended; `None` while it is open.
    pub end: Option<Arc<ChildEnd>>,
}

/// How a child run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildEnd {
    /// Its final state.
    pub state: RunState,
    /// Why it was halted.
    pub halt_reason: HaltReason,
    /// Why it gave no answer.
    pub failure: Option<RunFailure>,
    /// What it has used, its own children included.
    pub used: Amounts,
    /// The same by token classes.
    pub usage: Usage,
    /// Whether untrusted content influenced it.
    pub tainted: bool,
    /// Hash of its last event; empty for one that could not be admitted.
    pub head: Bytes,
    /// Its answer.
    pub answer: Option<Answer>,
}

impl ChildEnd {
    /// As the parent's log has it, the answer aside.
    pub fn to_leaf(&self, run: Uuid) -> ChildEnded {
        ChildEnded {
            run: run.to_string(),
            state: self.state.into(),
            halt_reason: self.halt_reason.into(),
            failure: self.failure.clone(),
            used: Some(self.used.to_reservation()),
            usage: Some(self.usage),
            tainted: self.tainted,
            head: self.head.clone(),
        }
    }

    /// From the parent's log.
    pub fn of_leaf(leaf: &ChildEnded, answer: Option<Answer>) -> Self {
        Self {
            state: leaf.state(),
            halt_reason: leaf.halt_reason(),
            failure: leaf.failure.clone(),
            used: leaf.used.as_ref().map(Amounts::of_reservation).unwrap_or_default(),
            usage: leaf.usage.unwrap_or_default(),
            tainted: leaf.tainted,
            head: leaf.head.clone(),
            answer,
        }
    }
}

impl Delegated {
    /// The children that have not ended.
    pub fn open(&self) -> impl Iterator<Item = &Child> {
        self.children.iter().filter(|child| child.end.is_none())
    }

    /// What the children that have ended have used.
    pub fn used(&self) -> Amounts {
        let ends = self.children.iter().filter_map(|child| child.end.as_ref());
        ends.fold(Amounts::default(), |sum, end| sum + end.used)
    }
}

/// What a call takes from the limits of its run.
#[derive(Debug, Clone, PartialEq)]
pub struct Carving {
    /// The call.
    pub call_id: String,
    /// How the answers become one result.
    pub mode: DelegationMode,
    /// The children, not admitted yet.
    pub children: Vec<Child>,
    /// Allotments and pool together.
    pub reserved: Amounts,
    /// The pool.
    pub pool: Amounts,
}

impl State {
    /// Calls whose children run.
    pub fn delegations(&self) -> impl Iterator<Item = (&Call, &Delegated)> {
        self.calls.iter().filter_map(|call| match &call.state {
            CallState::Delegated(delegated) => Some((call, &**delegated)),
            _ => None,
        })
    }

    /// Whether a child run is open.
    pub fn has_open_children(&self) -> bool {
        self.delegations().any(|(_, delegated)| delegated.open().next().is_some())
    }

    /// Root of the run tree.
    pub fn root(&self) -> Uuid {
        self.parent.as_ref().map_or(self.run, |parent| parent.root)
    }

    /// How many runs are above it.
    pub fn depth(&self) -> i64 {
        self.parent.as_ref().map_or(0, |parent| parent.depth)
    }

    /// What the limits leave.
    pub fn left(&self) -> Amounts {
        (self.limit_amounts() - self.used).max(Amounts::default())
    }

    /// What a call asks for, if the agent may ask for it.
    ///
    /// # Errors
    /// What is wrong with it, for the model.
    pub(super) fn delegation(&self, call: &Call) -> Result<Delegation, String> {
        let wish = Delegation::parse(&call.arguments_json)?;
        for name in wish.tools.iter().flatten() {
            let known = self.tool(&format!("tools/{name}")).ok_or_else(|| format!("you have no tool {name:?}"))?;
            let name = known.name.trim_start_matches("tools/");
            if known.executor() == mar_proto::types::Executor::Caller {
                return Err(format!("{name} is the caller's, and not for sub-agents"));
            }
        }
        Ok(wish)
    }

    /// What a call that delegates takes: a quarter of what is left stays, half of the rest is shared out and the other half
    /// is the pool that the children refill from.
    pub(super) fn carve(&self, call: &Call, wish: &Delegation, now: OffsetDateTime) -> Carving {
        let count = i64::try_from(wish.prompts.len()).unwrap_or(i64::MAX);
        let (left, least, own) = (self.left().in_order(), LEAST.in_order(), self.allotment().in_order());
        let caps = [
            wish.ceiling.steps,
            wish.ceiling.tool_calls,
            wish.ceiling.input_tokens,
            wish.ceiling.output_tokens,
            wish.ceiling.cost_nano_usd,
        ];
        let (mut share, mut pool, mut ceiling) = ([0; 5], [0; 5], [0; 5]);
        for i in 0..5 {
            let given = left[i] - (left[i] + 3) / 4;
            // No child's share is more than what this run was admitted with: that is what its agent is sealed with.
            let cap = caps[i].unwrap_or(MAX_AMOUNT).min(own[i]).max(least[i]);
            share[i] = (given / (2 * count)).max(least[i]).min(cap);
            pool[i] = (given - count * share[i]).max(0).min(count.saturating_mul(cap - share[i]));
            ceiling[i] = cap.min(share[i] + pool[i]);
        }
        let [share, pool, ceiling] = [share, pool, ceiling].map(Amounts::from_order);
        let limits = self.child_limits(share, now);
        let children = wish.prompts.iter().enumerate().map(|(index, prompt)| Child {
            run: child_id(now, &call.call_id, index),
            limits,
            ceiling,
            task: Arc::new(self.child_task(wish, prompt)),
            end: None,
        });
        let children: Vec<Child> = children.collect();
        let reserved = children.iter().fold(pool, |sum, _| sum + share);
        Carving { call_id: call.call_id.clone(), mode: wish.mode, children, reserved, pool }
    }

    fn child_limits(&self, share: Amounts, now: OffsetDateTime) -> HaltingPolicy {
        let span = |left: Duration| {
            let left = left.max(Duration::SECOND);
            Some(prost_types::Duration { seconds: left.whole_seconds(), nanos: left.subsec_nanoseconds() })
        };
        let active = self.limits.max_active_time.map(|limit| Duration::new(limit.seconds, limit.nanos));
        HaltingPolicy {
            max_steps: Some(share.steps),
            max_tool_calls: Some(share.tool_calls),
            max_input_tokens: Some(share.input_tokens),
            max_output_tokens: Some(share.output_tokens),
            max_cost_nano_usd: Some(share.cost_nano_usd),
            max_depth: Some(self.limits.max_depth.unwrap_or(0) - 1),
            max_active_time: active.and_then(|limit| span(limit - self.active_time(now))),
            expire_after: span(self.expires_at - now),
            on_budget: self.limits.on_budget,
        }
    }

    /// The task of a child: kind, recipe, model, policy and labels are those of this run's.
    fn child_task(&self, wish: &Delegation, prompt: &str) -> Task {
        use mar_proto::session::ToolSelector;
        use mar_proto::types::{Origin, Part, part::Content};
        let own = &*self.task;
        let selector = |pattern: &String| ToolSelector { pattern: pattern.clone() };
        let is_runtime = |pattern: &str| pattern.starts_with("runtime.");
        let tools = match &wish.tools {
            Some(named) => named.iter().map(selector).collect(),
            None => own.tools.iter().filter(|tool| !is_runtime(&tool.pattern)).cloned().collect(),
        };
        let part = Part {
            content: Some(Content::Text(prompt.to_owned())),
            origin: Origin::Model.into(),
            tainted: self.tainted,
        };
        Task {
            r#type: own.r#type.clone(),
            input: vec![part],
            output_schema_json: wish.output_schema().unwrap_or_default(),
            tools,
            model: own.model.clone(),
            halting: None,
            recipe: own.recipe.clone(),
            parameters: own.parameters.clone(),
            alignment_policy: own.alignment_policy.clone(),
            labels: own.labels.clone(),
            ..Task::default()
        }
    }
}

/// The id of a child: a UUIDv7 of its time whose other bits follow from its place, so that nobody has to be asked for it.
fn child_id(at: OffsetDateTime, call_id: &str, index: usize) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"mcp-agent-runtime/child-run/v1\n");
    hash.update((call_id.len() as u64).to_be_bytes());
    hash.update(call_id.as_bytes());
    hash.update((index as u64).to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut random = [0; 10];
    random.copy_from_slice(&digest[..10]);
    let millis = u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}
