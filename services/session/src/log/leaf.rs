//! What a stored leaf leaves out, because its place says it: the run, behind its first event, and the run in the ids of its
//! calls. The chain binds every event to the first, so it is as if each said it.
//!
//! Nor does a leaf hold an idempotency key: it is a hash of arguments, which a leaf may only commit to, and of what stands
//! beside it. It is told as long as the arguments are there. Nor the words of a failure, which may be the caller's: they are a
//! payload, and told as long as that is there.

use std::borrow::Cow;

use bytes::Bytes;
use mar_proto::session::{EventContent, EventLeaf, EventShared, RunFailure, event_leaf::Body, event_shared};
use prost::{DecodeError, Message as _};
use uuid::Uuid;

use crate::run::{Event, idempotency_key};

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

/// Leaves out what [`leaf`] and [`tell`] put back.
pub(super) fn condense(leaf: &mut EventLeaf) {
    for call_id in call_ids(&mut leaf.body) {
        if call_id.starts_with(&leaf.run) {
            call_id.drain(..leaf.run.len());
        }
    }
    if let Some(Body::ToolIntent(intent)) = &mut leaf.body {
        intent.idempotency_key.clear();
    }
    if let Some(failure) = leaf.body.as_mut().and_then(failure) {
        failure.message.clear();
    }
    if leaf.seq > 0 {
        leaf.run.clear();
    }
}

/// The payloads of an event, with what its leaf leaves to them.
pub(super) fn complete(event: &Event) -> Cow<'_, EventContent> {
    let failure = match &event.body {
        Body::RunEnded(ended) => ended.failure.as_ref(),
        Body::ChildEnded(ended) => ended.failure.as_ref(),
        _ => None,
    };
    match failure {
        Some(failure) if event.content.failure_message != failure.message => {
            let failure_message = failure.message.clone();
            Cow::Owned(EventContent { failure_message, ..event.content.clone() })
        }
        _ => Cow::Borrowed(&event.content),
    }
}

/// Puts back what a leaf leaves to its payloads, which are these.
pub(super) fn tell(run: Uuid, leaf: &mut EventLeaf, content: &EventContent) {
    if let Some(Body::ToolIntent(intent)) = &mut leaf.body {
        intent.idempotency_key = idempotency_key(run, &intent.call_id, &content.arguments_json);
    }
    if let Some(failure) = leaf.body.as_mut().and_then(failure) {
        failure.message.clone_from(&content.failure_message);
    }
}

/// Why a run gave no answer, in what happened.
fn failure(body: &mut Body) -> Option<&mut RunFailure> {
    match body {
        Body::RunEnded(ended) => ended.failure.as_mut(),
        Body::ChildEnded(ended) => ended.failure.as_mut(),
        _ => None,
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
    use mar_proto::session::{ChildEnded, GenerationStarted, RunEnded, ToolIntent, ToolReturned};

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
        let failure = || {
            let (reason, message) = ("NOT_FOUND".to_owned(), "no tool for Quetzalcoatlus".to_owned());
            Some(RunFailure { reason, message })
        };
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
            Body::ChildEnded(ChildEnded { failure: failure(), ..Default::default() }),
            Body::RunEnded(RunEnded { failure: failure(), ..Default::default() }),
        ];
        let content = EventContent {
            arguments_json: "{}".to_owned(),
            failure_message: "no tool for Quetzalcoatlus".to_owned(),
            ..Default::default()
        };
        for (seq, body) in (0..).zip(bodies) {
            let whole = EventLeaf { run: run.to_string(), seq, body: Some(body), ..Default::default() };
            let stored = stored(&whole);
            let mut read = leaf(run, stored.clone()).unwrap();
            tell(run, &mut read, &content);
            assert_eq!(read, whole);
            let says = |text: &str| stored.windows(text.len()).any(|bytes| bytes == text.as_bytes());
            assert_eq!(says(&run.to_string()), seq == 0, "only the first names its run");
            assert!(!says(&key), "a hash of arguments");
            assert!(!says("Quetzalcoatlus"), "the words of a failure");
        }
    }

    #[test]
    fn a_first_event_of_no_run_stays_one_of_none() {
        let read = leaf(Uuid::from_u128(1), stored(&EventLeaf::default())).unwrap();
        assert_eq!(read.run, "");
    }
}
