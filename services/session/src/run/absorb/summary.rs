//! A generation that was to summarise.

use mar_proto::session::{EventContent, SummaryCommitted, event_leaf::Body};
use time::OffsetDateTime;

use super::super::absorb::Plan;
use super::super::input::{FinishedTurn, Retry};
use super::super::state::{MESSAGE_OVERHEAD, message_bytes};
use super::super::summary::{SUMMARY_EMPTY, SUMMARY_TOO_LONG, summary_message, words};

impl Plan {
    /// Takes a summary in. One that says nothing, or is no shorter than what it would stand for, is a failed try, and paid for.
    pub(super) fn summary(&mut self, turn: &FinishedTurn, replaces: usize, at: OffsetDateTime) {
        let message = summary_message(&words(&turn.message), self.state.tainted);
        let (summary_bytes, replaced_bytes) =
            (message_bytes(&message) + MESSAGE_OVERHEAD, self.state.replaced_bytes(replaces));
        let fault = if words(&turn.message).is_empty() {
            Some((SUMMARY_EMPTY, "the model that was to summarise it said nothing"))
        } else {
            (summary_bytes >= replaced_bytes)
                .then_some((SUMMARY_TOO_LONG, "the model that was to summarise it did not make it shorter"))
        };
        if let Some((reason, why)) = fault {
            let models = std::slice::from_ref(&turn.model);
            return self.fail_generation((reason, why, models), Retry::Bounded, Some(turn.usage), at);
        }
        self.settle(&turn.usage);
        let body = SummaryCommitted {
            step: turn.step,
            attempt: turn.attempt,
            model: turn.model.clone(),
            selection: turn.selection.clone(),
            usage: Some(turn.usage),
            finish_reason: turn.finish_reason.into(),
            replaces: i64::try_from(replaces).unwrap_or(i64::MAX),
            replaced_bytes,
            summary_bytes,
            translation_warnings: turn.translation_warnings.clone(),
            failed_attempts: turn.failed_attempts.clone(),
        };
        let content = EventContent { summary: Some(message), ..EventContent::default() };
        self.emit(at, (Body::SummaryCommitted(body), content));
    }
}
