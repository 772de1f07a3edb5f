//! Calls whose outcome nobody knows.

use mar_proto::session::event_leaf::Body;
use mar_proto::tool::ProbeAnswer;

use super::Audit;
use crate::run::{Decision, Effect, Event, Input, MAX_CALL_ATTEMPTS, State, Timed};

impl Audit {
    pub fn doubted(&mut self, event: &Event) {
        match &event.body {
            Body::CallDoubted(doubted) => {
                assert!(!self.stopped, "a stopped run asks nobody");
                let call = self.calls.get_mut(&doubted.call_id).expect("a call that was intended");
                assert!(call.in_flight && !call.returned && !call.held, "{doubted:?} of {call:?}");
                assert_eq!(call.attempts, doubted.attempt);
                assert!(!call.idempotent || call.attempts >= MAX_CALL_ATTEMPTS, "what may be repeated is");
                assert!(!std::mem::replace(&mut call.in_doubt, true), "doubted twice");
            }
            Body::CallProbed(probed) => {
                let call = self.calls.get_mut(&probed.call_id).expect("a call that was intended");
                assert!(std::mem::take(&mut call.in_doubt), "asked about what nobody doubts");
                assert_eq!(call.attempts, probed.attempt);
                assert!(probed.asked > 0 && event.content.tool_result.is_some(), "no evidence");
                call.probed = Some(probed.answer());
                call.allowed = probed.answer() == ProbeAnswer::DidNotHappen && call.attempts < MAX_CALL_ATTEMPTS;
            }
            _ => unreachable!("no event about doubt"),
        }
    }

    /// Probes are asked for doubts of the same commit, and again by who takes a run over.
    pub fn probes(&self, before: &State, inputs: &[Timed], decision: &Decision) {
        let asked = decision.effects.iter().filter_map(|effect| match effect {
            Effect::Probe { call_id, attempt } => Some((call_id.clone(), *attempt)),
            _ => None,
        });
        let ends = |event: &Event| matches!(event.body, Body::StopRequested(_) | Body::RunEnded(_));
        if decision.events.iter().any(ends) {
            assert_eq!(asked.count(), 0, "asked beside a stop");
            return;
        }
        let doubted = decision.events.iter().filter_map(|event| match &event.body {
            Body::CallDoubted(doubted) if !doubted.probe.is_empty() => Some((doubted.call_id.clone(), doubted.attempt)),
            _ => None,
        });
        let claims = |timed: &Timed| matches!(timed.input, Input::Claimed { epoch, .. } if epoch > before.epoch);
        let taken_over = inputs.iter().filter(|timed| claims(timed)).count() > 0 && before.stop.is_none();
        let left = before.doubted_calls().filter(|_| taken_over).filter_map(|call| match call.state {
            crate::run::CallState::Doubted { attempt } => Some((call.call_id.clone(), attempt)),
            _ => None,
        });
        let (mut asked, mut wanted): (Vec<_>, Vec<_>) = (asked.collect(), doubted.chain(left).collect());
        asked.sort();
        wanted.sort();
        // What an input before the takeover answered is not asked again.
        if taken_over && inputs.len() > 1 {
            assert!(asked.iter().all(|one| wanted.contains(one)));
        } else {
            assert_eq!(asked, wanted, "probes are those of the doubts");
        }
    }
}
