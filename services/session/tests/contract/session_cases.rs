//! Sessions, request ids and the session log.

use std::sync::Arc;

use mar_session::store::{
    Outcome, Page, RequestKey, SessionRow,
    session_log::{self, kind},
};
use tokio::task::JoinSet;

use crate::rows::{Concurrency, Log, Subject, TENANT, change, key, now, run, session};

pub async fn answers_a_ping(subject: Subject) {
    subject.store.ping().await.unwrap();
}

pub async fn sessions_are_started_and_read(subject: Subject) {
    let session = session();
    assert_eq!(subject.store.session_get(TENANT, session.id).await.unwrap(), None);
    let started = subject.store.session_start(&key(), &session).await.unwrap();
    assert_eq!(started, Outcome::Done(session.clone()));
    assert_eq!(subject.store.session_get(TENANT, session.id).await.unwrap(), Some(session));
}

pub async fn a_request_id_works_once(subject: Subject) {
    let (key, first) = (key(), session());
    subject.store.session_start(&key, &first).await.unwrap();
    let second = session();
    assert_eq!(subject.store.session_start(&key, &second).await.unwrap(), Outcome::Repeated(first.clone()));
    assert_eq!(subject.store.session_get(TENANT, second.id).await.unwrap(), None);

    // A repeated request shows the resource as it is now.
    let changed = SessionRow { state: 2, version: 2, update_time: now(), ..first.clone() };
    subject.store.session_change(None, &changed).await.unwrap().unwrap();
    assert_eq!(subject.store.session_start(&key, &session()).await.unwrap(), Outcome::Repeated(changed));

    // The same row again is the same call again, not a repeated request.
    let again = subject.store.session_start(&key, &first).await.unwrap();
    assert!(matches!(again, Outcome::Done(row) if row.id == first.id));

    let other = RequestKey { digest: [8; 32], ..key };
    assert_eq!(subject.store.session_start(&other, &session()).await.unwrap(), Outcome::Reused);
}

pub async fn identical_requests_at_a_time_start_one(subject: Subject) {
    let key = Arc::new(key());
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let (store, key) = (Arc::clone(&subject.store), Arc::clone(&key));
        calls.spawn(async move { store.session_start(&key, &session()).await.unwrap() });
    }
    let outcomes = calls.join_all().await;
    let done: Vec<_> =
        outcomes.iter().filter_map(|outcome| if let Outcome::Done(row) = outcome { Some(row) } else { None }).collect();
    assert_eq!(done.len(), 1, "{outcomes:?}");
    let repeated = outcomes.iter().filter(|outcome| **outcome == Outcome::Repeated(done[0].clone())).count();
    assert_eq!(repeated, 7);
    let page = Page { limit: 100, ..Page::default() };
    assert_eq!(subject.store.session_list(TENANT, page).await.unwrap().len(), 1);
}

pub async fn request_ids_have_a_scope(subject: Subject) {
    let base = key();
    subject.store.session_start(&base, &session()).await.unwrap();
    let other_principal = RequestKey { principal: "batch".to_owned(), ..base.clone() };
    let other_method = RequestKey { method: "/other", ..base.clone() };
    for key in [other_principal, other_method] {
        assert!(matches!(subject.store.session_start(&key, &session()).await.unwrap(), Outcome::Done(_)));
    }
    let other_tenant = SessionRow { tenant: "globex".to_owned(), ..session() };
    assert!(matches!(subject.store.session_start(&base, &other_tenant).await.unwrap(), Outcome::Done(_)));
}

