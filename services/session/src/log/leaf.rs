//! What a stored leaf leaves out, because its place says it: the run, behind its first event, and the run in the ids of its
//! calls. The chain binds every event to the first, so it is as if each said it.
//!
//! Nor does a leaf hold an idempotency key: it is a hash of arguments, which a leaf may only commit to, and of what stands
//! beside it. It is told as long as the arguments are there.

use bytes::Bytes;
use mar_proto::session::{EventLeaf, EventShared, event_leaf::Body, event_shared};
use prost::{DecodeError, Message as _};
use uuid::Uuid;

use crate::run::idempotency_key;

/// A stored leaf of a run, with what its place says.
pub fn leaf(run: Uuid, stored: Bytes) -> Result<EventLeaf, DecodeError> {
    let mut leaf = EventLeaf::decode(stored)?;
    let run = run.to_string();
    for call_id in call_ids(&mut leaf.body) {
        if call_id.starts_with('/') {
            call_id.insert_str(0, &run);
        }
    }
    // The first event says it itself.
    if leaf.seq > 0 && leaf.run.is_empty() {
        leaf.run = run;
    }
    Ok(leaf)
}

/// Leaves out what [`leaf`] and [`tell_key`] put back.
pub(super) fn condense(leaf: &mut EventLeaf) {
    for call_id in call_ids(&mut leaf.body) {
        if call_id.starts_with(&leaf.run) {
            call_id.drain(..leaf.run.len());
        }
    }
    if let Some(Body::ToolIntent(intent)) = &mut leaf.body {
        intent.idempotency_key.clear();
    }
    if leaf.seq > 0 {
        leaf.run.clear();
    }
}

/// Puts the idempotency key of a call with these arguments back.
pub(super) fn tell_key(run: Uuid, leaf: &mut EventLeaf, arguments_json: &str) {
    if let Some(Body::ToolIntent(intent)) = &mut leaf.body {
        intent.idempotency_key = idempotency_key(run, &intent.call_id, arguments_json);
    }
}

/// The ids of calls in what happened.
fn call_ids(body: &mut Option<Body>) -> Vec<&mut String> {
    match body {
        Some(Body::ToolIntent(intent)) => vec![&mut intent.call_id],
        Some(Body::ToolReturned(returned)) => vec![&mut returned.call_id],
        Some(Body::DelegationIntent(intent)) => vec![&mut intent.call_id],
        Some(Body::ApprovalRequested(asked)) => vec![&mut asked.call_id],
        Some(Body::CallHandedOver(handed)) => vec![&mut handed.call_id],
        Some(Body::CallDoubted(doubted)) => vec![&mut doubted.call_id],
        Some(Body::CallProbed(probed)) => vec![&mut probed.call_id],
        Some(Body::GenerationStarted(started)) => started.elided.iter_mut().collect(),
        Some(Body::EventShared(EventShared { body, elided, .. })) => {
            let returned = match body {
                Some(event_shared::Body::Result(returned)) => Some(&mut returned.call_id),
                _ => None,
            };
            returned.into_iter().chain(elided).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use mar_proto::session::{GenerationStarted, ToolIntent, ToolReturned};

    use super::*;

    fn stored(whole: &EventLeaf) -> Bytes {
        let mut leaf = whole.clone();
        condense(&mut leaf);
        leaf.encode_to_vec().into()
    }

    #[test]
    fn what_a_leaf_leaves_out_its_place_says() {
        let (run, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let call = format!("{run}/3/0");
        let key = idempotency_key(run, &call, "{}");
        let shared = ToolReturned { call_id: format!("{other}/1/0"), ..Default::default() };
        let intent = ToolIntent { call_id: call.clone(), idempotency_key: key.clone(), ..Default::default() };
        let bodies = [
            Body::RunAdmitted(Default::default()),
            Body::ToolIntent(intent),
            Body::ToolReturned(ToolReturned { call_id: call.clone(), ..Default::default() }),
            Body::GenerationStarted(GenerationStarted { elided: vec![call.clone()], ..Default::default() }),
            Body::EventShared(EventShared {
                body: Some(event_shared::Body::Result(shared)),
                elided: vec![call, format!("{other}/2/0")],
                ..Default::default()
            }),
            Body::CallProbed(Default::default()),
        ];
        for (seq, body) in (0..).zip(bodies) {
            let whole = EventLeaf { run: run.to_string(), seq, body: Some(body), ..Default::default() };
            let stored = stored(&whole);
            let mut read = leaf(run, stored.clone()).unwrap();
            tell_key(run, &mut read, "{}");
            assert_eq!(read, whole);
            let says = |text: &str| stored.windows(text.len()).any(|bytes| bytes == text.as_bytes());
            assert_eq!(says(&run.to_string()), seq == 0, "only the first names its run");
            assert!(!says(&key), "a hash of arguments");
        }
    }

    #[test]
    fn a_first_event_of_no_run_stays_one_of_none() {
        let read = leaf(Uuid::from_u128(1), stored(&EventLeaf::default())).unwrap();
        assert_eq!(read.run, "");
    }
}
