//! From state to state by events about generations.

use std::sync::Arc;

use mar_proto::session::{EventContent, GenerationFailed, GenerationStarted, TurnCommitted};
use mar_proto::types::{Message, Usage, part::Content};
use time::{Duration, OffsetDateTime};

use crate::counters::Amounts;
use crate::run::absorb;
use crate::run::amounts::{add_usage, input_tokens};
use crate::run::cut::Cut;
use crate::run::event::repair_request;
use crate::run::state::{Call, CallState, Generation, RetryDue, State};
use crate::run::summary::{Aim, CONTEXT_EXCEEDED, SUMMARISE};

impl State {
    pub(super) fn start_generation(&mut self, started: &GenerationStarted) {
        self.leave_history_out(started.history_left_out);
        for call_id in &started.elided {
            self.elide(call_id);
        }
        let reservation = started.reservation.as_ref().map(Amounts::of_reservation).unwrap_or_default();
        let replaces = usize::try_from(started.replaces).unwrap_or(0);
        let aim = match started.role.as_str() {
            SUMMARISE if started.history => Aim::History { replaces },
            SUMMARISE => Aim::Summary { replaces },
            _ => Aim::Turn,
        };
        self.step = started.step;
        self.calls.clear();
        self.candidate = None;
        self.retry = self.retry.map(|retry| RetryDue { attempt: started.attempt, ..retry });
        self.used = self.used + reservation;
        self.reserved = self.reserved + reservation;
        self.generation = Some(Generation { step: started.step, attempt: started.attempt, reservation, aim });
    }

    /// Closes the generation in flight at what it used. Its step stays used whatever became of it.
    pub(super) fn settle(&mut self, usage: &Usage, counted_seq: Option<i64>) {
        let Some(generation) = self.generation.take() else { return };
        let reserved = Amounts { steps: 0, ..generation.reservation };
        let difference = Amounts::of_usage(usage) - reserved;
        self.used = self.used + difference;
        self.reserved = self.reserved - generation.reservation;
        self.overshoot = self.overshoot + difference.max(Amounts::default());
        add_usage(&mut self.usage, usage);
        if counted_seq.is_none() && !difference.is_zero() {
            self.counted_seq = -1;
        }
    }

    pub(super) fn take_turn(&mut self, turn: &TurnCommitted, content: &EventContent, counted_seq: Option<i64>) {
        let bound = self.generation.as_ref().map_or(0, |open| open.reservation.input_tokens);
        self.commit_turn(turn, content, counted_seq, bound);
    }

    /// Takes a turn in. `bound` is that of its prompt, 0 where it is not known.
    pub(super) fn commit_turn(
        &mut self,
        turn: &TurnCommitted,
        content: &EventContent,
        counted_seq: Option<i64>,
        bound: i64,
    ) {
        let usage = turn.usage.unwrap_or_default();
        // What several attempts have read tells nothing of one prompt.
        if bound > 0 && turn.failed_attempts.is_empty() {
            self.measure(input_tokens(&usage), bound);
        }
        self.settle(&usage, counted_seq);
        self.retry = None;
        self.failed_models.clear();
        self.repairing = false;
        let message = Arc::new(content.turn.clone().unwrap_or_default());
        if says_something(&message) {
            self.transcript.push(Arc::clone(&message));
        }
        self.cut = Cut::of(turn.finish_reason());
        self.calls = self.wanted(&message);
        if self.calls.is_empty() {
            self.candidate = Some(message);
        }
    }

    pub(super) fn reject(&mut self, problems: &str) {
        self.candidate = None;
        self.repaired = true;
        self.repairing = true;
        self.transcript.push(Arc::new(repair_request(problems)));
    }

    /// The calls that a turn asks for, by index.
    fn wanted(&self, message: &Message) -> Vec<Call> {
        let calls = message.parts.iter().filter_map(|part| match &part.content {
            Some(Content::ToolCall(call)) => Some(call),
            _ => None,
        });
        calls
            .map(|call| Call {
                call_id: call.call_id.clone(),
                provider_call_id: call.provider_call_id.clone(),
                tool: call.tool.clone(),
                definition: self.tool(&call.tool).cloned(),
                arguments_json: call.arguments_json.clone(),
                approval: None,
                question: None,
                recorded: None,
                issued_at: None,
                state: CallState::Wanted,
            })
            .collect()
    }

    pub(super) fn fail_generation(&mut self, failed: &GenerationFailed, at: OffsetDateTime, counted_seq: Option<i64>) {
        let usage = failed.usage.unwrap_or_default();
        let aim = self.generation.as_ref().map(|open| open.aim).unwrap_or_default();
        if failed.reason == CONTEXT_EXCEEDED {
            self.narrow();
        }
        self.settle(&usage, counted_seq);
        if !failed.retried {
            self.history.given_up |= matches!(aim, Aim::History { .. });
            self.retry = None;
            return;
        }
        // Another model need not wait for one that may recover.
        let tries = if self.finds_another(&failed.models) { 1 } else { failed.attempt };
        let reached = self.reached_with(&failed.models) + i64::from(absorb::reaches_provider(&failed.reason));
        for model in &failed.models {
            if !self.failed_models.contains(model) {
                self.failed_models.push(model.clone());
            }
        }
        let at_once = [absorb::LOST, CONTEXT_EXCEEDED].contains(&failed.reason.as_str());
        let delay = if at_once { Duration::ZERO } else { backoff(tries) };
        self.retry = Some(RetryDue { reached, attempt: failed.attempt, at: at + delay });
    }

    /// Attempts that count when one more fails with these models. As long as each attempt finds other models dead than the ones
    /// before, there may be a live one behind them: the count begins anew.
    pub(in crate::run) fn reached_with(&self, models: &[String]) -> i64 {
        if self.finds_another(models) { 0 } else { self.retry.map_or(0, |retry| retry.reached) }
    }

    fn finds_another(&self, models: &[String]) -> bool {
        models.iter().any(|model| !self.failed_models.contains(model))
    }
}

/// Whether a turn belongs into the conversation: no provider takes back an empty one.
fn says_something(message: &Message) -> bool {
    message.parts.iter().any(|part| match &part.content {
        Some(Content::Text(text)) => !text.trim().is_empty(),
        content => content.is_some(),
    })
}

/// Pause before attempt `attempt + 1`: 250 ms doubling up to 30 s.
fn backoff(attempt: i64) -> Duration {
    let doublings = u32::try_from(attempt.clamp(1, 8) - 1).unwrap_or(0);
    (Duration::milliseconds(250) * 2_i32.pow(doublings)).min(Duration::seconds(30))
}
