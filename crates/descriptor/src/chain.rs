//! The hash chain of a run's events.

use serde::{Deserialize, Serialize};

use crate::hash::{Hash, domain};

/// The hash of an event: over the hash before it and the event's stored bytes, verbatim.
#[must_use]
pub fn event_hash(prev: &Hash, leaf: &[u8]) -> Hash {
    Hash::of_parts(domain::EVENT, &[prev.as_bytes(), leaf])
}

/// The end of a chain: its last event's number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The number of the last event; -1 when there is none yet, so the first event is number 0.
    pub seq: i64,
    /// Its hash, or the genesis hash.
    pub hash: Hash,
}

impl Head {
    /// A chain without events. The genesis hash is [`Hash::ZERO`] for a chain without a parent, else what binds it to
    /// its parent: a child run starts from its parent's intent hash.
    #[must_use]
    pub const fn genesis(hash: Hash) -> Self {
        Self { seq: -1, hash }
    }

    /// The head after one more event.
    #[must_use]
    pub fn next(&self, leaf: &[u8]) -> Self {
        Self { seq: self.seq.saturating_add(1), hash: event_hash(&self.hash, leaf) }
    }
}

/// One event as it was stored or exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// The event's number.
    pub seq: i64,
    /// The event's bytes, verbatim.
    pub leaf: &'a [u8],
    /// The hash stored with it.
    pub hash: Hash,
}

/// Where a chain stops to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An event is missing, doubled or out of order.
    #[error("event {expected} expected, found {found}")]
    Sequence {
        /// The number that should come.
        expected: i64,
        /// The number that came.
        found: i64,
    },
    /// The stored hash is not the hash of the event and what came before it.
    #[error("event {seq} hashes to {actual}, stored is {stored}")]
    Hash {
        /// The event's number.
        seq: i64,
        /// The hash stored with it.
        stored: Hash,
        /// The hash of its bytes and its predecessor.
        actual: Hash,
    },
}

impl Broken {
    /// The number of the first event that does not hold.
    #[must_use]
    pub const fn seq(&self) -> i64 {
        match self {
            Self::Sequence { expected, .. } => *expected,
            Self::Hash { seq, .. } => *seq,
        }
    }
}

/// Verifies events from a head on and returns the new head. Start from [`Head::genesis`] for a whole chain, or from a
/// head that is already trusted for a part.
///
/// # Errors
/// The first event at which the chain breaks.
pub fn verify<'a>(from: Head, links: impl IntoIterator<Item = Link<'a>>) -> Result<Head, Broken> {
    links.into_iter().try_fold(from, |head, link| {
        let next = head.next(link.leaf);
        if link.seq != next.seq {
            return Err(Broken::Sequence { expected: next.seq, found: link.seq });
        }
        if link.hash != next.hash {
            return Err(Broken::Hash { seq: link.seq, stored: link.hash, actual: next.hash });
        }
        Ok(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAVES: [&[u8]; 4] = [b"one", b"", b"three", b"four"];

    fn chain() -> Vec<Link<'static>> {
        let mut head = Head::genesis(Hash::ZERO);
        LEAVES
            .iter()
            .map(|leaf| {
                head = head.next(leaf);
                Link { seq: head.seq, leaf, hash: head.hash }
            })
            .collect()
    }

    #[test]
    fn a_whole_chain_and_a_part_verify() {
        let links = chain();
        let head = verify(Head::genesis(Hash::ZERO), links.clone()).unwrap();
        assert_eq!((head.seq, head.hash), (3, links[3].hash));
        let middle = Head { seq: 1, hash: links[1].hash };
        assert_eq!(verify(middle, links[2..].to_vec()).unwrap(), head);
        assert_eq!(verify(head, []).unwrap(), head);
    }

    #[test]
    fn the_first_broken_event_is_named() {
        let start = Head::genesis(Hash::ZERO);
        let mut changed = chain();
        changed[2].leaf = b"3";
        assert_eq!(verify(start, changed).unwrap_err().seq(), 2);
        let mut missing = chain();
        missing.remove(1);
        assert_eq!(verify(start, missing).unwrap_err(), Broken::Sequence { expected: 1, found: 2 });
        let mut swapped = chain();
        swapped.swap(0, 1);
        assert_eq!(verify(start, swapped).unwrap_err().seq(), 0);
        assert_eq!(verify(Head::genesis(Hash::of(domain::EVENT, b"parent")), chain()).unwrap_err().seq(), 0);
        // A rewrite that also fixes its own hash breaks at the next event.
        let mut rewritten = chain();
        rewritten[1].leaf = b"two";
        rewritten[1].hash = event_hash(&rewritten[0].hash, b"two");
        assert_eq!(verify(start, rewritten).unwrap_err().seq(), 2);
    }
}
