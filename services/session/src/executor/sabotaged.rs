//! The executor's part in [`crate::sabotage`]: what a test build can be told to leave out. Nothing of it happens in a
//! release build.

use mar_proto::session::event_leaf::Body;

use super::{Executor, Halt};
use crate::counters::{Advance, Amounts, Answer, Error};
use crate::run::Event;
use crate::sabotage::Fault;
use crate::store::EventRow;

impl Executor {
    /// The events that are written, and those that are only remembered.
    pub(super) fn written(&self, events: Vec<Event>) -> (Vec<Event>, Vec<Event>) {
        if !self.shared.sabotage.is(Fault::SkipIntent) {
            return (events, Vec::new());
        }
        events.into_iter().partition(|event| !matches!(event.body, Body::ToolIntent(_)))
    }

    /// Takes in what was not written, as if it had no place in the log.
    pub(super) fn remember(&mut self, unwritten: &[Event]) {
        for event in unwritten {
            self.state.apply(event);
            self.state.next_seq -= 1;
        }
    }

    /// Whether these events are shown before they are durable; if so, they were.
    pub(super) async fn acknowledged(&mut self, events: &[Event], rows: &[EventRow]) -> bool {
        if !self.shared.sabotage.is(Fault::AckBeforeCommit) {
            return false;
        }
        self.accept(events, rows);
        if !self.state.ended() {
            self.show(rows);
        }
        #[cfg(debug_assertions)]
        self.shared.clock.sleep(crate::sabotage::Sabotage::LAG).await;
        true
    }

    /// What a writer does that is fenced.
    pub(super) fn fenced(&self) -> Result<(), Halt> {
        if self.shared.sabotage.is(Fault::SkipEpoch) { Ok(()) } else { Err(Halt::Fenced) }
    }

    /// Asks the counters.
    pub(super) async fn advance(&self, mut change: Advance) -> Result<Answer, Error> {
        let sabotage = self.shared.sabotage;
        if sabotage.is(Fault::SkipReserve) {
            change.reserve = Amounts::default();
        }
        match self.shared.counters.advance(change).await {
            Err(Error::Stale(_, seen)) if sabotage.is(Fault::SkipEpoch) => {
                change.epoch = seen;
                self.shared.counters.advance(change).await
            }
            answer => answer,
        }
    }
}
