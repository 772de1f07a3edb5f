//! What people hold: approvals, calls of the caller, pauses.

use std::collections::BTreeSet;

use mar_proto::session::{
    ApprovalDecided, ApprovalRequested, ApprovalState, CallHandedOver, WaitReason, event_leaf::Body,
};
use time::OffsetDateTime;

use super::Audit;
use crate::run::{Event, State, timestamp};

/// An approval, as its events tell.
#[derive(Debug)]
pub struct Asked {
    call_id: String,
    needed: usize,
    lapses: OffsetDateTime,
    approvers: BTreeSet<String>,
    over: bool,
}

impl Audit {
    /// A command brings events about in one commit only.
    pub fn commands_count_once(&mut self, events: &[Event]) {
        let commands: BTreeSet<_> = events.iter().filter_map(|event| event.command).collect();
        assert!(commands.is_disjoint(&self.commands), "a command counted twice");
        self.commands.extend(commands);
    }

    pub fn held(&mut self, event: &Event, state: &State) {
        assert!(!self.stopped, "a stopped run asks nobody");
        match &event.body {
            Body::PauseRequested(_) => assert!(!std::mem::replace(&mut self.paused, true), "paused twice"),
            Body::ApprovalRequested(asked) => self.asks(asked, state),
            Body::ApprovalDecided(decided) => self.is_decided(decided, event),
            Body::CallHandedOver(handed) => self.hands_over(handed),
            _ => unreachable!("no event about what people hold"),
        }
    }

    fn asks(&mut self, asked: &ApprovalRequested, state: &State) {
        let call = self.calls.get_mut(&asked.call_id).expect("a call that was intended");
        assert!(!call.returned && !std::mem::replace(&mut call.held, true));
        (call.in_flight, call.in_doubt) = (false, false);
        let lapses = asked.expire_time.as_ref().and_then(timestamp).unwrap();
        assert!(lapses <= state.expires_at && asked.needed > 0);
        let asked_about = Asked {
            call_id: asked.call_id.clone(),
            needed: usize::try_from(asked.needed).unwrap(),
            lapses,
            approvers: BTreeSet::new(),
            over: false,
        };
        let before = self.approvals.insert(asked.approval.clone(), asked_about);
        assert!(before.is_none(), "asked twice about {}", asked.approval);
    }

    fn is_decided(&mut self, decided: &ApprovalDecided, event: &Event) {
        let asked = self.approvals.get_mut(&decided.approval).expect("nobody asked");
        assert!(!asked.over, "decided after the decision");
        assert_eq!(decided.decision() == ApprovalState::Expired, event.time >= asked.lapses);
        assert_ne!(event.content.principal, "user:ada", "decided by who wants it");
        if decided.decision() == ApprovalState::Approved {
            assert!(asked.approvers.insert(event.content.principal.clone()), "one person counted twice");
        }
        let expected = match decided.decision() {
            ApprovalState::Approved if asked.approvers.len() < asked.needed => ApprovalState::Pending,
            decision => decision,
        };
        assert_eq!(decided.state(), expected);
        asked.over = expected != ApprovalState::Pending;
        if expected == ApprovalState::Approved {
            let call = self.calls.get_mut(&asked.call_id).unwrap();
            (call.held, call.allowed) = (false, true);
        }
    }

    fn hands_over(&mut self, handed: &CallHandedOver) {
        let call = self.calls.get_mut(&handed.call_id).expect("a call that was intended");
        assert!(!call.returned && !std::mem::replace(&mut call.held, true));
        call.in_flight = false;
        call.to_delegate = handed.reason() == WaitReason::ChildRun;
    }
}
