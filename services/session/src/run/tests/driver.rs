//! The executor without its waiting: one transition after another against counters that may be gone.

use futures::FutureExt;
use mar_descriptor::SaltKey;
use time::OffsetDateTime;

use super::audit::Audit;
use super::fixture::{RUN, SESSION, admitted};
use crate::counters::{Advance, Counters, memory::MemoryCounters};
use crate::log::{Log, replay};
use crate::run::{Charge, Counted, Effect, Event, Input, State, Timed, charge, decide};
use crate::store::EventRow;
use mar_proto::types::HaltingPolicy;

/// What befalls a transition between its question to the counters and its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    None,
    /// The counters make the change, but their answer never comes.
    AnswerLost,
    /// The replica dies before the commit.
    Crash,
}

/// A run's log and counters.
pub struct Driver {
    pub state: State,
    pub events: Vec<Event>,
    pub audit: Audit,
    pub counters: MemoryCounters,
    /// Changes that the counters have taken, in order.
    pub changes: Vec<Advance>,
    pub counters_up: bool,
}

impl Driver {
    pub fn new(limits: HaltingPolicy) -> Self {
        Self::of(admitted(limits))
    }

    pub fn of(first: Event) -> Self {
        let state = State::admitted(RUN, SESSION, &first).unwrap();
        Self {
            audit: Audit::new(&state),
            state,
            events: vec![first],
            counters: MemoryCounters::new(),
            changes: Vec::new(),
            counters_up: true,
        }
    }

    /// One transition; `None` where the replica died in it, else what is to be done.
    pub fn transition(&mut self, inputs: &[Timed], mishap: Mishap) -> Option<Vec<Effect>> {
        let charge = charge(&self.state, inputs);
        let counted = self.count(charge, mishap);
        let decision = decide(&self.state, inputs, counted);
        if mishap == Mishap::Crash {
            return None;
        }
        self.audit.decision(&self.state, inputs, charge, counted, &decision);
        for event in &decision.events {
            self.state.apply(event);
            self.events.push(event.clone());
            self.audit.event(event, &self.state);
        }
        if let Counted::Answer(answer) = counted {
            assert_eq!(answer.used, self.state.used, "counters and log differ");
        }
        // What a drained run has to do is for its next owner.
        if !inputs.iter().any(|timed| timed.input == Input::Draining) {
            self.audit.state(&self.state);
        }
        Some(decision.effects)
    }

    fn count(&mut self, charge: Charge, mishap: Mishap) -> Counted {
        if charge.is_zero() {
            return Counted::Nothing;
        }
        if !self.counters_up {
            return Counted::Unavailable;
        }
        let change = Advance {
            root: RUN,
            run: RUN,
            epoch: charge.epoch,
            seq: self.state.next_seq,
            last_seq: self.state.counted_seq,
            totals: self.state.used,
            settle: charge.settle,
            reserve: charge.reserve,
            limits: self.state.limit_amounts(),
            carve: None,
            draw: None,
        };
        self.changes.push(change);
        let answer = self.counters.advance(change).now_or_never().unwrap().unwrap();
        if mishap == Mishap::AnswerLost { Counted::Unavailable } else { Counted::Answer(answer) }
    }

    /// Counters lose everything, or come back without the last `lost` changes.
    pub fn lose_counters(&mut self, lost: Option<usize>) {
        self.counters = MemoryCounters::new();
        let keep = lost.map_or(0, |lost| self.changes.len().saturating_sub(lost));
        self.changes.truncate(keep);
        for change in &self.changes {
            let _ = self.counters.advance(*change).now_or_never().unwrap();
        }
    }

    /// The state as another replica finds it, which has to be the one at hand.
    pub fn replayed(&self) -> State {
        let key = SaltKey::from_bytes([9; 32]);
        let mut log = Log::new(RUN, key.clone());
        let mut rows: Vec<EventRow> = Vec::new();
        for event in &self.events {
            let row = log.encode(std::slice::from_ref(event)).remove(0);
            let epoch = crate::log::decode(&row).unwrap().0.epoch;
            log.advance(&row, epoch);
            rows.push(row);
        }
        assert_eq!(log.encode(&[]), Vec::new());
        let links = rows.iter().map(|row| mar_descriptor::chain::Link {
            seq: row.seq,
            leaf: &row.leaf,
            hash: mar_descriptor::Hash::from_bytes(row.hash),
        });
        let head = mar_descriptor::chain::verify(mar_descriptor::Head::genesis(mar_descriptor::Hash::ZERO), links);
        assert_eq!(head.unwrap(), log.head());
        assert_eq!(Log::new(RUN, key.clone()).encode(&self.events), rows, "a batch encodes like its events one by one");
        let (stored, again) = replay(RUN, SESSION, key, &rows).unwrap();
        assert_eq!(again.head(), log.head());
        assert_eq!(stored, self.state, "the stored log replays to another state");
        stored
    }

    /// Folds the events as they are in memory.
    pub fn folded(&self) -> State {
        let mut state = State::admitted(RUN, SESSION, &self.events[0]).unwrap();
        for event in &self.events[1..] {
            state.apply(event);
        }
        state
    }

    /// When something is due without input.
    pub fn wake_at(&self) -> Option<OffsetDateTime> {
        self.state.wake_at()
    }
}
