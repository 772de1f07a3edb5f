//! Calls: each asked for, issued as often as it may be, and answered once.

use std::collections::BTreeSet;

use mar_proto::session::{FinishReason, ToolIntent, ToolOutcome, ToolReturned};
use mar_proto::tool::ProbeAnswer;

use super::Audit;
use crate::run::tests::fixture::{DELEGATE, PICK};
use crate::run::{Event, MAX_CALL_ATTEMPTS, State};

/// An open or closed call, as its events tell.
#[derive(Debug, Default)]
pub struct CallRecord {
    pub keys: BTreeSet<String>,
    pub attempts: i64,
    /// Harmless to repeat: declared so, or only decided on.
    pub idempotent: bool,
    pub returned: bool,
    /// A human or the caller has it.
    pub held: bool,
    /// It may be issued once more: people agreed, or its probe said that it had not happened.
    pub allowed: bool,
    /// Its probe, or a human, is asked whether it took effect.
    pub in_doubt: bool,
    /// What its probe said of the last attempt.
    pub probed: Option<ProbeAnswer>,
    /// Its last intent was neither answered nor handed to anybody.
    pub in_flight: bool,
    /// Handed to the runtime, which starts child runs for it.
    pub to_delegate: bool,
}

impl Audit {
    pub(super) fn issues(&mut self, intent: &ToolIntent, event: &Event, state: &State) {
        assert!(!self.stopped && self.sealed && !self.waiting && self.generation.is_none());
        assert!(self.owed.contains(&intent.call_id), "nobody asks for {}", intent.call_id);
        assert_ne!(self.finish, FinishReason::ContentFilter, "a call of a turn that its provider cut");
        self.keeps_its_promise(intent, event, state);
        let call = self.calls.entry(intent.call_id.clone()).or_default();
        assert!(!call.returned, "a returned call was issued again");
        call.attempts += 1;
        let elsewhere = [PICK, DELEGATE].contains(&intent.tool.as_str());
        call.idempotent = intent.idempotent || elsewhere || intent.recorded_seq.is_some();
        call.keys.insert(intent.idempotency_key.clone());
        assert_eq!(intent.attempt, call.attempts);
        assert_eq!(call.keys.len(), 1, "another key for the same call");
        let allowed = std::mem::take(&mut call.allowed);
        let free = call.attempts == 1 || call.idempotent && call.attempts <= MAX_CALL_ATTEMPTS;
        assert!((free || allowed) && !call.held && !call.in_doubt, "{intent:?} of {call:?}");
        call.probed = None;
        // What a takeover finds in flight is repeated: a pause lets it come to its end.
        let repeated = std::mem::replace(&mut call.in_flight, true);
        assert!(!self.paused || repeated, "a call of a paused run");
        self.used.tool_calls += i64::from(intent.attempt == 1);
    }

    pub(super) fn returns(&mut self, back: &ToolReturned, event: &Event) {
        assert!(self.owed.remove(&back.call_id), "a result that nobody is owed");
        self.replays(back, event);
        let call = self.calls.entry(back.call_id.clone()).or_default();
        assert!(!call.in_doubt || back.outcome() == ToolOutcome::Unknown, "{back:?} of a call in doubt");
        let expected: &[ToolOutcome] = match call.probed.filter(|_| !call.held && !call.allowed) {
            // What it had answered may be withheld.
            Some(ProbeAnswer::Happened) => &[ToolOutcome::Ok, ToolOutcome::Error],
            Some(ProbeAnswer::Unknown) => &[ToolOutcome::Unknown],
            _ => &[back.outcome()],
        };
        assert!(expected.contains(&back.outcome()), "{back:?} of {call:?}");
        (call.returned, call.held, call.in_flight, call.in_doubt) = (true, false, false, false);
        self.family_returns(back);
        let result = event.content.tool_result.as_ref().unwrap();
        self.receives(result);
    }
}
