//! The machine's own state against what its events say, and how a run may end.

use mar_proto::session::{Answer, ApprovalState, FinishReason, RunEnded, RunState, WaitReason};
use mar_proto::types::{HaltReason, ToolResult, part::Content};

use super::{Audit, children::Family, spent};
use crate::counters::Amounts;
use crate::run::{CallState, Ending, Event, Phase, State};

impl Audit {
    /// After each transition.
    pub fn state(&self, state: &State) {
        assert_eq!(state.used, self.used);
        assert_eq!(state.reserved, self.reserved);
        assert_eq!(state.overshoot, self.overshoot);
        let settled = spent(&state.usage);
        let counted = Amounts { steps: state.used.steps, tool_calls: state.used.tool_calls, ..settled };
        assert_eq!(
            counted + Amounts { steps: 0, tool_calls: 0, ..state.reserved },
            state.used,
            "used is settled plus reserved"
        );
        assert!(state.used.steps <= self.limits.steps && state.used.tool_calls <= self.limits.tool_calls);
        let bound = self.limits + self.overshoot;
        assert_eq!(
            state.used.max(bound),
            bound,
            "a limit was exceeded by more than calls used beyond their reservation"
        );
        assert_eq!(state.active, self.active);
        assert_eq!(state.running_since, self.running_since.map(|since| since + self.lost));
        assert_eq!(state.lost_until, self.lost_until);
        self.phase(state);
        let begun = || self.calls.values().filter(|call| call.attempts > 0 && !call.returned);
        let held = begun().filter(|call| call.held).count();
        let delegated = self.delegated.values().filter(|family| !family.is_returned()).count();
        let doubted = begun().filter(|call| call.in_doubt).count();
        assert_eq!(state.doubted_calls().count(), doubted);
        let open = begun().count() - held - doubted - delegated - self.approved_and_waiting(state);
        assert_eq!(state.open_calls().count(), if state.ended() { 0 } else { open });
        assert!(!state.ended() || begun().next().is_none(), "a call that was begun has no result");
        assert_eq!(state.paused, self.paused);
        let pending = state.approvals.values().filter(|asked| asked.state == ApprovalState::Pending).count();
        let asking = state.calls.iter().filter(|call| matches!(call.state, CallState::Asking { .. })).count();
        assert_eq!(pending, asking, "a question that nothing waits for");
        assert_eq!(state.generation.is_some(), self.generation.is_some());
    }

    /// Approved calls that a pause holds back.
    fn approved_and_waiting(&self, state: &State) -> usize {
        let waiting = state.calls.iter().filter(|call| matches!(call.state, CallState::Approved { .. }));
        let count = waiting.count();
        assert!(count == 0 || self.paused, "an approved call is not issued");
        count
    }

    fn phase(&self, state: &State) {
        match state.phase {
            Phase::Pending(_) => assert!(!self.sealed && !state.in_flight()),
            Phase::Running => assert!(self.sealed && !self.waiting && !self.ended),
            Phase::Waiting(_) => assert!(self.waiting && !state.in_flight()),
            Phase::Ended(_) => assert!(self.ended && !state.in_flight() && self.seals == 1),
        }
        let lacks = state.lack(state.generation_reservation(1).cost_nano_usd).is_some();
        // What was committed may say what comes next: then the run goes on at once.
        let due = state.wake_at().is_some_and(|wake| wake <= state.changed_at);
        let moving = state.in_flight() || state.retry.is_some() || state.stop.is_some() || due || lacks;
        // Its budgets have to cover what the children take, too.
        let due = CallState::Handed { reason: WaitReason::ChildRun };
        let funding = !state.budgets.is_empty() && state.calls.iter().any(|call| call.state == due);
        let moving = moving || funding || state.has_open_children();
        assert!(state.phase != Phase::Running || moving, "a running run that nothing moves");
        assert_eq!(state.wake_at().is_none(), state.ended());
        if state.in_flight() && state.stop.is_none() {
            let wake = state.wake_at().unwrap();
            let pending = state.approvals.values().filter(|asked| asked.state == ApprovalState::Pending);
            let asked = pending.map(|asked| asked.expires_at);
            let limits = [Some(state.expires_at), state.active_deadline()].into_iter().flatten().chain(asked);
            assert_eq!(limits.min(), Some(wake), "a run with something in flight only waits for limits of time");
        }
    }

    /// A result came with passages.
    pub fn receives(&mut self, result: &ToolResult) {
        let texts = result.content.iter().filter_map(|part| match &part.content {
            Some(Content::Text(text)) => Some(text.as_str()),
            _ => None,
        });
        let words = texts.collect::<Vec<_>>().join("\n");
        for passage in &result.passages {
            self.passages.insert(passage.passage_id.clone());
            self.words.entry(passage.passage_id.clone()).or_default().push_str(&words);
        }
    }

    /// The last event.
    pub fn end(&self, ended: &RunEnded, event: &Event, state: &State) {
        assert!(!self.delegated.values().any(Family::is_open), "ended before its children");
        let totals = ended.totals.as_ref().unwrap();
        assert_eq!((totals.steps, totals.tool_calls), (self.used.steps, self.used.tool_calls));
        assert_eq!(totals, &state.totals(event.time), "totals are those of the end");
        assert_eq!(ended.halt_reason() != HaltReason::Unspecified, ended.state() == RunState::Halted);
        match (ended.state(), state.ending.as_ref().unwrap()) {
            (RunState::Succeeded, Ending::Answered(answer)) => self.answers(answer, ended, state),
            (RunState::Halted, Ending::Halted(reason)) => assert_eq!(*reason, ended.halt_reason()),
            (RunState::Cancelled, Ending::Failed(failure)) => {
                assert!(self.stopped && failure.reason == "CANCELLED_BY_CALLER");
            }
            (RunState::Failed | RunState::Denied, Ending::Failed(failure)) => assert!(!failure.reason.is_empty()),
            (state, ending) => panic!("{state:?} with {ending:?}"),
        }
    }

    /// The answer is whole, in the form that its agent has sealed, and cites what was received.
    fn answers(&self, answer: &Answer, ended: &RunEnded, state: &State) {
        assert!(!self.stopped && ended.failure.is_none() && !answer.parts.is_empty());
        assert!(!matches!(self.finish, FinishReason::Length | FinishReason::ContentFilter), "a part of an answer");
        let cited = answer.citations.iter().map(|citation| &citation.passage.as_ref().unwrap().passage_id);
        assert!(cited.into_iter().all(|id| self.passages.contains(id)), "a citation of nothing received");
        for citation in &answer.citations {
            let words = &self.words[&citation.passage.as_ref().unwrap().passage_id];
            let found = !citation.quote.is_empty() && words.contains(citation.quote.trim());
            assert_eq!(citation.quote_found, found, "{citation:?} of {words:?}");
        }
        let sealed = state.agent.as_ref().unwrap().descriptor.as_ref().unwrap();
        let schema = mar_descriptor::Descriptor::parse(&sealed.canonical).unwrap().prompt.output_schema;
        assert_eq!(schema.is_some(), !answer.json.is_empty());
        if schema.is_some() {
            let value: serde_json::Value = serde_json::from_str(&answer.json).unwrap();
            assert!(value["answer"].is_string(), "an answer without its form");
        }
    }
}
