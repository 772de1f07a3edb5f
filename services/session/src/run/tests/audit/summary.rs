//! What may be left out of prompts, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mar_proto::session::{EventShared, GenerationStarted, SummaryCommitted, event_shared};
use mar_proto::types::{Message, Role, ToolResult, part::Content};

use crate::run::{Event, State};

/// What a reader of events knows of the prompts of a run.
#[derive(Debug, Default)]
pub struct Shortened {
    /// Calls that a summary stands for.
    covered: BTreeSet<String>,
    /// Calls whose results were left out.
    elided: BTreeSet<String>,
    /// Every result as a prompt had it first.
    results: BTreeMap<String, ToolResult>,
    /// The conversation as the generation in flight had it.
    sent: Vec<Arc<Message>>,
    /// How many messages the summary in flight is to replace.
    due: Option<i64>,
    /// The summary that prompts have now.
    summary: Option<Arc<Message>>,
}

fn results(transcript: &[Arc<Message>]) -> impl Iterator<Item = &ToolResult> {
    transcript.iter().flat_map(|message| &message.parts).filter_map(|part| match &part.content {
        Some(Content::ToolResult(result)) => Some(result),
        _ => None,
    })
}

impl Shortened {
    /// A generation is about to be issued.
    pub fn starts(&mut self, started: &GenerationStarted, state: &State) {
        let task = state.agent.as_ref().unwrap().prompt.last();
        assert_eq!(state.transcript.get(state.head - 1).map(|message| &**message), task, "the task is told as it is");
        self.last_exchange_is_whole(&started.elided, state);
        for call_id in &started.elided {
            assert!(self.results.contains_key(call_id), "{call_id} was left out before it was sent");
            assert!(self.elided.insert(call_id.clone()), "{call_id} was left out twice");
        }
        for result in results(&state.transcript) {
            assert!(!self.covered.contains(&result.call_id), "{} is sent beside its summary", result.call_id);
            let first = self.results.entry(result.call_id.clone()).or_insert_with(|| result.clone());
            assert_eq!(first.passages, result.passages, "what may be cited stays");
            if self.elided.contains(&result.call_id) {
                assert_ne!(first.content, result.content);
                let text = format!("{:?}", result.content);
                assert!(text.contains(&result.call_id), "a reference that names nothing: {text}");
                assert!(result.passages.iter().all(|passage| text.contains(&passage.passage_id)));
            } else {
                assert_eq!(first.content, result.content, "a result that was changed");
            }
        }
        let shown = state.transcript.get(state.head).filter(|_| self.summary.is_some());
        assert_eq!(shown, self.summary.as_ref(), "a summary stays until the next one");
        assert_eq!(started.role.is_empty(), started.replaces == 0);
        self.due = (!started.role.is_empty() && !started.history).then_some(started.replaces);
        self.sent.clone_from(&state.transcript);
    }

    /// A fork begins with an event of its origin's, which may have left something out.
    pub fn shares(&mut self, shared: &EventShared, event: &Event, state: &State) {
        let own = |call_id: &String| format!("{}/{}", state.run, call_id.split_once('/').unwrap().1);
        self.elided.extend(shared.elided.iter().map(own));
        match &shared.body {
            Some(event_shared::Body::Result(back)) => {
                self.results.insert(own(&back.call_id), event.content.tool_result.clone().unwrap());
            }
            Some(event_shared::Body::Summary(summary)) if !summary.history => {
                let there: BTreeSet<&String> = results(&state.transcript).map(|result| &result.call_id).collect();
                self.covered.extend(self.results.keys().filter(|call_id| !there.contains(call_id)).cloned());
                self.summary = event.content.summary.clone().map(Arc::new);
            }
            _ => {}
        }
    }

    /// A turn was committed: nothing was to be summed up.
    pub fn turns(&self) {
        assert_eq!(self.due, None, "a turn where a summary is due");
    }

    /// A summary was committed.
    pub fn sums_up(&mut self, summary: &SummaryCommitted, event: &Event, state: &State) {
        assert_eq!(self.due.take(), Some(summary.replaces), "another summary than was asked for");
        let (head, behind) = self.sent.split_at(state.head);
        let (gone, kept) = behind.split_at(usize::try_from(summary.replaces).unwrap());
        let new = gone.len() - usize::from(self.summary.is_some());
        assert!(new > 0, "a summary of nothing new");
        assert!(self.summary.is_none() || gone.first() == self.summary.as_ref(), "an earlier summary is lost");
        assert!(kept.first().is_some_and(|message| message.role() == Role::Assistant), "the last exchange is dropped");
        for result in results(gone) {
            assert!(self.covered.insert(result.call_id.clone()), "{} is summed up twice", result.call_id);
        }
        let message = Arc::new(event.content.summary.clone().unwrap());
        assert!(summary.summary_bytes < summary.replaced_bytes, "a summary that is no shorter");
        let expected: Vec<_> = head.iter().chain([&message]).chain(kept).cloned().collect();
        assert_eq!(state.transcript, expected, "a summary takes the place of what it replaces, and of nothing else");
        let tainted = message.parts.iter().any(|part| part.tainted);
        assert_eq!(tainted, state.tainted, "a summary of what is tainted is tainted");
        self.summary = Some(message);
    }

    /// What came back last is sent as it is.
    fn last_exchange_is_whole(&self, elided: &[String], state: &State) {
        let last = state.transcript.iter().rposition(|message| message.role() == Role::Assistant);
        let Some(last) = last.filter(|at| *at >= state.head) else { return };
        for result in results(&state.transcript[last..]) {
            assert!(
                !elided.contains(&result.call_id) && !self.elided.contains(&result.call_id),
                "the last result is gone"
            );
        }
    }
}
