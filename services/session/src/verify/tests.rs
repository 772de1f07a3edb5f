//! Every stored byte counts, and what is found is told where it is.

use std::collections::BTreeSet;

use mar_proto::session::{VerifyFaultKind as Kind, VerifyPlace as Place, VerifyRunResponse};
use proptest::prelude::*;
use prost::Message as _;

use fixture::{Run, RunState, at, stored};

use crate::store::session_log::kind;

use super::*;

mod fixture;

/// Places and numbers of the faults.
fn places(found: &VerifyRunResponse) -> BTreeSet<(Place, i64)> {
    assert_eq!(found.valid, found.faults.is_empty());
    found.faults.iter().map(|fault| (fault.place(), fault.seq)).collect()
}

fn kinds(found: &VerifyRunResponse) -> BTreeSet<(Place, Kind)> {
    found.faults.iter().map(|fault| (fault.place(), fault.kind())).collect()
}

#[test]
fn an_untouched_run_verifies_and_everything_was_checked() {
    let stored = stored();
    let found = stored.verify();
    assert_eq!(found.faults, []);
    assert!(found.valid && found.sealed && found.unchecked.is_empty(), "{found:?}");
    assert_eq!((found.events, found.events_without_payload), (stored.events.len() as i64, 0));
    assert_eq!(found.head, stored.events.last().unwrap().hash[..]);
    let ended = stored.ended_session();
    assert_eq!(ended.verify().faults, []);
}

#[test]
fn an_open_run_verifies_as_far_as_it_goes_and_says_so() {
    for events in [2, 5, fixture::EVENTS] {
        let open = stored().open(events);
        let found = open.verify();
        assert_eq!(found.faults, [], "{events}");
        assert!(found.valid && !found.sealed, "{found:?}");
        assert!(found.unchecked.iter().any(|text| text.contains("not sealed yet")), "{found:?}");
    }
    // What its row has counted already is missed.
    let mut cut = stored().open(5);
    cut.events.pop();
    assert_eq!(places(&cut.verify()), [(Place::Event, 4)].into());
    // A sealed run that is made to look open is not.
    let mut reopened = stored().open(5);
    reopened.session_log = stored().session_log;
    assert_eq!(kinds(&reopened.verify()), [(Place::SessionLog, Kind::Order)].into());
}

#[test]
fn payloads_that_are_gone_are_no_fault_where_the_log_says_so() {
    // Pruned: the keys stay.
    let pruned = stored().ended_session().without_payloads().recorded(&[kind::PRUNED]);
    let found = pruned.verify();
    assert_eq!(found.faults, []);
    assert!(found.sealed && found.payloads_erased && found.events_without_payload > 3, "{found:?}");
    assert!(found.unchecked.iter().any(|text| text.contains("were pruned")), "{found:?}");
    let mut keyless = pruned;
    keyless.session.salt_key = Bytes::new();
    assert_eq!(kinds(&keyless.verify()), [(Place::Session, Kind::Unreadable)].into());
    // Erased, whether or not they had been pruned before.
    for entries in [&[kind::ERASED][..], &[kind::PRUNED, kind::ERASED]] {
        let mut erased = stored().ended_session().without_payloads().recorded(entries);
        assert_eq!(erased.verify().faults, [], "while it is being erased");
        erased.session.salt_key = Bytes::new();
        erased.session.state = SessionState::Erased as i16;
        let found = erased.verify();
        assert_eq!(found.faults, []);
        assert!(found.sealed && found.payloads_erased, "{found:?}");
        assert!(found.unchecked.iter().any(|text| text.contains("were erased")), "{found:?}");
        // What is left of an erased session is told.
        erased.events[0].content = stored().events[0].content.clone();
        assert!(places(&erased.verify()).contains(&(Place::Event, 0)));
    }
}

