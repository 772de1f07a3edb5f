//! Forks: runs that begin with what another run has recorded.

use mar_descriptor::Hash;
use mar_proto::session::{ForkOrigin, Run, RunState, Task, event_leaf::Body};
use mar_proto::types::HaltingPolicy;
use mar_runtime::auth::Caller;
use mar_runtime::violations::Violations;
use prost_types::Duration;
use uuid::Uuid;

use super::history::Earlier;
use super::{Admit, READ_BYTES, Runs, has_ended, stored_run};
use crate::error::Error;
use crate::log;
use crate::run::Event;
use crate::store::{self, EventRow, RequestKey, RunRow};
use crate::view;

/// A run to fork, validated as far as the request alone says.
#[derive(Debug, Clone)]
pub struct Fork {
    /// The request's id in its scope.
    pub key: RequestKey,
    /// The session.
    pub session: Uuid,
    /// The run to fork.
    pub run: Uuid,
    /// The last event that both share.
    pub through_seq: i64,
    /// The fork's own task with its limits, complete.
    pub task: Option<(Task, HaltingPolicy)>,
    /// Whether calls that the first run did not make may have effects.
    pub allow_effects: bool,
    /// Whether other root runs of the session may be open.
    pub parallel: bool,
}

/// What a run is forked from.
#[derive(Debug, Clone)]
pub struct Forked {
    /// As its first event has it.
    pub origin: ForkOrigin,
    /// Hash of the last event that both share.
    pub genesis: Hash,
    /// What the first run saw of its session.
    pub(super) earlier: Earlier,
}

impl Runs {
    /// Forks a run that has ended, or finds the fork that the same request made before.
    pub async fn fork(&self, caller: &Caller, fork: Fork) -> Result<Run, Error> {
        let (tenant, name) = (&caller.tenant, view::run_name(fork.session, fork.run));
        self.activity().note(tenant, fork.session);
        let row = self.row(tenant, fork.session, fork.run, &name).await?;
        if !has_ended(row.state) {
            let state = RunState::try_from(i32::from(row.state)).unwrap_or_default();
            return Err(Error::RunState { name, state });
        }
        let first = self.payload(&row, 0).await?;
        let Body::RunAdmitted(admitted) = first.body else { return Err(store::Error::Corrupt("first event").into()) };
        self.check(caller, &fork, &row, &admitted.environment)?;
        let last = self.event_row(&row, fork.through_seq).await?;
        let own_task = fork.task.is_some();
        let (task, limits) = match fork.task {
            Some(own) => own,
            None => {
                let task = first.content.task.ok_or_else(|| Error::PayloadsGone(name))?;
                (task, self.within_maxima(admitted.limits.unwrap_or_default()))
            }
        };
        let without = own_task && task.without_history;
        let earlier = Earlier { through: admitted.history_through, history: first.content.history };
        let forked = Forked {
            origin: ForkOrigin {
                run: fork.run.to_string(),
                through_seq: fork.through_seq,
                allow_effects: fork.allow_effects,
                own_task,
            },
            genesis: Hash::from_bytes(last.hash),
            earlier: if without { Earlier::default() } else { earlier },
        };
        let Fork { key, session, parallel, .. } = fork;
        self.admit(caller, Admit { key, session, task, limits, parallel, fork: Some(forked) }).await
    }

    /// What only the run to fork can tell of a request.
    fn check(&self, caller: &Caller, fork: &Fork, row: &RunRow, environment: &str) -> Result<(), Error> {
        let mut found = Violations::new();
        // The end itself leaves nothing to go on from.
        let last = stored_run(row)?.next_seq - 2;
        let text = format!("must be 0 to {last}, before the end of the run");
        found.require((0..=last).contains(&fork.through_seq), "through_seq", text);
        // An agent is made for an environment.
        let fits = fork.task.is_some() || environment == caller.environment;
        found.require(fits, "task", "must be given: the run belongs to another environment than the caller");
        Ok(found.into_result(())?)
    }

    /// The limits of a run, as far as they may be asked for today.
    fn within_maxima(&self, limits: HaltingPolicy) -> HaltingPolicy {
        let max = &self.limits().max;
        let count = |value: Option<i64>, max: Option<i64>| value.map(|value| max.map_or(value, |max| value.min(max)));
        let span = |value: Option<Duration>, max: Option<Duration>| match (value, max) {
            (Some(value), Some(max)) if (value.seconds, value.nanos) > (max.seconds, max.nanos) => Some(max),
            (value, _) => value,
        };
        HaltingPolicy {
            max_steps: count(limits.max_steps, max.max_steps),
            max_tool_calls: count(limits.max_tool_calls, max.max_tool_calls),
            max_active_time: span(limits.max_active_time, max.max_active_time),
            expire_after: span(limits.expire_after, max.expire_after),
            max_depth: count(limits.max_depth, max.max_depth),
            max_input_tokens: count(limits.max_input_tokens, max.max_input_tokens),
            max_output_tokens: count(limits.max_output_tokens, max.max_output_tokens),
            max_cost_nano_usd: count(limits.max_cost_nano_usd, max.max_cost_nano_usd),
            on_budget: limits.on_budget,
        }
    }

    async fn event_row(&self, row: &RunRow, seq: i64) -> Result<EventRow, Error> {
        let rows = self.store().event_read(&row.tenant, row.id, seq, 1, READ_BYTES).await?;
        Ok(rows.into_iter().find(|row| row.seq == seq).ok_or(store::Error::Corrupt("event"))?)
    }

    /// An event with its payload, which has to be there.
    async fn payload(&self, row: &RunRow, seq: i64) -> Result<Event, Error> {
        let stored = self.event_row(row, seq).await?;
        let (leaf, event) = log::decode(row.id, &stored)?;
        if stored.content.is_none() && !leaf.commitments.is_empty() {
            return Err(Error::PayloadsGone(view::run_name(row.session, row.id)));
        }
        Ok(event)
    }
}
