//! Forks: what is shared is what the origin's log says, recorded calls have recorded results, and nothing else has effects.

use std::collections::BTreeMap;

use mar_proto::session::{EventShared, OriginRecalled, ToolIntent, ToolReturned, event_leaf::Body, event_shared};
use mar_proto::types::ToolResult;

use super::{Audit, shared_counts};
use crate::run::tests::fixture::SEARCH;
use crate::run::{CallDigest, CallState, Event, State, call_digest};

/// What an auditor knows of the run that a fork was forked from.
#[derive(Debug, Default)]
pub struct OriginRecord {
    /// Its log.
    events: Vec<Event>,
    /// Places of results by call, as the fork has read them.
    recorded: BTreeMap<CallDigest, Vec<i64>>,
    /// How many of them were given.
    given: BTreeMap<CallDigest, usize>,
    /// What the last intent of each call is given.
    promised: BTreeMap<String, Option<i64>>,
}

fn result_at(events: &[Event], seq: i64) -> Option<(&ToolReturned, &ToolResult)> {
    let event = &events[usize::try_from(seq).unwrap()];
    let back = match &event.body {
        Body::ToolReturned(back) => back,
        Body::EventShared(EventShared { body: Some(event_shared::Body::Result(back)), .. }) => back,
        _ => return None,
    };
    Some((back, event.content.tool_result.as_ref()?))
}

impl OriginRecord {
    /// The result that a call is given next: the k-th the k-th, further ones the last.
    fn next(&self, digest: &CallDigest) -> Option<i64> {
        let places = self.recorded.get(digest)?;
        places.get(self.given.get(digest).copied().unwrap_or(0)).or(places.last()).copied()
    }
}

impl Audit {
    /// The run is forked from one whose log says this.
    pub fn forks(&mut self, origin: &[Event]) {
        self.origin = Some(OriginRecord { events: origin.to_vec(), ..OriginRecord::default() });
    }

    /// The origin was read.
    pub(super) fn recalls(&mut self, recalled: &OriginRecalled, event: &Event, state: &State) {
        assert!(!self.sealed && state.fork.is_some());
        let Some(origin) = &mut self.origin else { return };
        assert!(origin.recorded.is_empty(), "it is read once");
        for call in event.content.recorded_calls.iter().flat_map(|recorded| &recorded.calls) {
            let digest = CallDigest::try_from(call.digest.as_ref()).unwrap();
            let (back, _) = result_at(&origin.events, call.seq).expect("a recorded result");
            assert_ne!(back.outcome(), mar_proto::session::ToolOutcome::NotSent, "what was never made has no result");
            origin.recorded.entry(digest).or_default().push(call.seq);
        }
        let count: usize = origin.recorded.values().map(Vec::len).sum();
        assert_eq!(i64::try_from(count), Ok(recalled.recorded_calls));
    }

    /// The fork begins with an event of its origin's.
    pub(super) fn shares(&mut self, shared: &EventShared, event: &Event, state: &State) {
        assert!(!self.sealed && shared.body.is_some());
        match &shared.body {
            Some(event_shared::Body::Rejection(_)) => self.shared_rejections += 1,
            Some(event_shared::Body::Turn(turn)) => {
                assert!(self.turns.insert(turn.step), "step {} is shared twice", turn.step);
                self.finish = turn.finish_reason();
            }
            Some(event_shared::Body::Summary(summary)) => {
                assert!(self.turns.insert(summary.step), "step {} is shared twice", summary.step);
            }
            _ => {}
        }
        self.seen.shares(shared, event);
        self.shortened.shares(shared, event, state);
        event.content.tool_result.iter().for_each(|result| self.receives(result));
        if state.fork.as_ref().is_some_and(|fork| fork.own_task) {
            let read = matches!(shared.body, Some(event_shared::Body::Result(_)));
            assert!(!read && !self.asked, "an agent of its own is shown what its policies have not seen: {shared:?}");
            self.asked = matches!(&shared.body, Some(event_shared::Body::Turn(turn)) if turn.tool_calls > 0);
        }
        self.is_of_the_origin(shared, event, state);
        self.used = self.used + shared_counts(shared);
        self.last_step = state.step;
        let wanted = state.calls.iter().filter(|call| call.state == CallState::Wanted);
        self.owed = wanted.map(|call| call.call_id.clone()).collect();
    }

    /// What is shared stands in the origin's log, and counts as one of the results that are recorded there.
    fn is_of_the_origin(&mut self, shared: &EventShared, event: &Event, state: &State) {
        let Some(origin) = &mut self.origin else { return };
        assert!(shared.seq <= state.fork.as_ref().unwrap().through_seq, "it comes after what both share");
        let Some(event_shared::Body::Result(back)) = &shared.body else { return };
        let (there, result) = result_at(&origin.events, shared.seq).expect("a result of the origin's");
        assert_eq!((there, Some(result)), (back, event.content.tool_result.as_ref()));
        if shared.counted {
            let call = state.calls.iter().find(|call| call.call_id == back.call_id).expect("a call of the turn");
            *origin.given.entry(call_digest(&call.tool, &call.arguments_json)).or_default() += 1;
        }
    }

    /// A call that is recorded has the recorded result; another one is made only where it may be.
    pub(super) fn keeps_its_promise(&mut self, intent: &ToolIntent, event: &Event, state: &State) {
        let Some(origin) = &mut self.origin else {
            assert!(state.fork.is_some() || intent.recorded_seq.is_none(), "nothing is recorded");
            return;
        };
        if intent.attempt > 1 {
            assert_eq!(origin.promised.get(&intent.call_id), Some(&intent.recorded_seq), "a promise is kept");
            return;
        }
        let digest = call_digest(&intent.tool, &event.content.arguments_json);
        let next = origin.next(&digest);
        assert_eq!(intent.recorded_seq, next, "the k-th call has the k-th result: {intent:?}");
        let free = intent.tool == SEARCH || state.fork.as_ref().is_some_and(|fork| fork.allow_effects);
        assert!(next.is_some() || free, "a fork that may have no effects has one: {intent:?}");
        *origin.given.entry(digest).or_default() += usize::from(next.is_some());
        origin.promised.insert(intent.call_id.clone(), next);
    }

    /// A result that is said to be recorded is the one that was promised, to the bit.
    pub(super) fn replays(&self, back: &ToolReturned, event: &Event) {
        let Some(seq) = back.recorded_seq else { return };
        let Some(origin) = &self.origin else { return };
        assert_eq!(origin.promised.get(&back.call_id), Some(&Some(seq)));
        let (there, result) = result_at(&origin.events, seq).expect("a recorded result");
        assert_eq!((there.outcome(), &there.reason), (back.outcome(), &back.reason));
        let mine = event.content.tool_result.as_ref().unwrap();
        assert_eq!(
            (&mine.content, &mine.passages, mine.is_error),
            (&result.content, &result.passages, result.is_error)
        );
    }
}