#[test]
fn payloads_that_somebody_took_away_are_told() {
    for whole in [stored(), stored().ended_session()] {
        let found = whole.without_payloads().verify();
        assert!(!found.payloads_erased && found.faults.len() as i64 == found.events_without_payload, "{found:?}");
        assert_eq!(kinds(&found), [(Place::Event, Kind::Missing)].into());
    }
    let mut one = stored();
    let at = one.events.iter().rposition(|event| event.content.is_some()).unwrap();
    one.events[at].content = None;
    assert_eq!(places(&one.verify()), [(Place::Event, one.events[at].seq)].into());
}

#[test]
fn what_goes_of_a_session_stands_behind_its_end_once() {
    let broken = [
        stored().recorded(&[kind::PRUNED]),
        stored().ended_session().recorded(&[kind::ERASED, kind::PRUNED]),
        stored().ended_session().recorded(&[kind::ERASED, kind::ERASED]),
        stored().ended_session().recorded(&[kind::PRUNED, kind::PRUNED]),
        stored().ended_session().recorded(&[kind::ENDED]),
        stored().ended_session().recorded(&[kind::STARTED]),
        stored().recorded(&[kind::ERASED]).ended_with_entries(5),
        stored().recorded(&[kind::EXPIRED]),
        stored().recorded(&[kind::EXPIRED, kind::EXPIRED]).ended_with_entries(6),
        stored().ended_session().recorded(&[kind::EXPIRED]),
    ];
    for (at, broken) in broken.into_iter().enumerate() {
        let found = broken.verify();
        assert!(places(&found).contains(&(Place::SessionLog, -1)), "{at}: {found:?}");
    }
    assert_eq!(stored().recorded(&[kind::EXPIRED]).ended_with_entries(5).verify().faults, []);
    let mut silent = stored().ended_session().without_payloads().recorded(&[kind::PRUNED]);
    silent.session.state = SessionState::Erased as i16;
    assert_eq!(places(&silent.verify()), [(Place::SessionLog, -1)].into());
}

#[test]
fn without_the_generators_keys_the_signature_is_left_open_and_said_so() {
    let mut stored = stored();
    stored.keys.descriptors = None;
    let found = stored.verify();
    assert!(found.valid && found.unchecked.len() == 1 && found.unchecked[0].contains("descriptor"), "{found:?}");
    let mut strangers = stored;
    strangers.keys.descriptors = Some(fixture::key(9).verifying_keys());
    strangers.keys.seals = fixture::key(9).verifying_keys();
    let found = strangers.verify();
    let agent = at(&strangers.events, |body| matches!(body, Body::AgentSealed(_)));
    assert_eq!(places(&found), [(Place::Event, agent), (Place::Seal, -1)].into());
    assert!(found.faults.iter().all(|fault| fault.kind() == Kind::Signature), "{found:?}");
}

#[test]
fn a_descriptor_that_was_exchanged_is_found_in_all_it_changes() {
    // With new hashes and commitments from there on, as somebody writes who holds the salt key.
    let forged = stored().rewritten(|leaf, content| {
        if let Some(agent) = &mut content.agent {
            let other = fixture::descriptor(&fixture::key(7), 3);
            if let Some(Body::AgentSealed(sealed)) = &mut leaf.body {
                sealed.descriptor_hash.clone_from(&other.hash);
            }
            agent.descriptor = Some(other);
        }
    });
    let found = forged.verify();
    let agent = at(&forged.events, |body| matches!(body, Body::AgentSealed(_)));
    for expected in [
        (Place::Event, Kind::Descriptor),
        (Place::Event, Kind::Signature),
        (Place::Seal, Kind::Mismatch),
        (Place::SessionLog, Kind::Mismatch),
    ] {
        assert!(kinds(&found).contains(&expected), "{expected:?} in {found:?}");
    }
    let events: Vec<_> = found.faults.iter().filter(|fault| fault.place() == Place::Event).collect();
    assert!(events.iter().all(|fault| fault.seq == agent), "{found:?}");
    assert!(events.iter().any(|fault| fault.message.contains("section halting")), "{found:?}");
}

