//! From state to state by what keeps a prompt within the window.

use std::sync::Arc;

use mar_proto::session::{EventContent, SummaryCommitted};
use mar_proto::types::part::Content;

use super::super::state::State;
use super::super::summary::{Density, reference};

impl State {
    /// A summary takes the place of what it covers.
    pub(super) fn commit_summary(
        &mut self,
        summary: &SummaryCommitted,
        content: &EventContent,
        counted_seq: Option<i64>,
    ) {
        self.settle(&summary.usage.unwrap_or_default(), counted_seq);
        self.retry = None;
        self.failed_models.clear();
        let message = content.summary.clone().unwrap_or_default();
        if summary.history {
            return self.sum_up_history(summary, message, self.next_seq - 1);
        }
        let replaces = usize::try_from(summary.replaces).unwrap_or(0);
        let end = self.head.saturating_add(replaces).min(self.transcript.len());
        let gone = end - self.head;
        self.transcript.splice(self.head..end, [Arc::new(message)]);
        self.measured = (self.measured + 1).saturating_sub(gone).max(self.head + 1);
        self.summarised = true;
    }

    /// Leaves a reference where the result of a call was.
    pub(super) fn elide(&mut self, call_id: &str) {
        let is_wanted = |content: &Option<Content>| matches!(content, Some(Content::ToolResult(result)) if result.call_id == call_id);
        let holds = |message: &&mut Arc<_>| {
            let message: &Arc<mar_proto::types::Message> = message;
            message.parts.iter().any(|part| is_wanted(&part.content))
        };
        let Some(message) = self.transcript.iter_mut().find(holds) else { return };
        for part in &mut Arc::make_mut(message).parts {
            if let Some(Content::ToolResult(result)) = &mut part.content
                && result.call_id == call_id
            {
                *result = reference(result);
                part.tainted = false;
            }
        }
    }

    /// Notes what the prompt of a turn was counted at, before the turn joins the conversation.
    pub(super) fn measure(&mut self, tokens: i64, bound: i64) {
        if let Some(density) = Density::new(tokens, bound) {
            self.density = Some(density);
            self.measured = self.transcript.len();
        }
    }
}
