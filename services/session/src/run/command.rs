//! What people want of a run, and the calls that wait for them.

use mar_proto::session::{
    ApprovalDecided, ApprovalQuestion, ApprovalRequested, ApprovalState, CallHandedOver, EventContent, PauseRequested,
    ToolOutcome, WaitReason, event_leaf::Body,
};
use mar_proto::types::{Origin, ToolResult};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Effect;
use super::absorb::Plan;
use super::doubt::{refused, unknown};
use super::event::{Draft, parked, resumed, tool_intent, tool_returned, tool_unanswered};
use super::input::{ApprovalWanted, CallReturn, Command, Reply, Resolution, Submission};
use super::state::{Call, CallState, Phase};
use crate::log::stamp;

impl Plan {
    /// Takes a command that has not taken effect before. One that fits the run's state no more changes nothing.
    pub(super) fn take(&mut self, id: Uuid, command: &Command, at: OffsetDateTime) {
        if self.state.commands.contains(&id) {
            return;
        }
        self.command = Some(id);
        match command {
            Command::Cancel { reason, principal } => self.cancel(reason, principal, at),
            Command::HaltWithParent => self.halt_with_parent(at),
            Command::ChildEnded { run, end } => self.child_ended(*run, end, at),
            Command::Pause { principal } => self.pause(principal, at),
            Command::Resume => {
                if self.state.paused && self.state.stop.is_none() {
                    let draft = resumed(&self.state, WaitReason::Paused);
                    self.emit(at, draft);
                }
            }
            Command::Renew => self.renew_now(at),
            Command::Resolve(resolution) => self.resolve(resolution, at),
            Command::ToolResult(submission) => self.give_result(submission, at),
            Command::Input(reply) => self.give_input(reply, at),
        }
        self.command = None;
    }

    fn pause(&mut self, principal: &str, at: OffsetDateTime) {
        if !self.state.paused && self.state.stop.is_none() {
            let content = EventContent { principal: principal.to_owned(), ..EventContent::default() };
            self.emit(at, (Body::PauseRequested(PauseRequested {}), content));
        }
    }

    /// A call that a policy lets happen only when somebody agrees. One that was approved already and is asked about again
    /// was not the call that was approved.
    pub(super) fn ask(&mut self, wanted: &ApprovalWanted, at: OffsetDateTime) {
        let Some(call) = self.open_call(&wanted.call_id, wanted.attempt) else { return };
        if self.state.stop.is_some() {
            return self.emit(at, not_sent(&call));
        }
        if call.approval.is_some() {
            let text = "APPROVAL_REQUIRED: the approval does not cover this call";
            return self.emit(at, tool_unanswered(&call, ToolOutcome::Denied, "APPROVAL_REQUIRED", text));
        }
        let lapses = at.checked_add(wanted.expires_after).unwrap_or(self.state.expires_at);
        let body = ApprovalRequested {
            approval: approval_id(&call.call_id),
            call_id: call.call_id,
            group: wanted.group.clone(),
            needed: wanted.needed.max(1),
            expire_time: Some(stamp(lapses.min(self.state.expires_at))),
            policy_hashes: wanted.policy_hashes.clone(),
        };
        let question = ApprovalQuestion { call_digest: wanted.digest.clone(), message: wanted.message.clone() };
        let content = EventContent {
            approval: Some(question),
            decision_json: wanted.decision_json.clone(),
            ..EventContent::default()
        };
        self.emit(at, (Body::ApprovalRequested(body), content));
    }

