//! What both stores do with events: where contents go, and what a conflict means.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Append, Error, EventRow};

/// Contents above this go to the session's blobs.
const INLINE_BYTES: usize = 16 * 1024;

/// The run's place: every statement about events names all three.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub tenant: &'a str,
    pub session: Uuid,
    pub run: Uuid,
}

/// Large contents by their SHA-256; in order, so that two writers of one session take row locks in the same order.
pub(super) type Blobs<'a> = BTreeMap<[u8; 32], &'a [u8]>;

/// An event with its content in its place.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    pub event: &'a EventRow,
    pub inline: Option<&'a [u8]>,
    pub blob: Option<[u8; 32]>,
}

/// Whether no content is large.
pub(super) fn all_inline(events: &[EventRow]) -> bool {
    events.iter().all(|event| event.content.as_ref().is_none_or(|content| content.len() <= INLINE_BYTES))
}

/// Puts every content inline or into a blob, each blob once.
pub(super) fn place(events: &[EventRow]) -> (Vec<Placed<'_>>, Blobs<'_>) {
    let mut blobs = Blobs::new();
    let placed = events
        .iter()
        .map(|event| match event.content.as_deref() {
            Some(content) if content.len() > INLINE_BYTES => {
                let sha256 = Sha256::digest(content).into();
                blobs.insert(sha256, content);
                Placed { event, inline: None, blob: Some(sha256) }
            }
            inline => Placed { event, inline, blob: None },
        })
        .collect();
    (placed, blobs)
}

/// Gives each event that was read the hash of the one before it. Rows hold only the first event's own; the read brings that of
/// its first row.
pub(super) fn link(mut events: Vec<EventRow>) -> Vec<EventRow> {
    for at in 1..events.len() {
        let (before, hash) = (events[at - 1].seq, events[at - 1].hash);
        if before.checked_add(1) == Some(events[at].seq) {
            events[at].prev_hash = hash;
        }
    }
    events
}

/// Refuses events that do not follow one another; answers the first and the last, `None` for no events.
pub(super) fn check(events: &[EventRow]) -> Result<Option<(&EventRow, &EventRow)>, Error> {
    let (Some(first), Some(last)) = (events.first(), events.last()) else {
        return Ok(None);
    };
    if first.seq < 0 {
        return Err(Error::Invalid("an event has a negative position"));
    }
    let follows = |pair: &[EventRow]| match pair {
        [a, b] => a.seq.checked_add(1) == Some(b.seq) && a.hash == b.prev_hash,
        _ => true,
    };
    if events.windows(2).all(follows) {
        Ok(Some((first, last)))
    } else {
        Err(Error::Invalid("events do not follow one another"))
    }
}

/// Refuses an event that cannot be a log's first.
pub(super) fn check_first(first: &EventRow) -> Result<(), Error> {
    if first.seq == 0 { Ok(()) } else { Err(Error::Invalid("a run's first event has position 0")) }
}

/// What an append that stored nothing means, given what is stored from the position before its first event to its last.
pub(super) fn judge(events: &[EventRow], stored: &[(i64, [u8; 32])]) -> Result<Append, Error> {
    let at = |seq: i64| stored.iter().find(|(stored, _)| *stored == seq).map(|(_, hash)| hash);
    let other = |seq: i64, hash: &[u8; 32]| at(seq).is_some_and(|stored| stored != hash);
    let before = events.first().is_some_and(|first| other(first.seq - 1, &first.prev_hash));
    if before || events.iter().any(|event| other(event.seq, &event.hash)) {
        return Ok(Append::Fenced);
    }
    match events.iter().filter(|event| at(event.seq).is_some()).count() {
        all if all == events.len() => Ok(Append::Done),
        0 => Err(Error::Invalid("events do not continue the run's log")),
        _ => Err(Error::Invalid("events overlap the run's log")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(seqs: std::ops::Range<u8>) -> Vec<EventRow> {
        seqs.map(|seq| EventRow {
            seq: i64::from(seq),
            prev_hash: [seq; 32],
            hash: [seq + 1; 32],
            leaf: vec![seq].into(),
            content: None,
        })
        .collect()
    }

    #[test]
    fn events_have_to_follow_one_another() {
        assert!(check(&[]).unwrap().is_none());
        assert!(check(&chain(3..6)).unwrap().is_some());
        let mut gap = chain(3..6);
        gap.remove(1);
        assert!(matches!(check(&gap), Err(Error::Invalid(_))));
        let mut unlinked = chain(3..6);
        unlinked[2].prev_hash = [9; 32];
        assert!(matches!(check(&unlinked), Err(Error::Invalid(_))));
    }

    #[test]
    fn what_is_read_is_linked_as_far_as_nothing_is_missing_between() {
        let whole = chain(3..7);
        let mut bare = whole.clone();
        bare.iter_mut().skip(1).for_each(|event| event.prev_hash = [0; 32]);
        assert_eq!(link(bare.clone()), whole);
        bare.remove(1);
        let linked: Vec<_> = link(bare).iter().map(|event| event.prev_hash[0]).collect();
        assert_eq!(linked, [3, 0, 6], "of the hash of another event nothing is made");
    }

    #[test]
    fn a_conflict_is_judged_by_hashes() {
        let events = chain(5..7);
        let judge = |stored: &[(i64, u8)]| {
            judge(&events, &stored.iter().map(|&(seq, hash)| (seq, [hash; 32])).collect::<Vec<_>>())
        };
        assert_eq!(judge(&[(4, 5), (5, 6), (6, 7)]).unwrap(), Append::Done);
        assert_eq!(judge(&[(4, 5), (5, 60), (6, 7)]).unwrap(), Append::Fenced);
        assert_eq!(judge(&[(4, 5), (5, 6), (6, 70)]).unwrap(), Append::Fenced);
        assert_eq!(judge(&[(4, 50)]).unwrap(), Append::Fenced);
        assert!(matches!(judge(&[(4, 5), (5, 6)]), Err(Error::Invalid(_))));
        assert!(matches!(judge(&[]), Err(Error::Invalid(_))));
    }

    #[test]
    fn only_large_contents_become_blobs_and_each_once() {
        let mut events = chain(0..4);
        events[0].content = Some(vec![1; INLINE_BYTES].into());
        events[1].content = Some(vec![1; INLINE_BYTES + 1].into());
        events[2].content = events[1].content.clone();
        let (placed, blobs) = place(&events);
        assert_eq!(blobs.len(), 1);
        assert_eq!(placed[0].inline.map(<[u8]>::len), Some(INLINE_BYTES));
        assert_eq!((placed[1].inline, placed[1].blob), (None, placed[2].blob));
        assert_eq!((placed[3].inline, placed[3].blob), (None, None));
    }
}
