//! Showing approvals beside the log, where people look for them. The log is the truth: what cannot be noted now is noted
//! before the run parks, or by its next executor.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;

use super::Executor;
use crate::run::Approval;
use crate::store::{self, ApprovalRow};
use crate::view;

/// What was noted of approvals.
#[derive(Debug, Default)]
pub(super) struct Approvals(BTreeMap<String, Arc<Approval>>);

impl Executor {
    /// Notes approvals that have changed; a failure is only told.
    pub(super) async fn note_approvals(&mut self) {
        if let Err(error) = self.try_note_approvals().await {
            tracing::warn!(run.id = %self.state.run, error = %mar_runtime::status::chain(&error), "approvals not noted");
        }
    }

    /// Notes approvals that have changed.
    pub(super) async fn try_note_approvals(&mut self) -> Result<(), store::Error> {
        let changed: Vec<(&String, &Arc<Approval>)> =
            self.state.approvals.iter().filter(|(id, now)| self.approvals.0.get(*id) != Some(now)).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let row = |(id, approval): &(&String, &Arc<Approval>)| ApprovalRow {
            session: self.state.session,
            run: self.state.run,
            id: (*id).clone(),
            state: approval.state as i16,
            body: view::approval(&self.state, approval).encode_to_vec().into(),
            create_time: approval.asked_at,
        };
        let rows: Vec<ApprovalRow> = changed.iter().map(row).collect();
        self.shared.store.approval_put(&self.context.caller.tenant, &rows).await?;
        self.approvals.0.clone_from(&self.state.approvals);
        Ok(())
    }
}
