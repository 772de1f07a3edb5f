//! Child runs, as the events of their parent tell.

use std::collections::BTreeMap;

use mar_proto::session::{ToolOutcome, ToolReturned, event_leaf::Body};

use super::{Audit, spent};
use crate::counters::Amounts;
use crate::run::{Effect, Event, State};

/// The children of a call.
#[derive(Debug, Default)]
pub struct Family {
    /// What each has used, by id; `None` while it is open.
    children: BTreeMap<String, Option<Amounts>>,
    reserved: Amounts,
    returned: bool,
}

impl Family {
    pub fn is_open(&self) -> bool {
        !self.returned && self.children.values().any(Option::is_none)
    }

    pub fn is_returned(&self) -> bool {
        self.returned
    }

    fn of(intent: &mar_proto::session::DelegationIntent) -> Self {
        Self {
            children: intent.children.iter().map(|child| (child.run.clone(), None)).collect(),
            reserved: Amounts::of_reservation(intent.reserved.as_ref().unwrap()),
            returned: false,
        }
    }

    fn used(&self) -> Amounts {
        self.children.values().flatten().fold(Amounts::default(), |sum, used| sum + *used)
    }
}

impl Audit {
    /// What the last ends of calls settle.
    pub fn children_settle(&self, events: &[Event]) -> Amounts {
        let mut ends: BTreeMap<&str, Amounts> = BTreeMap::new();
        for event in events {
            if let Body::ChildEnded(ended) = &event.body {
                ends.insert(&ended.run, Amounts::of_reservation(ended.used.as_ref().unwrap()));
            }
        }
        let mut settled = Amounts::default();
        for family in self.delegated.values().filter(|family| family.is_open()) {
            let now = family.children.iter().map(|(run, used)| used.or_else(|| ends.get(run.as_str()).copied()));
            if let Some(all) = now.collect::<Option<Vec<Amounts>>>() {
                settled = settled + all.into_iter().fold(Amounts::default() - family.reserved, |sum, used| sum + used);
            }
        }
        settled
    }

    /// Children are started with their intent and by a takeover, and stopped with a stop; nothing else.
    pub fn children_are_seen_to(&self, before: &State, events: &[Event], effects: &[Effect], started: &[Effect]) {
        let of =
            |wanted: fn(&Effect) -> bool| effects.iter().filter(|effect| wanted(effect)).cloned().collect::<Vec<_>>();
        let delegated = of(|effect| matches!(effect, Effect::Delegate { .. }));
        let stopped = of(|effect| matches!(effect, Effect::StopChildren { .. }));
        let claimed = events.iter().any(|event| matches!(event.body, Body::RunClaimed(_)));
        let stops = events.iter().any(|event| matches!(event.body, Body::StopRequested(_)));
        let ends = events.iter().any(|event| matches!(event.body, Body::RunEnded(_)));
        if stops || ends || before.stop.is_some() {
            assert!(delegated.is_empty(), "children are started beside a stop");
        } else if !claimed {
            assert_eq!(delegated, started, "children are started with their intent");
        }
        assert!(stopped.is_empty() || stops || claimed && before.stop.is_some(), "children are stopped without a stop");
        if stops && !ends {
            let mut families = before.delegations().filter(|(_, delegated)| delegated.open().next().is_some());
            assert!(!stopped.is_empty() || families.all(|(call, _)| self.closes(call, events)), "children go on");
        }
    }

    /// Whether every open child of a call ends in these events.
    fn closes(&self, call: &crate::run::Call, events: &[Event]) -> bool {
        events.iter().any(|event| matches!(&event.body, Body::ToolReturned(back) if back.call_id == call.call_id))
    }

    pub fn family(&mut self, event: &Event, state: &State) {
        match &event.body {
            Body::DelegationIntent(intent) => {
                assert!(!self.stopped && !self.waiting && !self.paused && self.generation.is_none());
                assert!(state.limits.max_depth.unwrap() > 0, "too deep");
                let call = self.calls.get_mut(&intent.call_id).expect("a call that was intended");
                assert!(std::mem::take(&mut call.held) && !call.returned, "a call that was not decided on");
                let family = Family::of(intent);
                self.allotments(intent, &family, state);
                self.used = self.used + family.reserved;
                self.reserved = self.reserved + family.reserved;
                assert!(self.delegated.insert(intent.call_id.clone(), family).is_none(), "delegated twice");
            }
            Body::ChildEnded(ended) => {
                let holds = |family: &&mut Family| family.children.contains_key(&ended.run);
                let family = self.delegated.values_mut().find(holds).expect("a child of this run");
                let end = family.children.get_mut(&ended.run).unwrap();
                assert!(end.is_none(), "a child ended twice");
                let used = Amounts::of_reservation(ended.used.as_ref().unwrap());
                assert_eq!(
                    Amounts { steps: used.steps, tool_calls: used.tool_calls, ..spent(&ended.usage.unwrap()) },
                    used
                );
                *end = Some(used);
                if family.is_open() {
                    return;
                }
                let difference = family.used() - family.reserved;
                let reserved = family.reserved;
                self.used = self.used + difference;
                self.reserved = self.reserved - reserved;
                self.overshoot = self.overshoot + difference.max(Amounts::default());
            }
            _ => unreachable!("no event about child runs"),
        }
    }

    /// Allotments and pool are what is taken, and no child can ever get more than there is for all.
    fn allotments(&self, intent: &mar_proto::session::DelegationIntent, family: &Family, state: &State) {
        let pool = Amounts::of_reservation(intent.pool.as_ref().unwrap());
        let mut sum = pool;
        for child in &intent.children {
            let limits = child.limits.unwrap();
            let share = Amounts {
                steps: limits.max_steps.unwrap(),
                tool_calls: limits.max_tool_calls.unwrap(),
                input_tokens: limits.max_input_tokens.unwrap(),
                output_tokens: limits.max_output_tokens.unwrap(),
                cost_nano_usd: limits.max_cost_nano_usd.unwrap(),
            };
            let ceiling = Amounts::of_reservation(child.ceiling.as_ref().unwrap());
            assert_eq!((share + pool).max(ceiling), share + pool, "more than there is");
            assert_eq!(ceiling.max(share), ceiling);
            assert_eq!(limits.max_depth, state.limits.max_depth.map(|depth| depth - 1));
            sum = sum + share;
        }
        assert_eq!(sum, family.reserved);
        assert_eq!(family.children.len(), intent.children.len(), "two children of one name");
        let bound = self.limits + self.overshoot;
        assert_eq!((self.used + sum).max(bound), bound, "more is given than is left");
    }

    pub fn family_returns(&mut self, back: &ToolReturned) {
        let Some(family) = self.delegated.get_mut(&back.call_id) else { return };
        if family.is_open() {
            assert!(self.stopped && back.outcome() == ToolOutcome::Unknown, "children are given up without a stop");
            self.reserved = self.reserved - family.reserved;
        }
        family.returned = true;
    }
}
