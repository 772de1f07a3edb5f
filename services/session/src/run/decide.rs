//! The two questions that the executor asks before a commit.

use mar_proto::session::WaitReason;
use mar_proto::types::HaltReason;

use super::absorb::{LOG_TAIL_LOST, Plan};
use super::event::{
    counters_rebuilt, delegation_intent, generation_started, refilled, resumed, tool_intent, waiting_for,
};
use super::input::{Input, Timed};
use super::next::Next;
use super::state::{CallState, Phase, State};
use super::{Counted, Effect, Event};
use crate::counters::{Amounts, Carve, Draw, Limit, Verdict};

/// Name of the counters as a dependency that is down.
const COUNTERS: &str = "halting counters";

/// What inputs settle, and what comes next would reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Charge {
    /// Actual use minus reservation of what the inputs close.
    pub settle: Amounts,
    /// What comes next may use.
    pub reserve: Amounts,
    /// The ownership under which the commit will stand. A takeover counts under its own from its first commit on: under
    /// its predecessor's, counters would answer what the predecessor asked at the same `seq` and never committed.
    pub epoch: i64,
    /// What happens to a pool for child runs.
    pub carve: Option<Carve>,
    /// What the run draws from its parent's pool.
    pub draw: Option<Draw>,
}

impl Charge {
    /// Whether the counters need not be asked.
    pub fn is_zero(&self) -> bool {
        self.settle.is_zero() && self.reserve.is_zero()
    }
}

/// What to append, and what to do when it is durable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    /// In order; empty when the inputs change nothing.
    pub events: Vec<Event>,
    /// To be performed after the events are durable.
    pub effects: Vec<Effect>,
}

/// Inputs taken in, and what comes next, as far as that is known without the counters.
pub struct Charged {
    /// What the counters are asked.
    pub charge: Charge,
    plan: Plan,
    next: Next,
}

/// What the inputs settle and what comes next would reserve.
pub fn charge(state: &State, inputs: &[Timed]) -> Charged {
    let mut plan = Plan::of(state, inputs);
    let next = plan.next();
    let carve = match &next {
        Next::Delegate(carving) => Some(Carve::Open(carving.pool)),
        _ => plan.closed_pool.map(Carve::Close),
    };
    let reserve = next.reservation();
    let draw = state.draw().filter(|_| !reserve.is_zero());
    let charge = Charge { settle: plan.settle, reserve, epoch: plan.state.epoch, carve, draw };
    Charged { charge, plan, next }
}

/// Events and effects, given what the counters said to what [`charge`] asks for the same state and inputs.
pub fn decide(state: &State, inputs: &[Timed], charged: Charged, counted: Counted) -> Decision {
    if let Counted::Answer(answer) = counted
        && let Some(found) = answer.rebuilt.filter(|found| *found > state.next_seq)
    {
        return tail_lost(state, inputs, found);
    }
    let Charged { mut plan, next, .. } = charged;
    if let Counted::Answer(answer) = counted
        && let Some(found) = answer.rebuilt
        && state.takeover_seq != Some(found)
        && !plan.state.ended()
    {
        plan.emit(plan.now, counters_rebuilt(found));
    }
    begin(&mut plan, state, next, counted);
    if matches!(counted, Counted::Answer(_)) {
        for event in &mut plan.events {
            event.counted_seq = Some(state.next_seq);
        }
    }
    Decision { events: plan.events, effects: plan.effects }
}

/// Counters that were asked for an event further on than the log goes: either the log has gone on under another owner, who
/// fences this commit, or its store has lost the end of it. What the lost events began nobody knows, so nothing begins here,
/// and the run stops.
fn tail_lost(state: &State, inputs: &[Timed], found: i64) -> Decision {
    let mut plan = Plan::of(state, inputs);
    if !plan.state.ended() {
        plan.emit(plan.now, counters_rebuilt(found));
        plan.cancel(LOG_TAIL_LOST, "", plan.now);
        plan.finish_stop();
    }
    Decision { events: plan.events, effects: plan.effects }
}

/// Begins what comes next as far as the counters let it.
fn begin(plan: &mut Plan, before: &State, next: Next, counted: Counted) {
    if next == Next::Nothing {
        return;
    }
    let answer = match counted {
        Counted::Answer(answer) => answer,
        Counted::Unavailable | Counted::Nothing => {
            if plan.state.phase != Phase::Waiting(WaitReason::Dependency) {
                plan.emit(plan.now, waiting_for(COUNTERS));
            }
            return;
        }
    };
    if let Verdict::Refused(limit) = answer.verdict {
        refused(plan, before, limit);
        return;
    }
    if !answer.drawn.is_zero() {
        plan.emit(plan.now, refilled(answer.drawn));
    }
    if let Phase::Waiting(reason) = plan.state.phase {
        let draft = resumed(&plan.state, reason);
        plan.emit(plan.now, draft);
    }
    match next {
        Next::Nothing => {}
        Next::Generate(due) => {
            let left = (plan.state.limit_amounts() - answer.used).max(Amounts::default());
            plan.emit(plan.now, generation_started(&due, left));
            plan.effects.push(Effect::Generate { step: due.step, attempt: due.attempt });
        }
        Next::Delegate(carving) => {
            plan.emit(plan.now, delegation_intent(&carving, answer.opened.unwrap_or_default()));
            plan.effects.push(Effect::Delegate { call_id: carving.call_id.clone() });
            plan.park();
        }
        Next::Call(calls) => {
            for call in calls {
                let intent = tool_intent(&plan.state, &call, 1);
                plan.emit(plan.now, intent);
                plan.effects.push(Effect::Invoke { call_id: call.call_id, attempt: 1 });
            }
        }
    }
}

/// A limit does not cover what comes next. A child may draw for what its log says that it needs, and what has just come
/// in is not there yet: then it is committed alone, and drawn for after that.
fn refused(plan: &mut Plan, before: &State, limit: Limit) {
    let wanted = |state: &State| state.draw().map_or(0, |draw| limit.of(draw.want));
    if !plan.events.is_empty() && wanted(&plan.state) > wanted(before) {
        return;
    }
    plan.halt(halt_reason(limit));
}

/// The halt reason of a limit.
pub fn halt_reason(limit: Limit) -> HaltReason {
    match limit {
        Limit::Steps => HaltReason::MaxSteps,
        Limit::ToolCalls => HaltReason::MaxToolCalls,
        Limit::InputTokens => HaltReason::InputTokens,
        Limit::OutputTokens => HaltReason::OutputTokens,
        Limit::Cost => HaltReason::Cost,
    }
}

/// Whether inputs are worth a commit now. A result of an idempotent call waits for the calls beside it: losing it costs a
/// repetition that its tool declares harmless.
pub fn ripe(state: &State, inputs: &[Timed]) -> bool {
    if inputs.is_empty() {
        return false;
    }
    let idempotent = |call_id: &str| {
        let call = state.calls.iter().find(|call| call.call_id == call_id);
        call.and_then(|call| call.definition.as_ref()).is_some_and(|tool| tool.idempotent)
    };
    let only_idempotent =
        inputs.iter().all(|timed| matches!(&timed.input, Input::Returned(back) if idempotent(&back.call_id)));
    if !only_idempotent {
        return true;
    }
    let back = |call_id: &str, attempt: i64| {
        inputs.iter().any(
            |timed| matches!(&timed.input, Input::Returned(back) if back.call_id == call_id && back.attempt == attempt),
        )
    };
    state.calls.iter().all(|call| match call.state {
        CallState::Open { attempt } => back(&call.call_id, attempt),
        _ => true,
    })
}
