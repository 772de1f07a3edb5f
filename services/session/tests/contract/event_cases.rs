//! Events: the fence, blobs, reading.

use std::sync::Arc;

use bytes::Bytes;
use mar_session::store::{Append, Error, EventRow};
use tokio::task::JoinSet;

use crate::rows::{Log, Subject, TENANT, id, noise};

pub async fn events_are_appended_and_read(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    let events = [
        log.next(b"\x00\xff"),
        log.next_with(b"", Some(Bytes::new())),
        log.next_with(b"with content", Some(Bytes::from_static(b"\x00content\xff"))),
    ];
    assert_eq!(subject.append(&run, &[]).await, Append::Done);
    assert_eq!(subject.append(&run, &events[..1]).await, Append::Done);
    assert_eq!(subject.append(&run, &events[1..]).await, Append::Done);
    assert_eq!(subject.read(&run).await[1..], events);
    let read = |from, limit| subject.store.event_read(TENANT, run.id, from, limit, usize::MAX);
    assert_eq!(read(2, 1).await.unwrap(), events[1..2]);
    assert_eq!(read(4, 10).await.unwrap(), []);
    assert_eq!(read(0, 0).await.unwrap(), []);
}

pub async fn a_repeated_append_is_done(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    let events = [log.next(b"one"), log.next_with(b"two", Some(noise(1, 50_000)))];
    for _ in 0..3 {
        assert_eq!(subject.append(&run, &events).await, Append::Done);
    }
    assert_eq!(subject.append(&run, &events[1..]).await, Append::Done);
    assert_eq!(subject.read(&run).await[1..], events);
    // Also after the log has gone on.
    subject.append(&run, &[log.next(b"three")]).await;
    assert_eq!(subject.append(&run, &events).await, Append::Done);
}

pub async fn another_event_fences(subject: Subject) {
    let (run, log) = subject.admitted().await;
    let (mut mine, mut other) = (log.clone(), log);
    assert_eq!(subject.append(&run, &[mine.next(b"mine")]).await, Append::Done);
    let theirs = [other.next(b"theirs"), other.next(b"and on")];
    assert_eq!(subject.append(&run, &theirs).await, Append::Fenced);
    // A writer that goes on after an event that is not the stored one.
    assert_eq!(subject.append(&run, &theirs[1..]).await, Append::Fenced);
    assert_eq!(subject.read(&run).await.len(), 2);
    assert_eq!(subject.append(&run, &[mine.next(b"next")]).await, Append::Done);
    let other_first = [Log::default().next(b"another first")];
    assert_eq!(subject.append(&run, &other_first).await, Append::Fenced);
}

pub async fn gaps_are_refused(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    let events = [log.next(b"one"), log.next(b"two"), log.next(b"three")];
    let refused = |events: Vec<EventRow>| {
        let (store, run) = (Arc::clone(&subject.store), run.clone());
        async move {
            let answer = store.event_append(TENANT, run.session, run.id, &events).await;
            assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
        }
    };
    refused(events[1..].to_vec()).await;
    refused(vec![events[0].clone(), events[2].clone()]).await;
    refused(vec![EventRow { prev_hash: [9; 32], ..events[1].clone() }, events[2].clone()]).await;
    assert_eq!(subject.append(&run, &events[..1]).await, Append::Done);
    refused(events.to_vec()).await;
    assert_eq!(subject.read(&run).await.len(), 2);
    // A run that nobody admitted has no log to continue.
    let answer = subject.store.event_append(TENANT, run.session, id(), &[Log::default().next(b"one")]).await;
    assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
}

pub async fn appends_at_a_time_have_one_writer(subject: Subject) {
    let (run, log) = subject.admitted().await;
    let mut writers = JoinSet::new();
    for writer in 0..6_u8 {
        let (store, run, mut log) = (Arc::clone(&subject.store), run.clone(), log.clone());
        writers.spawn(async move {
            let mut written = 0;
            for step in 0..5_u8 {
                let events = [log.next(&[writer, step]), log.next(&[writer, step, 1])];
                match store.event_append(TENANT, run.session, run.id, &events).await.unwrap() {
                    Append::Done => written += 1,
                    Append::Fenced => break,
                }
            }
            written
        });
    }
    let mut written = writers.join_all().await;
    written.sort_unstable();
    assert_eq!(written, [0, 0, 0, 0, 0, 5]);
    let events = subject.read(&run).await;
    assert_eq!(events.len(), 11);
    assert!(events.windows(2).all(|pair| pair[0].hash == pair[1].prev_hash && pair[0].seq + 1 == pair[1].seq));
}

