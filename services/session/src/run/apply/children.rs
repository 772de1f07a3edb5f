//! From state to state by events about child runs.

use std::sync::Arc;

use mar_proto::session::{AllotmentRefilled, ChildEnded, DelegationIntent, EventContent, ParentRun};
use uuid::Uuid;

use super::super::amounts::add_usage;
use super::super::delegation::{Child, ChildEnd, Delegated, Parent};
use super::super::state::{CallState, State};
use crate::counters::{Amounts, Pool};

/// The parent that an admission names; `None` where it names none that can be.
pub(super) fn parent_of(parent: &ParentRun) -> Option<Parent> {
    let run: Uuid = parent.run.parse().ok()?;
    Some(Parent {
        run,
        root: parent.root.parse().ok()?,
        call_id: parent.call_id.clone(),
        intent_seq: parent.intent_seq,
        index: parent.index,
        depth: parent.depth,
        pool: Pool { parent: run, seq: parent.pool_seq, nonce: parent.pool_nonce },
        ceiling: parent.ceiling.as_ref().map(Amounts::of_reservation).unwrap_or_default(),
        descriptor_hash: parent.descriptor_hash.clone(),
    })
}

impl State {
    pub(super) fn delegate(&mut self, intent: &DelegationIntent, content: &EventContent, counted_seq: Option<i64>) {
        let tasks = content.child_tasks.iter().flat_map(|tasks| &tasks.tasks).cloned().map(Arc::new);
        let mut tasks = tasks.chain(std::iter::repeat_with(Arc::default));
        let child = |child: &mar_proto::session::ChildRun| Child {
            run: child.run.parse().unwrap_or_default(),
            limits: child.limits.unwrap_or_default(),
            ceiling: child.ceiling.as_ref().map(Amounts::of_reservation).unwrap_or_default(),
            task: tasks.next().unwrap_or_default(),
            end: None,
        };
        let children: Vec<Child> = intent.children.iter().map(child).collect();
        let amounts =
            |of: &Option<mar_proto::session::Reservation>| of.as_ref().map(Amounts::of_reservation).unwrap_or_default();
        let delegated = Delegated {
            // This event has its place already.
            intent_seq: self.next_seq - 1,
            mode: intent.mode(),
            reserved: amounts(&intent.reserved),
            pool: Pool { parent: self.run, seq: counted_seq.unwrap_or_default(), nonce: intent.pool_nonce },
            pool_size: amounts(&intent.pool),
            children,
        };
        self.children.extend(delegated.children.iter().map(|child| child.run));
        self.used = self.used + delegated.reserved;
        self.reserved = self.reserved + delegated.reserved;
        self.set_call(&intent.call_id, CallState::Delegated(Box::new(delegated)));
    }

    /// A child has ended. With the last of a call what all of them have used takes the place of what was reserved.
    pub(super) fn end_child(&mut self, ended: &ChildEnded, content: &EventContent, counted_seq: Option<i64>) {
        let end = ChildEnd::of_leaf(ended, content.answer.clone());
        let run: Uuid = ended.run.parse().unwrap_or_default();
        let Some(delegated) = self.delegated_mut(run) else { return };
        if let Some(child) = delegated.children.iter_mut().find(|child| child.run == run) {
            child.end = Some(Arc::new(end));
        }
        if delegated.open().next().is_some() {
            return;
        }
        let (reserved, used) = (delegated.reserved, delegated.used());
        let usages: Vec<_> = delegated.children.iter().filter_map(|child| Some(child.end.as_ref()?.usage)).collect();
        for usage in &usages {
            add_usage(&mut self.usage, usage);
        }
        let difference = used - reserved;
        self.used = self.used + difference;
        self.reserved = self.reserved - reserved;
        self.overshoot = self.overshoot + difference.max(Amounts::default());
        if counted_seq.is_none() && !difference.is_zero() {
            self.counted_seq = -1;
        }
    }

    /// What a child has drawn from its parent's pool is added to its limits.
    pub(super) fn refill(&mut self, refilled: &AllotmentRefilled) {
        let drawn = refilled.drawn.as_ref().map(Amounts::of_reservation).unwrap_or_default();
        self.drawn = self.drawn + drawn;
    }

    /// A call that is told to be over while children of it are open stays at everything that was taken for it.
    pub(super) fn abandon_children(&mut self, call_id: &str) {
        let given_up = self.calls.iter().find_map(|call| match &call.state {
            CallState::Delegated(delegated) if call.call_id == call_id && delegated.open().next().is_some() => {
                Some(delegated.reserved)
            }
            _ => None,
        });
        if let Some(reserved) = given_up {
            add_usage(&mut self.usage, &reserved.to_usage(true));
            self.reserved = self.reserved - reserved;
        }
    }

    fn delegated_mut(&mut self, child: Uuid) -> Option<&mut Delegated> {
        self.calls.iter_mut().find_map(|call| match &mut call.state {
            CallState::Delegated(delegated) if delegated.children.iter().any(|one| one.run == child) => {
                Some(&mut **delegated)
            }
            _ => None,
        })
    }
}
