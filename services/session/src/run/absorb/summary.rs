//! A generation that was to summarise.

use mar_proto::session::{EventContent, SummaryCommitted, event_leaf::Body};
use time::OffsetDateTime;

use super::super::absorb::Plan;
use super::super::history;
use super::super::input::{FinishedTurn, Retry};
use super::super::state::{MESSAGE_OVERHEAD, message_bytes};
use super::super::summary::{Aim, INTRODUCTION, SUMMARY_EMPTY, SUMMARY_TOO_LONG, summary_message, words};

impl Plan {
    /// Takes a summary in. One that says nothing, or is no shorter than what it would stand for, is a failed attempt, and paid for.
    pub(super) fn summary(&mut self, turn: &FinishedTurn, aim: Aim, at: OffsetDateTime) {
        let (text, earlier) = (words(&turn.message), &self.state.history);
        let (message, replaces, replaced_bytes, history_through) = match aim {
            Aim::Turn => return,
            Aim::Summary { replaces } => {
                let message = summary_message(INTRODUCTION, &text, self.state.tainted);
                (message, replaces, self.state.replaced_bytes(replaces), String::new())
            }
            Aim::History { replaces } => {
                let message = summary_message(history::INTRODUCTION, &text, earlier.taints(replaces));
                (message, replaces, earlier.replaced_bytes(replaces), earlier.through(replaces))
            }
        };
        let summary_bytes = message_bytes(&message) + MESSAGE_OVERHEAD;
        let fault = if text.is_empty() {
            Some((SUMMARY_EMPTY, "the model that was to summarise it said nothing"))
        } else {
            (summary_bytes >= replaced_bytes)
                .then_some((SUMMARY_TOO_LONG, "the model that was to summarise it did not make it shorter"))
        };
        if let Some((reason, why)) = fault {
            let models = std::slice::from_ref(&turn.model);
            return self.fail_generation((reason, why), (models, &[]), Retry::Bounded, Some(turn.usage), at);
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
            history: matches!(aim, Aim::History { .. }),
            history_through,
        };
        let content = EventContent { summary: Some(message), ..EventContent::default() };
        self.emit(at, (Body::SummaryCommitted(body), content));
    }
}
