//! What binds a run to the one that it comes from: a child to the run that started it, a fork to the run that it shares its
//! beginning with.

use mar_descriptor::{Hash, chain};
use mar_proto::session::{EventLeaf, ForkOrigin, ParentRun, RunAdmitted, VerifyFaultKind as Kind, event_leaf::Body};

use super::Rows;
use crate::log;
use crate::store::EventRow;

/// What the run's chain begins with: zeros, or the hash of its parent's intent, or of the last event that a fork shares,
/// recomputed from the stored bytes.
pub(super) fn genesis(rows: &Rows<'_>) -> Hash {
    rows.intent.map_or(Hash::ZERO, |intent| chain::event_hash(&Hash::from_bytes(intent.prev_hash), &intent.leaf))
}

/// Whether the parent meant this run, as it was admitted.
pub(super) fn faults(rows: &Rows<'_>, admitted: &RunAdmitted) -> Option<(Kind, &'static str)> {
    if let Some(fork) = &admitted.fork {
        return shares(rows, fork);
    }
    let parent = admitted.parent.as_ref()?;
    let Some(intent) = rows.intent else {
        return Some((Kind::Missing, "the event of its parent that started it is not there"));
    };
    let Some(leaf) = read(&parent.run, intent) else {
        return Some((Kind::Unreadable, "the event of its parent that started it cannot be read"));
    };
    if leaf.run != parent.run || leaf.seq != parent.intent_seq {
        return Some((Kind::Foreign, "the event that started it belongs to another run or position"));
    }
    let means = means(&leaf, parent, &rows.run.id.to_string(), admitted);
    (!means).then_some((Kind::Mismatch, "its parent did not start it as it was admitted"))
}

/// The leaf of an event that the run of this id is said to have.
fn read(run: &str, row: &EventRow) -> Option<EventLeaf> {
    log::leaf(run.parse().ok()?, row.leaf.clone()).ok()
}

/// Whether the event that a fork's chain begins with is the one that it says that it shares.
fn shares(rows: &Rows<'_>, fork: &ForkOrigin) -> Option<(Kind, &'static str)> {
    let Some(last) = rows.intent else {
        return Some((
            Kind::Missing,
            "the last event that it shares with the run that it was forked from is not there",
        ));
    };
    let Some(leaf) = read(&fork.run, last) else {
        return Some((
            Kind::Unreadable,
            "the last event that it shares with the run that it was forked from cannot be read",
        ));
    };
    let same = leaf.run == fork.run && leaf.seq == fork.through_seq;
    (!same).then_some((Kind::Foreign, "the last event that it shares belongs to another run or position"))
}

fn means(leaf: &EventLeaf, parent: &ParentRun, run: &str, admitted: &RunAdmitted) -> bool {
    let Some(Body::DelegationIntent(intent)) = &leaf.body else { return false };
    let index = usize::try_from(parent.index).ok();
    let child = index.and_then(|index| intent.children.get(index));
    let pool = leaf.counted_seq == Some(parent.pool_seq) && intent.pool_nonce == parent.pool_nonce;
    let meant = |child: &mar_proto::session::ChildRun| {
        child.run == run && child.limits == admitted.limits && child.ceiling == parent.ceiling
    };
    pool && intent.call_id == parent.call_id && child.is_some_and(meant)
}
