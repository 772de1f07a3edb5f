//! What followers are shown of a turn before it is committed: it has to be what is committed then.

use anyhow::ensure;
use mar_proto::session::{AttemptStarted, Delta, DeltaKind, Event, event_leaf::Body};
use mar_proto::types::{Message, part::Content};

/// The pieces of the attempt that was seen last, over all streams.
#[derive(Debug, Default, Clone)]
pub struct Deltas {
    /// Step, epoch and number of the attempt. A later one voids what came of it.
    open: (i64, i64, i64),
    pieces: Vec<Delta>,
    /// Pieces of text that turned out to be what was committed.
    pub fitting: usize,
}

impl Deltas {
    /// An attempt that is open.
    pub fn begin(&mut self, attempt: &AttemptStarted) {
        self.reach((attempt.step, attempt.epoch, attempt.attempt));
    }

    /// A piece of it. Others may be missing.
    pub fn take(&mut self, delta: Delta) {
        let place = (delta.step, delta.epoch, delta.attempt);
        self.reach(place);
        if place == self.open {
            self.pieces.push(delta);
        }
    }

    fn reach(&mut self, place: (i64, i64, i64)) {
        if place > self.open {
            self.open = place;
            self.pieces.clear();
        }
    }

    /// Holds what was shown against the turn that was committed, if this is one.
    ///
    /// # Errors
    /// Something else was shown.
    pub fn settle(&mut self, event: &Event) -> anyhow::Result<()> {
        let Some(leaf) = &event.body else { return Ok(()) };
        let Some(Body::TurnCommitted(turn)) = &leaf.body else { return Ok(()) };
        if (turn.step, leaf.epoch) != (self.open.0, self.open.1) {
            return Ok(());
        }
        let message = event.content.as_ref().and_then(|content| content.turn.clone()).unwrap_or_default();
        for delta in std::mem::take(&mut self.pieces) {
            if delta.kind() == DeltaKind::Text {
                ensure!(fits(&delta, &message), "{delta:?} was shown, and is no piece of {message:?}");
                self.fitting += 1;
            }
        }
        Ok(())
    }
}

fn fits(delta: &Delta, message: &Message) -> bool {
    let part = usize::try_from(delta.part).ok().and_then(|at| message.parts.get(at));
    let Some(Content::Text(text)) = part.and_then(|part| part.content.as_ref()) else { return false };
    let rest = usize::try_from(delta.offset).ok().and_then(|offset| text.get(offset..));
    rest.is_some_and(|rest| rest.starts_with(&delta.text))
}

#[cfg(test)]
mod tests {
    use mar_proto::session::{EventContent, EventLeaf, TurnCommitted};
    use mar_proto::types::Part;

    use super::*;

    fn delta(attempt: i64, offset: i64, text: &str) -> Delta {
        let kind = DeltaKind::Text.into();
        Delta { step: 1, epoch: 1, attempt, part: 0, offset, kind, text: text.into() }
    }

    fn committed(text: &str) -> Event {
        let turn = TurnCommitted { step: 1, ..TurnCommitted::default() };
        let parts = vec![Part { content: Some(Content::Text(text.into())), ..Part::default() }];
        Event {
            body: Some(EventLeaf { epoch: 1, body: Some(Body::TurnCommitted(turn)), ..EventLeaf::default() }),
            content: Some(EventContent {
                turn: Some(Message { parts, ..Message::default() }),
                ..EventContent::default()
            }),
            ..Event::default()
        }
    }

    #[test]
    fn pieces_of_the_last_attempt_have_to_be_where_they_were_shown() {
        let settled = |pieces: &[Delta]| {
            let mut deltas = Deltas::default();
            pieces.iter().for_each(|piece| deltas.take(piece.clone()));
            deltas.settle(&committed("Twice a month.")).map(|()| deltas.fitting).ok()
        };
        assert_eq!(settled(&[delta(1, 0, "Twice "), delta(1, 8, "month.")]), Some(2), "one may be missing");
        assert_eq!(settled(&[delta(1, 0, "Twice "), delta(1, 5, "month.")]), None);
        assert_eq!(settled(&[delta(1, 0, "Never"), delta(2, 0, "Twice")]), Some(1), "another attempt voids it");
        assert_eq!(settled(&[delta(1, 0, "Twice a month. Or so.")]), None);
        assert_eq!(settled(&[delta(1, 99, "Twice")]), None);
    }
}
