//! From state to state by what people are asked, and decide.

use std::sync::Arc;

use mar_proto::session::{ApprovalDecided, ApprovalRequested, ApprovalState, EventContent};
use time::OffsetDateTime;

use super::timestamp;
use crate::run::state::{Approval, CallState, Decided, State};

impl State {
    pub(super) fn ask(&mut self, asked: &ApprovalRequested, content: &EventContent, at: OffsetDateTime) {
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

    pub(super) fn decide_approval(&mut self, decided: &ApprovalDecided, content: &EventContent, at: OffsetDateTime) {
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

    /// A call that is over waits for nobody any more.
    pub(super) fn close_question(&mut self, call_id: &str) {
        let pending =
            |approval: &&mut Arc<Approval>| approval.call_id == call_id && approval.state == ApprovalState::Pending;
        if let Some(approval) = self.approvals.values_mut().find(pending) {
            Arc::make_mut(approval).state = ApprovalState::Expired;
        }
    }
}