pub async fn a_conflict_stores_nothing(subject: Subject) {
    let (run, log) = subject.admitted().await;
    let (mut mine, mut other) = (log.clone(), log);
    subject.append(&run, &[mine.next(b"mine")]).await;
    let theirs = [other.next(b"theirs"), other.next_with(b"large", Some(noise(2, 30_000)))];
    assert_eq!(subject.append(&run, &theirs).await, Append::Fenced);
    let mut gap = mine.clone();
    gap.next(b"skipped");
    let answer = subject
        .store
        .event_append(TENANT, run.session, run.id, &[gap.next_with(b"large", Some(noise(3, 30_000)))])
        .await;
    assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    assert_eq!(subject.blobs().await, 0);
    assert_eq!(subject.read(&run).await.len(), 2);
}

pub async fn large_contents_are_stored_once(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    let large = noise(3, 100_000);
    let before = subject.bytes().await;
    let together: Vec<_> = (0..3_u8).map(|leaf| log.next_with(&[leaf], Some(large.clone()))).collect();
    assert_eq!(subject.append(&run, &together).await, Append::Done);
    for leaf in 3..5_u8 {
        assert_eq!(subject.append(&run, &[log.next_with(&[leaf], Some(large.clone()))]).await, Append::Done);
    }
    assert_eq!(subject.blobs().await, 1);
    let grown = subject.bytes().await - before;
    assert!((90_000..180_000).contains(&grown), "{grown}");
    let read = subject.read(&run).await;
    assert_eq!(read.len(), 6);
    assert!(read[1..].iter().all(|event| event.content.as_ref() == Some(&large)));

    // Another session keeps its own: sessions are erased one by one.
    let (elsewhere, mut log) = subject.admitted().await;
    subject.append(&elsewhere, &[log.next_with(b"leaf", Some(large))]).await;
    assert_eq!(subject.blobs().await, 2);
}

pub async fn contents_come_back_whole(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    let sizes = [0, 1, 2_000, 16 * 1024, 16 * 1024 + 1, 3_000_000];
    let events: Vec<_> = sizes.iter().map(|&size| log.next_with(b"leaf", Some(noise(size as u64, size)))).collect();
    assert_eq!(subject.append(&run, &events).await, Append::Done);
    assert_eq!(subject.read(&run).await[1..], events);
}

pub async fn reads_stop_at_bytes(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    let events: Vec<_> = (0..10).map(|seed| log.next_with(b"leaf", Some(noise(seed, 20_000)))).collect();
    subject.append(&run, &events).await;
    let read = |from, limit, max_bytes| subject.store.event_read(TENANT, run.id, from, limit, max_bytes);
    for (max_bytes, expected) in [(0, 1), (1, 1), (20_004, 1), (20_005, 2), (50_000, 3), (1_000_000, 10)] {
        let answer = read(1, 100, max_bytes).await.unwrap();
        assert_eq!(answer.len(), expected, "{max_bytes}");
        assert_eq!(answer, events[..expected]);
    }
    assert_eq!(read(3, 2, 1_000_000).await.unwrap(), events[2..4]);
}

/// At most 1 KB over the content's own bytes, as much at event 400 as at event 4.
pub async fn storage_per_event_stays_flat(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    let mut over = Vec::new();
    for part in 0..4_u64 {
        let (before, mut content) = (subject.bytes().await, 0);
        for step in 0..100 {
            let payload = noise(part * 100 + step, 200 + usize::try_from(step).unwrap() * 37 % 700);
            content += payload.len();
            let leaf = noise(step + 7, 250);
            assert_eq!(subject.append(&run, &[log.next_with(&leaf, Some(payload))]).await, Append::Done);
        }
        let grown = subject.bytes().await - before;
        over.push((grown - i64::try_from(content).unwrap()) / 100);
    }
    // Parts grow by pages, and by what the database keeps beside a table once in its life: no part says much alone.
    let halves = [over[0] + over[1], over[2] + over[3]];
    assert!(halves.iter().all(|&half| (0..=2 * 1024).contains(&half)), "{over:?}");
    assert!(halves[1] - halves[0] <= 800, "{over:?}");
}