#[test]
fn a_log_that_was_written_anew_is_not_the_one_that_was_sealed() {
    let forged = stored().rewritten(|_, content| {
        if let Some(result) = &mut content.tool_result {
            result.is_error = true;
        }
    });
    let found = forged.verify();
    assert_eq!(kinds(&found), [(Place::Seal, Kind::Mismatch), (Place::SessionLog, Kind::Mismatch)].into(), "{found:?}");
}

#[test]
fn what_is_cut_off_of_a_sealed_run_is_missed() {
    for cut in 1..=fixture::EVENTS {
        let mut stored = stored();
        stored.events.truncate(fixture::EVENTS - cut);
        let found = stored.verify();
        let first = (fixture::EVENTS - cut) as i64;
        assert!(places(&found).contains(&(Place::Event, first)), "{cut}: {found:?}");
        assert!(found.faults.iter().any(|fault| fault.kind() == Kind::Missing), "{cut}: {found:?}");
    }
}

#[test]
fn a_removed_event_is_missed_where_it_was() {
    for at in 1..fixture::EVENTS - 1 {
        let mut stored = stored();
        stored.events.remove(at);
        let found = stored.verify();
        let missed = found.faults.iter().any(|fault| (fault.kind(), fault.seq) == (Kind::Missing, at as i64));
        assert!(missed, "{at}: {found:?}");
    }
}

#[test]
fn events_behind_the_end_and_events_of_others_are_found() {
    let mut longer = stored();
    let last = longer.events.last().unwrap().clone();
    let leaf = EventLeaf { run: longer.run.id.to_string(), seq: last.seq + 1, epoch: 2, ..EventLeaf::default() };
    let leaf: Bytes = EventLeaf { body: Some(Body::RunResumed(Default::default())), ..leaf }.encode_to_vec().into();
    let prev = Hash::from_bytes(last.hash);
    let hash = *chain::event_hash(&prev, &leaf).as_bytes();
    longer.events.push(EventRow { seq: last.seq + 1, prev_hash: last.hash, hash, leaf, content: None });
    let found = longer.verify();
    assert!(kinds(&found).is_superset(&[(Place::Event, Kind::Order), (Place::Seal, Kind::Mismatch)].into()));

    let other = fixture::stored_as(77, 5);
    for at in 0..fixture::EVENTS {
        let mut mixed = stored();
        mixed.events[at] = other.events[at].clone();
        let found = mixed.verify();
        let foreign = found.faults.iter().any(|fault| (fault.kind(), fault.seq) == (Kind::Foreign, at as i64));
        assert!(foreign, "{at}: {found:?}");
    }
    // Another run's whole log, row and all.
    let mut swapped = stored();
    swapped.events = other.events;
    assert!(swapped.verify().faults.len() >= 2 * fixture::EVENTS);
}

#[test]
fn every_field_of_the_seal_counts() {
    use mar_proto::session::RunSeal;
    let changes: [fn(&mut RunSeal); 11] = [
        |seal| seal.descriptor_hash.clear(),
        |seal| seal.descriptor_hash.push('0'),
        |seal| seal.input_commitment = vec![1; 32].into(),
        |seal| seal.session_commitment = vec![1; 32].into(),
        |seal| seal.outcome = "FAILED".into(),
        |seal| seal.head = vec![1; 32].into(),
        |seal| seal.head = Bytes::new(),
        |seal| seal.head_seq -= 1,
        |seal| seal.hash = Hash::ZERO.to_string(),
        |seal| seal.signature = None,
        |seal| seal.signature.as_mut().unwrap().sig = vec![0; 64].into(),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut stored = stored();
        stored.change_run(|run| change(run.seal.as_mut().unwrap()));
        let found = stored.verify();
        assert!(places(&found).contains(&(Place::Seal, -1)), "{at}: {found:?}");
    }
    let mut unsealed = stored();
    unsealed.change_run(|run| run.seal = None);
    assert_eq!(kinds(&unsealed.verify()), [(Place::Seal, Kind::Missing)].into());
    // A good seal of another run.
    let mut swapped = stored();
    let other = Run::decode(fixture::stored_as(77, 5).run.summary).unwrap().seal;
    swapped.change_run(|run| run.seal = other);
    let found = swapped.verify();
    assert_eq!(kinds(&found), [(Place::Seal, Kind::Mismatch)].into(), "{found:?}");
}

