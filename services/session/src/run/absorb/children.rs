//! Inputs about child runs, and the run's own stop as they see it.

use mar_proto::session::{RunFailure, RunState, ToolOutcome};
use mar_proto::types::HaltReason;
use time::OffsetDateTime;
use uuid::Uuid;

use super::super::Effect;
use super::super::delegation::{Carving, ChildEnd};
use super::super::event::{child_ended, halted, stop_requested, tool_returned, tool_unanswered};
use super::super::gathering::gather;
use super::super::input::CallReturn;
use super::super::state::{Call, CallState, State};
use super::{Plan, UNKNOWN_TEXT};
use crate::counters::{Amounts, Draw};
use mar_proto::session::WaitReason;

impl Plan {
    /// Whether a call that the gateway let through can start child runs. One that asks for nonsense is told so; one that is
    /// too deep halts the run.
    pub(in super::super) fn may_delegate(&mut self, call: &Call, at: OffsetDateTime) -> bool {
        if self.state.limits.max_depth.unwrap_or(0) < 1 {
            let text = "MAX_DEPTH: this run may start no runs";
            self.emit(at, tool_unanswered(call, ToolOutcome::NotSent, "MAX_DEPTH", text));
            self.stop(stop_requested(RunState::Halted, HaltReason::MaxDepth, "", ""), at);
            return false;
        }
        if let Err(wrong) = self.state.delegation(call) {
            let text = format!("ARGUMENTS_INVALID: {wrong}");
            self.emit(at, tool_unanswered(call, ToolOutcome::Denied, "ARGUMENTS_INVALID", &text));
            return false;
        }
        true
    }

    /// What the next call that waits for its child runs takes.
    pub(in super::super) fn due_delegation(&self) -> Option<Carving> {
        if self.state.paused {
            return None;
        }
        let due = CallState::Handed { reason: WaitReason::ChildRun };
        let call = self.state.calls.iter().find(|call| call.state == due)?;
        let wish = self.state.delegation(call).ok()?;
        Some(self.state.carve(call, &wish, self.now))
    }

    pub(in super::super) fn halt_with_parent(&mut self, at: OffsetDateTime) {
        if self.state.stop.is_none() {
            self.stop(stop_requested(RunState::Halted, HaltReason::ParentHalted, "", ""), at);
        }
    }

    /// A child has ended; the last of a call brings its result.
    pub(in super::super) fn child_ended(&mut self, run: Uuid, end: &ChildEnd, at: OffsetDateTime) {
        let open = self.state.delegations().find(|(_, delegated)| delegated.open().any(|child| child.run == run));
        let Some(call) = open.map(|(call, _)| call.clone()) else { return };
        self.emit(at, child_ended(run, end));
        let now = self.state.calls.iter().find(|one| one.call_id == call.call_id);
        let Some(CallState::Delegated(delegated)) = now.map(|call| &call.state) else { return };
        if delegated.open().next().is_some() {
            return;
        }
        self.settle = self.settle + (delegated.used() - delegated.reserved);
        self.closed_pool = Some(delegated.pool.seq);
        let gathered = gather(delegated);
        let back = CallReturn {
            call_id: call.call_id.clone(),
            attempt: 0,
            outcome: gathered.outcome,
            reason: gathered.reason.to_owned(),
            size_bytes: gathered
                .result
                .content
                .iter()
                .map(prost::Message::encoded_len)
                .sum::<usize>()
                .try_into()
                .unwrap_or(i64::MAX),
            result: gathered.result,
            decision_json: String::new(),
            recorded: false,
            policy_hashes: Vec::new(),
            duration_ms: 0,
        };
        self.emit(at, tool_returned(&call, &back));
    }

    /// A child that could not be admitted has used nothing: the session ends.
    pub(in super::super) fn child_refused(&mut self, run: Uuid, at: OffsetDateTime) {
        let end = ChildEnd {
            state: RunState::Cancelled,
            halt_reason: HaltReason::Unspecified,
            failure: Some(RunFailure {
                reason: "SESSION_ENDED".to_owned(),
                message: "the run was not admitted".to_owned(),
            }),
            used: Amounts::default(),
            usage: Default::default(),
            tainted: false,
            head: Default::default(),
            answer: None,
        };
        self.child_ended(run, &end, at);
    }

    /// Halts the run with nothing in flight: at once, or after its children.
    pub(in super::super) fn halt(&mut self, reason: HaltReason) {
        if self.state.has_open_children() {
            self.stop(stop_requested(RunState::Halted, reason, "", ""), self.now);
        } else {
            // A call that would have started child runs did not.
            self.drop_held();
            self.end(halted(reason), None);
        }
    }

    /// Has the children that are open admitted, or stopped where the run is to stop.
    pub(in super::super) fn see_to_children(&mut self) {
        let open = self.state.delegations().filter(|(_, delegated)| delegated.open().next().is_some());
        let calls: Vec<String> = open.map(|(call, _)| call.call_id.clone()).collect();
        for call_id in calls {
            self.effects.push(match self.state.stop {
                Some(_) => Effect::StopChildren { call_id },
                None => Effect::Delegate { call_id },
            });
        }
    }

    /// Closes the calls whose children did not end in time.
    pub(in super::super) fn give_children_up(&mut self) {
        let open = self.state.delegations().filter(|(_, delegated)| delegated.open().next().is_some());
        for call in open.map(|(call, _)| call.clone()).collect::<Vec<_>>() {
            let draft = tool_unanswered(&call, ToolOutcome::Unknown, "OUTCOME_UNKNOWN", UNKNOWN_TEXT);
            self.emit(self.now, draft);
        }
    }
}

impl State {
    /// What the run, a child, draws with its next change. It follows from the log alone, so that whoever puts a lost pool
    /// together again knows the most that a change on its way can have drawn.
    pub fn draw(&self) -> Option<Draw> {
        let parent = self.parent.as_ref().filter(|_| !self.ended() && self.stop.is_none())?;
        let (need, left) = (self.known_need().in_order(), self.left().in_order());
        let (allotment, limits) = (self.allotment().in_order(), self.limit_amounts().in_order());
        let ceiling = parent.ceiling.in_order();
        let mut want = [0; 5];
        for i in 0..5 {
            if need[i] > left[i] {
                want[i] = (need[i] - left[i] + allotment[i]).min(ceiling[i] - limits[i]).max(0);
            }
        }
        let want = Amounts::from_order(want);
        (!want.is_zero()).then_some(Draw { pool: parent.pool, drawn: self.drawn, want })
    }

    /// What comes next will take at least, as far as the log tells.
    fn known_need(&self) -> Amounts {
        if self.generation.is_some() || self.agent.is_none() {
            return Amounts::default();
        }
        let wanted = self.calls.iter().filter(|call| call.state == CallState::Wanted).count();
        if wanted > 0 {
            return Amounts { tool_calls: i64::try_from(wanted).unwrap_or(i64::MAX), ..Amounts::default() };
        }
        self.generation_reservation(i64::from(self.retry.is_none()))
    }
}