    /// A call that the caller makes, or child runs do.
    pub(super) fn hand_over(
        &mut self,
        (call_id, attempt): (&str, i64),
        reason: WaitReason,
        (decision_json, policy_hashes): (&str, &[String]),
        at: OffsetDateTime,
    ) {
        let Some(call) = self.open_call(call_id, attempt) else { return };
        if self.state.stop.is_some() {
            return self.emit(at, not_sent(&call));
        }
        if reason == WaitReason::ChildRun && !self.may_delegate(&call, at) {
            return;
        }
        let body =
            CallHandedOver { call_id: call.call_id, reason: reason.into(), policy_hashes: policy_hashes.to_vec() };
        let content = EventContent { decision_json: decision_json.to_owned(), ..EventContent::default() };
        self.emit(at, (Body::CallHandedOver(body), content));
    }

    fn open_call(&self, call_id: &str, attempt: i64) -> Option<Call> {
        let open = |call: &&Call| call.call_id == call_id && call.state == CallState::Open { attempt };
        self.state.calls.iter().find(open).cloned()
    }

    /// A decision counts once a person, before the approval lapses, and never when it is the requester's own.
    fn resolve(&mut self, resolution: &Resolution, at: OffsetDateTime) {
        let asking = self.state.calls.iter().find(|call| {
            let named = call.asked() == Some(&resolution.approval);
            named && matches!(call.state, CallState::Asking { .. })
        });
        let Some(call) = asking.cloned() else { return };
        let Some(approval) = self.state.approval(&call).cloned() else { return };
        if self.state.stop.is_some() {
            return;
        }
        let decided = approval.decisions.iter().any(|one| one.principal == resolution.principal);
        let own = *resolution.principal == *self.state.principal;
        if decided || own || at >= approval.expires_at || approval.digest != resolution.digest {
            return;
        }
        let approvals = approval.decisions.iter().filter(|one| one.approved).count() + 1;
        let state = match resolution.approved {
            false => ApprovalState::Denied,
            true if i32::try_from(approvals).unwrap_or(i32::MAX) >= approval.needed => ApprovalState::Approved,
            true => ApprovalState::Pending,
        };
        let decision = if resolution.approved { ApprovalState::Approved } else { ApprovalState::Denied };
        let content = EventContent {
            principal: resolution.principal.clone(),
            comment: resolution.comment.clone(),
            ..EventContent::default()
        };
        self.emit(at, (decided_body(&approval.id, decision, state), content));
        if state == ApprovalState::Denied {
            let said = if resolution.comment.is_empty() { "no reason was given" } else { &resolution.comment };
            let text = format!("APPROVAL_DENIED: a human refused this call: {said}");
            self.emit(at, refused(&call, &approval, &text));
        }
    }

    /// Approvals that nobody decided in time.
    pub(super) fn lapse(&mut self) {
        if self.state.stop.is_some() {
            return;
        }
        let asking = self.state.calls.iter().filter(|call| matches!(call.state, CallState::Asking { .. }));
        let lapsed: Vec<Call> = asking
            .filter(|call| self.state.approval(call).is_some_and(|approval| self.now >= approval.expires_at))
            .cloned()
            .collect();
        for call in lapsed {
            let Some(approval) = self.state.approval(&call).cloned() else { continue };
            let body = decided_body(&approval.id, ApprovalState::Expired, ApprovalState::Expired);
            self.emit(self.now, (body, EventContent::default()));
            let text = "APPROVAL_EXPIRED: nobody decided on this call in time";
            self.emit(self.now, refused(&call, &approval, text));
        }
    }

    /// The result of a call in the caller's hands.
    fn give_result(&mut self, given: &Submission, at: OffsetDateTime) {
        let Some(call) = self.handed(WaitReason::ToolResult, &given.result.call_id) else { return };
        let mut result = given.result.clone();
        // What comes from outside of the runtime is not trusted, whoever brings it.
        for part in &mut result.content {
            part.tainted |= part.origin() != Origin::Platform;
        }
        let (outcome, reason) =
            if result.is_error { (ToolOutcome::Error, "TOOL_ERROR") } else { (ToolOutcome::Ok, "") };
        let back = CallReturn {
            decision_json: given.decision_json.clone(),
            policy_hashes: given.policy_hashes.clone(),
            size_bytes: given.size_bytes,
            ..submitted(&call, outcome, reason, result)
        };
        let (body, mut content) = tool_returned(&call, &back);
        content.principal.clone_from(&given.principal);
        self.emit(at, (body, content));
    }