#[test]
fn every_field_of_the_row_that_callers_read_counts() {
    let changes: [fn(&mut Run); 12] = [
        |run| run.name.push('x'),
        |run| run.state = RunState::Failed.into(),
        |run| run.task.as_mut().unwrap().r#type = "other".into(),
        |run| run.limits.as_mut().unwrap().max_steps = Some(1_000),
        |run| run.totals = None,
        |run| run.descriptor_hash.clear(),
        |run| run.answer.as_mut().unwrap().json = "{}".into(),
        |run| run.failure = Some(Default::default()),
        |run| run.epoch += 1,
        |run| run.next_seq -= 1,
        |run| run.create_time = None,
        |run| run.end_time = None,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut stored = stored();
        stored.change_run(change);
        let found = stored.verify();
        assert_eq!(places(&found), [(Place::Run, -1)].into(), "{at}: {found:?}");
    }
    let mut row = stored();
    row.run.state = RunState::Failed as i16;
    assert_eq!(places(&row.verify()), [(Place::Run, -1)].into());
}

#[test]
fn the_sessions_log_and_seal_count() {
    for at in 0..fixture::ENTRIES {
        for change in [
            (|entry| entry.seq += 1) as fn(&mut SessionLogRow),
            |entry| entry.kind.push('x'),
            |entry| entry.run = Some(Uuid::from_u128(5)),
            |entry| entry.run_hash = Some([5; 32]),
            |entry| entry.hash[31] ^= 1,
        ] {
            let mut stored = stored().ended_session();
            change(&mut stored.session_log[at]);
            let found = stored.verify();
            let seq = stored.session_log[at].seq;
            assert!(places(&found).contains(&(Place::SessionLog, seq)), "{at}: {found:?}");
        }
        let mut cut = stored().ended_session();
        cut.session_log.remove(at);
        assert!(!cut.verify().valid, "{at}");
    }
    let changes: [fn(&mut mar_proto::session::SessionSeal); 7] = [
        |seal| seal.runs += 1,
        |seal| seal.run_seals = vec![1; 32].into(),
        |seal| seal.head = vec![1; 32].into(),
        |seal| seal.head_seq += 1,
        |seal| seal.hash.push('0'),
        |seal| seal.signature = None,
        |seal| seal.signature.as_mut().unwrap().sig = vec![0; 64].into(),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut stored = stored().ended_session();
        stored.change_session(|session| change(session.seal.as_mut().unwrap()));
        assert_eq!(places(&stored.verify()), [(Place::Session, -1)].into(), "{at}");
    }
    let mut unsealed = stored().ended_session();
    unsealed.change_session(|session| session.seal = None);
    assert_eq!(kinds(&unsealed.verify()), [(Place::Session, Kind::Missing)].into());
    // The seal of another run of the session was exchanged.
    let mut other = stored().ended_session();
    *other.seals.values_mut().last().unwrap() = Hash::ZERO;
    assert_eq!(kinds(&other.verify()), [(Place::Session, Kind::Mismatch)].into());
}

/// Columns of an event.
const COLUMNS: usize = 5;

/// Changes one byte of a column; false where the column is empty.
fn flip(row: &mut EventRow, column: usize, at: usize, bits: u8) -> bool {
    let change = |bytes: &mut [u8]| match bytes.len() {
        0 => false,
        length => {
            bytes[at % length] ^= bits;
            true
        }
    };
    match column {
        0 => {
            let mut bytes = row.seq.to_be_bytes();
            let changed = change(&mut bytes);
            row.seq = i64::from_be_bytes(bytes);
            changed
        }
        // Only the first event has one of its own.
        1 => row.seq == 0 && change(&mut row.prev_hash),
        2 => change(&mut row.hash),
        3 => {
            let mut bytes = row.leaf.to_vec();
            let changed = change(&mut bytes);
            row.leaf = bytes.into();
            changed
        }
        _ => {
            let mut bytes = row.content.clone().unwrap_or_default().to_vec();
            let changed = change(&mut bytes);
            row.content = row.content.is_some().then(|| bytes.into());
            changed
        }
    }
}

