//! What is seen of earlier runs, and what becomes of what does not fit.

use std::sync::Arc;

use mar_proto::session::{EventShared, GenerationStarted, SummaryCommitted, event_shared};
use mar_proto::types::{Message, Role};

use crate::run::{Event, History, State};

/// What a reader of events knows of the earlier runs that a run sees.
#[derive(Debug, Default)]
pub struct Seen {
    summary: Option<Arc<Message>>,
    /// Two messages each.
    turns: Vec<Arc<Message>>,
    /// How many of these messages no prompt has shown.
    hidden: usize,
    /// How many messages the summary in flight is to replace.
    due: Option<i64>,
    /// Summaries that were asked for in vain.
    failed: usize,
}

impl Seen {
    pub fn new(history: &History) -> Self {
        Self {
            summary: history.summary.clone(),
            turns: history.older.iter().chain(&history.recent).cloned().collect(),
            hidden: history.older.len(),
            ..Self::default()
        }
    }

    /// A generation is about to be issued.
    pub fn starts(&mut self, started: &GenerationStarted, state: &State) {
        assert_eq!(started.history_left_out > 0, !started.history_left_out_reason.is_empty());
        assert_eq!(
            started.history_left_out_reason == "SUMMARY_FAILED",
            started.history_left_out > 0 && self.failed > 0 && self.hidden > 0
        );
        self.leave_out(started.history_left_out);
        self.due = started.history.then_some(started.replaces);
        if started.history {
            assert_eq!((started.role.as_str(), started.history_left_out, self.failed), ("summarise", 0, 0));
            let new = started.replaces - i64::from(self.summary.is_some());
            assert!(new > 0 && new % 2 == 0, "a summary of nothing new, or of half a turn");
            assert!((self.hidden..=self.turns.len()).contains(&usize::try_from(new).unwrap()));
            assert!(started.attempt > 1 || state.used.steps <= state.limit_amounts().steps / 4 + 1);
        } else {
            assert_eq!(self.hidden, 0, "what nobody sees is neither summed up nor left out");
        }
        self.is_told(state);
    }

    /// A generation yielded nothing.
    pub fn fails(&mut self, retried: bool) {
        self.failed += usize::from(self.due.take().is_some() && !retried);
    }

    /// A generation was refused as too long.
    pub fn refused(&mut self) {
        self.failed += usize::from(self.due.take().is_some());
    }

    /// A summary was committed: of earlier runs, if it is that.
    pub fn sums_up(&mut self, summary: &SummaryCommitted, event: &Event, state: &State) {
        assert_eq!(summary.history, self.due.is_some(), "another summary than was asked for");
        if let Some(due) = self.due.take() {
            assert_eq!(due, summary.replaces);
            assert!(summary.summary_bytes < summary.replaced_bytes, "a summary that is no shorter");
            self.takes_the_place(summary, event);
        }
        self.is_told(state);
    }

    /// A fork begins with an event of its origin's.
    pub fn shares(&mut self, shared: &EventShared, event: &Event) {
        // A task of its own that sees nothing of earlier runs shares the steps all the same.
        if self.summary.is_none() && self.turns.is_empty() {
            return;
        }
        self.leave_out(shared.history_left_out);
        match &shared.body {
            Some(event_shared::Body::Summary(summary)) if summary.history => self.takes_the_place(summary, event),
            _ => {}
        }
    }

    fn takes_the_place(&mut self, summary: &SummaryCommitted, event: &Event) {
        let message = event.content.summary.clone().unwrap();
        let replaced = usize::try_from(summary.replaces).unwrap() - usize::from(self.summary.is_some());
        let covered = self.summary.iter().chain(&self.turns[..replaced]);
        let tainted = covered.flat_map(|message| &message.parts).any(|part| part.tainted);
        assert_eq!(message.parts.iter().any(|part| part.tainted), tainted, "a summary of what is tainted is tainted");
        assert_eq!(message.role(), Role::User);
        self.turns.drain(..replaced);
        self.hidden = self.hidden.saturating_sub(replaced);
        self.summary = Some(Arc::new(message));
    }

    fn leave_out(&mut self, messages: i64) {
        let messages = usize::try_from(messages).unwrap();
        if messages > self.turns.len() {
            assert_eq!(messages, self.turns.len() + 1, "more is left out than there is");
            assert!(self.summary.take().is_some());
        }
        let turns = messages.min(self.turns.len());
        self.turns.drain(..turns);
        self.hidden = self.hidden.saturating_sub(turns);
    }

    /// The prompt shows what there is, before the task.
    fn is_told(&self, state: &State) {
        let shown: Vec<_> = self.summary.iter().chain(&self.turns[self.hidden..]).cloned().collect();
        let before_task = &state.transcript[..state.head - 1];
        assert!(before_task.ends_with(&shown), "{shown:#?} is not what is told: {before_task:#?}");
        let prompt = state.agent.as_ref().unwrap().prompt.len();
        assert_eq!(before_task.len(), prompt - 1 + shown.len(), "more is told than is known of");
    }
}