    /// What the caller says to the call that asks it.
    fn give_input(&mut self, reply: &Reply, at: OffsetDateTime) {
        let Some(call) = self.handed(WaitReason::Input, &reply.call_id) else { return };
        let result = ToolResult { content: reply.parts.clone(), ..ToolResult::default() };
        let (body, mut content) = tool_returned(&call, &submitted(&call, ToolOutcome::Ok, "", result));
        for part in content.tool_result.iter_mut().flat_map(|result| &mut result.content) {
            part.set_origin(Origin::Caller);
        }
        content.principal.clone_from(&reply.principal);
        self.emit(at, (body, content));
    }

    fn handed(&self, wanted: WaitReason, call_id: &str) -> Option<Call> {
        if self.state.stop.is_some() {
            return None;
        }
        let held = |call: &&Call| call.state == CallState::Handed { reason: wanted } && call.call_id == call_id;
        self.state.calls.iter().find(held).cloned()
    }

    /// Issues what was approved. It was counted when it was first intended.
    pub(super) fn issue_approved(&mut self) {
        if self.state.paused {
            return;
        }
        let approved = self.state.calls.iter().filter_map(|call| match call.state {
            CallState::Approved { attempt } => Some((call.clone(), attempt + 1)),
            _ => None,
        });
        for (call, attempt) in approved.collect::<Vec<_>>() {
            if let Phase::Waiting(reason) = self.state.phase {
                let draft = resumed(&self.state, reason);
                self.emit(self.now, draft);
            }
            let intent = tool_intent(&self.state, &call, attempt);
            self.emit(self.now, intent);
            self.effects.push(Effect::Invoke { call_id: call.call_id, attempt });
        }
    }

    /// Records what the run waits for, where that is new.
    pub(super) fn park(&mut self) {
        if let Some(reason) = self.state.parks_for()
            && self.state.phase != Phase::Waiting(reason)
        {
            self.emit(self.now, parked(reason));
        }
    }

    /// Closes the calls that people hold when the run stops. A call that was handed over, or is in doubt, may have been made.
    pub(super) fn drop_held(&mut self) {
        for call in self.state.held_calls().cloned().collect::<Vec<_>>() {
            let handed = matches!(call.state, CallState::Handed { reason } if reason != WaitReason::ChildRun);
            let may_have_been_made = handed || call.question.is_some();
            let draft = if may_have_been_made { unknown(&call) } else { not_sent(&call) };
            self.emit(self.now, draft);
        }
    }
}

fn not_sent(call: &Call) -> Draft {
    tool_unanswered(call, ToolOutcome::NotSent, "CANCELLED", "the run was stopped before the call was made")
}

fn decided_body(approval: &str, decision: ApprovalState, state: ApprovalState) -> Body {
    let approval = approval.to_owned();
    Body::ApprovalDecided(ApprovalDecided { approval, decision: decision.into(), state: state.into() })
}

/// `{step}-{index}` of `{run}/{step}/{index}`.
fn approval_id(call_id: &str) -> String {
    call_id.split_once('/').map_or(call_id, |(_, place)| place).replace('/', "-")
}

fn submitted(call: &Call, outcome: ToolOutcome, reason: &str, result: ToolResult) -> CallReturn {
    let size = result.content.iter().map(prost::Message::encoded_len).sum::<usize>();
    CallReturn {
        call_id: call.call_id.clone(),
        attempt: 0,
        outcome,
        reason: reason.to_owned(),
        result,
        decision_json: String::new(),
        policy_hashes: Vec::new(),
        recorded: false,
        size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
        duration_ms: 0,
    }
}
