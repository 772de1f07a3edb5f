//! From state to state by what a fork shares with the run that it was forked from.

use std::collections::BTreeMap;
use std::sync::Arc;

use mar_proto::session::{EventContent, EventShared, ForkOrigin, RecordedCalls, event_shared};
use mar_proto::types::part::Content;
use uuid::Uuid;

use super::super::fork::{CallDigest, Fork, call_digest, place};
use super::super::state::State;

/// The fork that an admission names; `None` where it names none that can be.
pub(super) fn fork_of(fork: &ForkOrigin) -> Option<Fork> {
    Some(Fork {
        origin: fork.run.parse().ok()?,
        through_seq: fork.through_seq,
        allow_effects: fork.allow_effects,
        own_task: fork.own_task,
        recorded: None,
        taken: BTreeMap::new(),
    })
}

impl State {
    pub(super) fn recall(&mut self, recorded: Option<&RecordedCalls>) {
        let mut places: BTreeMap<CallDigest, Vec<i64>> = BTreeMap::new();
        for call in recorded.iter().flat_map(|recorded| &recorded.calls) {
            if let Ok(digest) = CallDigest::try_from(call.digest.as_ref()) {
                places.entry(digest).or_default().push(call.seq);
            }
        }
        if let Some(fork) = &mut self.fork {
            fork.recorded = Some(Arc::new(places));
        }
    }

    /// What was shared counts as if the run had done it, but costs nothing.
    pub(super) fn share(&mut self, shared: &EventShared, content: &EventContent, counted_seq: Option<i64>) {
        if counted_seq.is_none() {
            self.counted_seq = -1;
        }
        match &shared.body {
            Some(event_shared::Body::Turn(turn)) => {
                self.leave_history_out(shared.history_left_out);
                self.step = turn.step;
                self.used.steps += 1;
                self.candidate = None;
                let mut content = content.clone();
                for part in content.turn.iter_mut().flat_map(|message| &mut message.parts) {
                    if let Some(Content::ToolCall(call)) = &mut part.content {
                        call.call_id = own_id(self.run, &call.call_id);
                    }
                }
                for call_id in &shared.elided {
                    self.elide(&own_id(self.run, call_id));
                }
                // It is settled where it was generated.
                self.commit_turn(turn, &content, None, shared.input_bound);
            }
            Some(event_shared::Body::Summary(summary)) => {
                self.leave_history_out(shared.history_left_out);
                self.step = summary.step;
                self.used.steps += 1;
                self.commit_summary(summary, content, None);
            }
            Some(event_shared::Body::Result(back)) => {
                let id = own_id(self.run, &back.call_id);
                if shared.counted {
                    self.used.tool_calls += 1;
                    self.take_recorded(&id);
                }
                let mut result = content.tool_result.clone().unwrap_or_default();
                result.call_id.clone_from(&id);
                self.return_call(&id, result);
            }
            Some(event_shared::Body::Rejection(_)) => self.reject(&content.problems),
            None => {}
        }
    }

    /// One more of a call's results is given.
    pub(super) fn take_recorded(&mut self, call_id: &str) {
        let call = self.calls.iter().find(|call| call.call_id == call_id);
        let digest = call.map(|call| call_digest(&call.tool, &call.arguments_json));
        if let (Some(fork), Some(digest)) = (&mut self.fork, digest) {
            *fork.taken.entry(digest).or_default() += 1;
        }
    }
}

/// The id that a call of the first run has in this one.
fn own_id(run: Uuid, call_id: &str) -> String {
    format!("{run}/{}", place(call_id))
}