pub async fn sessions_change_by_version(subject: Subject) {
    let first = subject.started().await;
    // What a change does not carry stays.
    let second = SessionRow { body: b"new".as_slice().into(), version: 2, update_time: now(), ..first.clone() };
    let sent = SessionRow { principal: "someone".to_owned(), salt_key: vec![0; 32].into(), ..second.clone() };
    assert_eq!(subject.store.session_change(None, &sent).await.unwrap(), Some(Outcome::Done(second.clone())));
    assert_eq!(subject.store.session_get(TENANT, first.id).await.unwrap(), Some(second.clone()));

    // Both the same version again and one that skips are out of date.
    for version in [2, 4] {
        let late = SessionRow { version, body: b"late".as_slice().into(), ..second.clone() };
        assert_eq!(subject.store.session_change(None, &late).await.unwrap(), None);
    }
    assert_eq!(subject.store.session_get(TENANT, first.id).await.unwrap(), Some(second));
    let unknown = SessionRow { version: 2, ..session() };
    assert_eq!(subject.store.session_change(None, &unknown).await.unwrap(), None);

    let ended = SessionRow { state: 3, version: 3, ..first };
    subject.store.session_change(None, &ended).await.unwrap().unwrap();
    let erased = SessionRow { state: 4, version: 4, ..ended };
    subject.store.session_change(None, &erased).await.unwrap().unwrap();
    let log = subject.store.session_log(TENANT, erased.id).await.unwrap();
    assert_eq!(log.iter().map(|entry| entry.kind.as_str()).collect::<Vec<_>>(), [kind::STARTED, kind::ENDED]);
}

pub async fn a_change_can_carry_a_request_id(subject: Subject) {
    let first = subject.started().await;
    let key = key();
    let second = SessionRow { body: b"new".as_slice().into(), version: 2, ..first };

    // A change that is out of date does not use the id up.
    let late = SessionRow { version: 9, ..second.clone() };
    assert_eq!(subject.store.session_change(Some(&key), &late).await.unwrap(), None);

    assert_eq!(subject.store.session_change(Some(&key), &second).await.unwrap(), Some(Outcome::Done(second.clone())));
    assert_eq!(
        subject.store.session_change(Some(&key), &second).await.unwrap(),
        Some(Outcome::Repeated(second.clone()))
    );
    let other = RequestKey { digest: [8; 32], ..key };
    let third = SessionRow { version: 3, ..second };
    assert_eq!(subject.store.session_change(Some(&other), &third).await.unwrap(), Some(Outcome::Reused));
}

pub async fn sessions_are_paged(subject: Subject) {
    let mut all = Vec::new();
    for state in [1, 2, 1, 1, 2] {
        let session = SessionRow { state, ..session() };
        subject.store.session_start(&key(), &session).await.unwrap();
        all.insert(0, session);
    }
    let list = |page: Page| subject.store.session_list(TENANT, page);
    let first = list(Page { limit: 2, ..Page::default() }).await.unwrap();
    assert_eq!(first, all[..2]);
    let rest = list(Page { before: Some(first[1].id), limit: 10, ..Page::default() }).await.unwrap();
    assert_eq!(rest, all[2..]);
    let ending = list(Page { state: Some(2), limit: 10, ..Page::default() }).await.unwrap();
    assert_eq!(ending, [all[0].clone(), all[3].clone()]);
    assert!(list(Page { limit: 0, ..Page::default() }).await.unwrap().is_empty());
    assert!(list(Page { limit: -1, ..Page::default() }).await.unwrap().is_empty());
}

pub async fn the_log_of_a_session_chains(subject: Subject) {
    let session = subject.started().await;
    let (run, mut log) = (run(&session, Concurrency::Serial), Log::default());
    let first = log.next(b"first");
    subject.admit(&run, &first).await;
    subject.store.run_change(TENANT, run.id, &change(2, None)).await.unwrap();
    subject.store.run_change(TENANT, run.id, &change(4, Some(first.hash))).await.unwrap();
    let ended = SessionRow { state: 3, version: 2, ..session };
    subject.store.session_change(None, &ended).await.unwrap().unwrap();

    let expected = [
        (kind::STARTED, None),
        (kind::RUN_ADMITTED, Some((run.id, first.hash))),
        (kind::RUN_SEALED, Some((run.id, first.hash))),
        (kind::ENDED, None),
    ];
    let mut last = None;
    let expected = expected.map(|(kind, run)| {
        let entry = session_log::next(last, kind, run);
        last = Some((entry.seq, entry.hash));
        entry
    });
    assert_eq!(subject.store.session_log(TENANT, ended.id).await.unwrap(), expected);
}
