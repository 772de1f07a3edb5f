//! What a run sees of its session's earlier runs: a summary of the old ones, and the newest turns as they are.
//!
//! Turns that do not fit beside them come with the run's first event, for the run to sum up before its first turn: a
//! generation in the role `summarise`, like that for its own steps, of which later runs of the session see the result. Once the
//! prompt is found to be longer than the window, the rest is summed up likewise, after the run's own steps.
//!
//! A run never fails for the sake of what came before it: what cannot be summed up is left out, and the log says why.

use std::sync::Arc;

use mar_proto::session::{HistorySummary, SummaryCommitted};
use mar_proto::types::{Message, Role};

use super::answer::Summariser;
use super::state::{MESSAGE_OVERHEAD, State, message_bytes};
use super::summary::{Aim, Upcoming, write_message};

/// The descriptor seals nobody who sums up.
const NO_SUMMARISER: &str = "NO_SUMMARISER";
/// A limit of the run has too little room for a summary.
const LIMITS: &str = "LIMITS";
/// No attempt yielded a summary.
const SUMMARY_FAILED: &str = "SUMMARY_FAILED";
/// The window has no room.
const CONTEXT_WINDOW: &str = "CONTEXT_WINDOW";
/// What stands before a summary.
pub(super) const INTRODUCTION: &str = "Notes on the earlier turns of this conversation, which are left out here:\n\n";

/// What a run sees of its session's earlier runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// The summary of the oldest.
    pub summary: Option<Arc<Message>>,
    /// Where that is in the logs.
    pub origin: Option<Arc<HistorySummary>>,
    /// Turns behind it that are not shown: to be summed up, or left out. Two messages each, as are the recent ones.
    pub older: Vec<Arc<Message>>,
    /// The newest turns.
    pub recent: Vec<Arc<Message>>,
    /// `sessions/{session}/runs/{run}` of each turn, older ones first.
    pub runs: Vec<Arc<str>>,
    /// The most tokens of a summary; 0 for none.
    pub summary_tokens: i64,
    /// Whether a summary was asked for in vain.
    pub given_up: bool,
    /// Whether the router has found a prompt too long.
    pub refused: bool,
}

/// Messages of earlier runs that a prompt does without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LeftOut {
    /// How many, oldest first; a summary counts as the last.
    pub messages: usize,
    /// Why; empty where there are none.
    pub reason: &'static str,
}

impl History {
    /// As a run's first event has it.
    pub(super) fn new(seen: mar_proto::session::History) -> Self {
        Self {
            summary: seen.summary.map(Arc::new),
            origin: seen.summary_origin.map(Arc::new),
            older: seen.older.into_iter().map(Arc::new).collect(),
            recent: seen.messages.into_iter().map(Arc::new).collect(),
            runs: seen.runs.iter().map(|run| run.as_str().into()).collect(),
            summary_tokens: seen.summary_tokens,
            given_up: false,
            refused: false,
        }
    }

    /// Whether anything in it is tainted.
    pub(super) fn is_tainted(&self) -> bool {
        self.summary.iter().chain(self.turns()).any(|message| is_tainted(message))
    }

    /// What prompts have of it.
    pub fn shown(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.summary.iter().chain(&self.recent)
    }

    fn turns(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.older.iter().chain(&self.recent)
    }

    /// What a summary takes the place of.
    fn replaced(&self, replaces: usize) -> impl Iterator<Item = &Arc<Message>> {
        self.summary.iter().chain(self.turns()).take(replaces)
    }

    fn is_empty(&self) -> bool {
        self.summary.is_none() && self.turns().next().is_none()
    }

    /// Size of what a summary takes the place of.
    pub(super) fn replaced_bytes(&self, replaces: usize) -> i64 {
        self.replaced(replaces).fold(0, |sum, message| sum.saturating_add(size(message)))
    }

    /// Whether a summary of so many messages is tainted.
    pub(super) fn taints(&self, replaces: usize) -> bool {
        self.replaced(replaces).any(|message| is_tainted(message))
    }

    /// The last run that a summary of so many messages covers.
    pub(super) fn through(&self, replaces: usize) -> String {
        let turns = replaces.saturating_sub(usize::from(self.summary.is_some())) / 2;
        turns.checked_sub(1).and_then(|last| self.runs.get(last)).map(|run| (**run).to_owned()).unwrap_or_default()
    }

    /// What is to be summed up, as text.
    pub(super) fn material(&self, replaces: usize) -> String {
        let mut text = String::from("# The conversation so far\n");
        for message in self.replaced(replaces) {
            if message.role() == Role::User {
                text.push_str("User: ");
            }
            write_message(&mut text, message);
        }
        text
    }

    /// A summary takes the place of its oldest messages.
    fn sum_up(&mut self, replaces: usize, summary: Message, origin: HistorySummary) {
        self.leave_turns_out(replaces.saturating_sub(usize::from(self.summary.is_some())));
        self.summary = Some(Arc::new(summary));
        self.origin = Some(Arc::new(origin));
    }

    fn leave_out(&mut self, messages: usize) {
        let turns = self.older.len() + self.recent.len();
        if messages > turns {
            (self.summary, self.origin) = (None, None);
        }
        self.leave_turns_out(messages);
    }

