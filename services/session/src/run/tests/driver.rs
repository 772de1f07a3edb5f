//! The executor without its waiting: one transition after another against counters that may be gone.

use futures::FutureExt;
use mar_descriptor::SaltKey;
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::Audit;
use super::fixture::{RUN, SESSION, admitted, admitted_child};
use crate::counters::{Advance, Amounts, Answer, Carve, Counters, Error, Pool, PoolRebuild, memory::MemoryCounters};
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
    /// The pool that the run, a child, draws from, and its size.
    pub pool: Option<(Pool, Amounts)>,
    /// Pools that were put together again.
    pub healed: usize,
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
            pool: None,
            healed: 0,
        }
    }

    /// A child run whose parent keeps a pool of this size.
    pub fn child(limits: HaltingPolicy, size: Amounts) -> Self {
        let mut driver = Self::new(limits);
        let parent = Uuid::from_u128(77);
        let open = Advance {
            root: parent,
            run: parent,
            epoch: 1,
            seq: 3,
            last_seq: -1,
            totals: Amounts::default(),
            settle: Amounts::default(),
            reserve: size,
            limits: size,
            carve: Some(Carve::Open(size)),
            draw: None,
        };
        let opened = driver.counters.advance(open).now_or_never().unwrap().unwrap().opened.unwrap();
        let pool = Pool { parent, seq: 3, nonce: opened };
        let ceiling = driver.state.allotment() + size;
        let first = admitted_child(limits, pool, ceiling);
        driver.state = State::admitted(RUN, SESSION, &first).unwrap();
        driver.events = vec![first];
        driver.pool = Some((pool, size));
        driver
    }

    /// One transition; `None` where the replica died in it, else what is to be done.
    pub fn transition(&mut self, inputs: &[Timed], mishap: Mishap) -> Option<Vec<Effect>> {
        let charged = charge(&self.state, inputs);
        let charge = charged.charge;
        let counted = self.count(charge, mishap);
        let decision = decide(&self.state, inputs, charged, counted);
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
            if let Some((_, size)) = self.pool {
                assert_eq!(self.state.drawn.max(size), size, "more was drawn than there is");
            }
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
            root: self.state.root(),
            run: RUN,
            epoch: charge.epoch,
            seq: self.state.next_seq,
            last_seq: self.state.counted_seq,
            totals: self.state.used,
            settle: charge.settle,
            reserve: charge.reserve,
            limits: self.state.limit_amounts(),
            carve: charge.carve,
            draw: charge.draw,
        };
        self.changes.push(change);
        let answer = self.advance(change);
        if mishap == Mishap::AnswerLost { Counted::Unavailable } else { Counted::Answer(answer) }
    }

    /// A pool that is lost is put together from the log, as it is committed.
    fn advance(&mut self, change: Advance) -> Answer {
        loop {
            match self.counters.advance(change).now_or_never().unwrap() {
                Err(Error::PoolLost(token)) => {
                    let (pool, size) = self.pool.unwrap();
                    let held = vec![self.state.held()];
                    let rebuild = PoolRebuild { root: self.state.root(), pool, token, size, held };
                    self.counters.rebuild_pool(&rebuild).now_or_never().unwrap().unwrap();
                    self.healed += 1;
                }
                answer => return answer.unwrap(),
            }
        }
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
        let genesis = match self.state.parent {
            Some(_) => mar_descriptor::Hash::from_bytes([5; 32]),
            None if self.state.fork.is_some() => mar_descriptor::Hash::from_bytes([6; 32]),
            None => mar_descriptor::Hash::ZERO,
        };
        let mut log = Log::of_child(RUN, key.clone(), genesis);
        let mut rows: Vec<EventRow> = Vec::new();
        for event in &self.events {
            let row = log.encode(std::slice::from_ref(event)).remove(0);
            let epoch = crate::log::decode(self.state.run, &row).unwrap().0.epoch;
            log.advance(&row, epoch);
            rows.push(row);
        }
        assert_eq!(log.encode(&[]), Vec::new());
        let links = rows.iter().map(|row| mar_descriptor::chain::Link {
            seq: row.seq,
            leaf: &row.leaf,
            hash: mar_descriptor::Hash::from_bytes(row.hash),
        });
        let head = mar_descriptor::chain::verify(mar_descriptor::Head::genesis(genesis), links);
        assert_eq!(head.unwrap(), log.head());
        assert_eq!(
            Log::of_child(RUN, key.clone(), genesis).encode(&self.events),
            rows,
            "a batch encodes like its events one by one"
        );
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
