//! Human decisions on calls.

use std::sync::Arc;

use mar_proto::session::ApprovalState;
use time::OffsetDateTime;

use super::{Call, CallState, State};

/// A human decision on one exact call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// `{step}-{index}`
    pub id: String,
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// `tools/{upstream}.{tool}`
    pub tool: String,
    /// The exact arguments.
    pub arguments_json: String,
    /// Whether untrusted content had entered the conversation.
    pub tainted: bool,
    /// What it is bound to, as the gateway computed it.
    pub digest: String,
    /// Why a policy wants it.
    pub message: String,
    /// Who may decide; empty for anybody but the run's own principal.
    pub group: String,
    /// How many have to approve.
    pub needed: i32,
    /// When it was asked for.
    pub asked_at: OffsetDateTime,
    /// When it lapses.
    pub expires_at: OffsetDateTime,
    /// Where it stands.
    pub state: ApprovalState,
    /// Decisions so far, in order.
    pub decisions: Vec<Decided>,
    /// Whether it is on the doubt about a call that was issued.
    pub in_doubt: bool,
}

/// One person's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Who.
    pub principal: String,
    /// Whether the call may go ahead.
    pub approved: bool,
    /// Why.
    pub comment: String,
    /// When.
    pub at: OffsetDateTime,
}

impl State {
    /// When the approvals that are asked for lapse.
    pub(super) fn approvals_due(&self) -> impl Iterator<Item = OffsetDateTime> {
        let asking = self.calls.iter().filter(|call| matches!(call.state, CallState::Asking { .. }));
        asking.filter_map(|call| self.approval(call).map(|approval| approval.expires_at))
    }

    /// The approval that a call waits for, or waited for last.
    pub fn approval(&self, call: &Call) -> Option<&Arc<Approval>> {
        self.approvals.get(call.asked()?)
    }
}