    fn leave_turns_out(&mut self, messages: usize) {
        let older = messages.min(self.older.len());
        self.older.drain(..older);
        let recent = (messages - older).min(self.recent.len());
        self.recent.drain(..recent);
        self.runs.drain(..((older + recent) / 2).min(self.runs.len()));
    }
}

impl State {
    /// A summary of earlier runs stands in the place of what it covers; `seq` is its event's.
    pub(super) fn sum_up_history(&mut self, summary: &SummaryCommitted, message: Message, seq: i64) {
        // A fork whose task wants to see nothing shares the step all the same.
        if self.history.is_empty() {
            return;
        }
        let origin = HistorySummary {
            run: crate::view::run_name(self.session, self.run),
            seq,
            through: summary.history_through.clone(),
        };
        let replaces = usize::try_from(summary.replaces).unwrap_or(0);
        self.change_history(|history| history.sum_up(replaces, message, origin));
    }

    /// Messages of earlier runs are left out from now on.
    pub(super) fn leave_history_out(&mut self, messages: i64) {
        let messages = usize::try_from(messages).unwrap_or(0);
        if messages > 0 {
            self.change_history(|history| history.leave_out(messages));
        }
    }

    /// Changes what is seen of earlier runs, in the conversation, too, once it has an agent's prompt around it.
    fn change_history(&mut self, change: impl FnOnce(&mut History)) {
        let before = self.history.shown().count();
        change(&mut self.history);
        let Some(start) = self.history_start(before) else { return };
        let shown: Vec<Arc<Message>> = self.history.shown().cloned().collect();
        let after = shown.len();
        self.transcript.splice(start..start + before, shown);
        self.head = self.head + after - before;
        self.measured = (self.measured + after).saturating_sub(before);
    }

    /// Where so many messages of earlier runs begin in the conversation: before the task, which is the last of its head.
    fn history_start(&self, shown: usize) -> Option<usize> {
        self.agent.as_ref()?;
        self.head.checked_sub(1 + shown)
    }

    /// The summary of earlier runs that is due: of turns that are not shown, or, where the prompt is found to be too long, of all.
    pub(super) fn due_history(&self, too_long: bool) -> Option<Upcoming> {
        let (older, recent) = (self.history.older.len(), self.history.recent.len());
        let turns = if too_long { older + recent } else { older };
        if turns == 0 || self.history.given_up || !self.may_sum_up_history() {
            return None;
        }
        let replaces = turns + usize::from(self.history.summary.is_some());
        let summariser = self.summariser.as_deref()?;
        let upcoming = Upcoming {
            aim: Aim::History { replaces },
            input_tokens: super::summary::request_bound(summariser, &self.history.material(replaces)),
            output_tokens: self.history_output(summariser),
            ..Upcoming::default()
        };
        self.is_within_half(&upcoming).then_some(upcoming)
    }

    fn history_output(&self, summariser: &Summariser) -> i64 {
        summariser.max_output_tokens.min(self.history.summary_tokens)
    }

    /// A summary comes in the first quarter of a run's steps.
    fn may_sum_up_history(&self) -> bool {
        let steps = self.limit_amounts().steps;
        self.history.summary_tokens > 0 && steps >= 4 && self.used.steps.saturating_mul(4) <= steps
    }

    /// Whether a summary leaves half of what the run may use to its task.
    fn is_within_half(&self, upcoming: &Upcoming) -> bool {
        let (limits, used) = (self.limit_amounts(), self.used + self.reservation_of(upcoming, 0));
        used.input_tokens <= limits.input_tokens / 2
            && used.output_tokens <= limits.output_tokens / 2
            && used.cost_nano_usd <= limits.cost_nano_usd / 2
    }

    /// What a turn does without of earlier runs: what is not shown and was not summed up, and, oldest first, what the prompt has
    /// no room for. The sizes of what was shown become 0.
    pub(super) fn left_out(&self, sizes: &mut [i64], too_long: impl Fn(&[i64]) -> bool) -> LeftOut {
        let history = &self.history;
        let mut messages = history.older.len();
        let mut reason = match messages {
            0 => "",
            _ if self.summariser.is_none() => NO_SUMMARISER,
            _ if history.given_up => SUMMARY_FAILED,
            _ => LIMITS,
        };
        let shown = history.shown().count();
        let Some(start) = self.history_start(shown) else { return LeftOut { messages, reason } };
        let first = start + usize::from(history.summary.is_some());
        // A turn is left out whole, and the summary last.
        let turns = (first..start + shown).collect::<Vec<_>>();
        let summary = history.summary.as_ref().map(|_| vec![start]);
        for group in turns.chunks(2).map(<[usize]>::to_vec).chain(summary) {
            if !too_long(sizes) {
                break;
            }
            group.iter().for_each(|at| sizes[*at] = 0);
            messages += group.len();
            reason = if reason.is_empty() { CONTEXT_WINDOW } else { reason };
        }
        LeftOut { messages, reason }
    }
}

fn size(message: &Message) -> i64 {
    message_bytes(message) + MESSAGE_OVERHEAD
}

fn is_tainted(message: &Message) -> bool {
    message.parts.iter().any(|part| part.tainted)
}