/// Bytes of every column of every event. What the signatures are over is tested elsewhere, and they are slow.
#[test]
fn no_stored_byte_can_change_unseen() {
    let mut whole = stored();
    whole.keys.descriptors = None;
    whole.run.state = RunState::Running as i16;
    let mut flips = 0;
    for event in 0..whole.events.len() {
        for column in 0..COLUMNS {
            let row = &whole.events[event];
            let link = if event == 0 { 32 } else { 0 };
            let length = [8, link, 32, row.leaf.len(), row.content.as_ref().map_or(0, Bytes::len)][column];
            // Large contents are sampled; the property below reaches the rest.
            let step = (length / 32).max(1);
            for at in (0..length).step_by(step) {
                let mut touched = whole.clone();
                assert!(flip(&mut touched.events[event], column, at, 1 << (at % 8)));
                let found = touched.verify();
                let named = [whole.events[event].seq, touched.events[event].seq];
                let names = found.faults.iter().any(|one| one.place() == Place::Event && named.contains(&one.seq));
                assert!(names, "event {event}, column {column}, byte {at}: {found:?}");
                flips += 1;
            }
        }
    }
    assert!(flips > 800, "{flips}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_changed_byte_names_its_event(
        event in 0..fixture::EVENTS, column in 0..COLUMNS, at in any::<prop::sample::Index>(), bits in 1..=u8::MAX,
    ) {
        let mut stored = stored();
        let before = stored.events[event].seq;
        let changed = flip(&mut stored.events[event], column, at.index(1 << 16), bits);
        let found = stored.verify();
        let named = [before, stored.events[event].seq];
        prop_assert_eq!(found.valid, !changed);
        let names = found.faults.iter().any(|one| one.place() == Place::Event && named.contains(&one.seq));
        prop_assert_eq!(names, changed, "{:?}", found);
    }

    #[test]
    fn another_order_is_found(order in Just((0..fixture::EVENTS).collect::<Vec<_>>()).prop_shuffle()) {
        let whole = stored();
        let mut shuffled = whole.clone();
        shuffled.events = order.iter().map(|at| whole.events[*at].clone()).collect();
        prop_assert_eq!(shuffled.verify().valid, order.is_sorted());
    }

    #[test]
    fn garbage_never_panics(
        rows in prop::collection::vec(
            (any::<i64>(), any::<[u8; 32]>(), prop::collection::vec(any::<u8>(), 0..80),
             prop::option::of(prop::collection::vec(any::<u8>(), 0..80))),
            0..8,
        ),
        state in any::<i16>(), summary in prop::collection::vec(any::<u8>(), 0..80),
        next_seq in any::<i64>(), head_seq in any::<i64>(), well_formed in any::<bool>(),
    ) {
        let mut garbage = if well_formed { stored().ended_session() } else { stored() };
        garbage.events = rows
            .into_iter()
            .map(|(seq, hash, leaf, content)| EventRow {
                seq, prev_hash: hash, hash, leaf: leaf.into(), content: content.map(Into::into),
            })
            .collect();
        garbage.run.state = state;
        if well_formed {
            garbage.change_run(|run| {
                run.next_seq = next_seq;
                run.seal.as_mut().unwrap().head_seq = head_seq;
            });
            garbage.change_session(|session| session.seal.as_mut().unwrap().head_seq = head_seq);
        } else {
            garbage.run.summary = summary.clone().into();
            garbage.session.body = summary.into();
        }
        garbage.session_log[1].seq = head_seq;
        prop_assert!(!garbage.verify().valid);
    }
}
