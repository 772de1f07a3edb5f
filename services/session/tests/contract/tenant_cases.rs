//! Isolation: nothing of a tenant is seen or changed by another.

use mar_session::store::{Admission, Append, Error, EventRow, Page, SessionRow};

use crate::rows::{Concurrency, Log, OWNER, Subject, TENANT, change, key, noise, run};

const OTHER: &str = "globex";

pub async fn another_tenant_sees_nothing(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    subject.append(&run, &[log.next_with(b"leaf", Some(vec![1; 20_000].into()))]).await;
    let store = &subject.store;
    let page = Page { limit: 100, ..Page::default() };
    assert_eq!(store.session_get(OTHER, run.session).await.unwrap(), None);
    assert_eq!(store.session_list(OTHER, page).await.unwrap(), []);
    assert_eq!(store.session_log(OTHER, run.session).await.unwrap(), []);
    assert_eq!(store.run_get(OTHER, run.id).await.unwrap(), None);
    assert_eq!(store.run_list(OTHER, None, page).await.unwrap(), []);
    assert_eq!(store.run_list(OTHER, Some(run.session), page).await.unwrap(), []);
    assert_eq!(store.event_read(OTHER, run.id, 0, 100, usize::MAX).await.unwrap(), []);
    // The owner sees all of it.
    assert_eq!(store.session_list(TENANT, page).await.unwrap().len(), 1);
    assert_eq!(store.run_list(TENANT, None, page).await.unwrap().len(), 1);
}

pub async fn another_tenant_changes_nothing(subject: Subject) {
    let (admitted, mut log) = subject.admitted().await;
    let store = &subject.store;
    let session = store.session_get(TENANT, admitted.session).await.unwrap().unwrap();
    let foreign = SessionRow { tenant: OTHER.to_owned(), state: 3, version: 2, ..session.clone() };
    assert_eq!(store.session_change(None, &foreign).await.unwrap(), None);
    assert_eq!(store.session_change(Some(&key()), &foreign).await.unwrap(), None);
    let intruder = run(&foreign, Concurrency::Parallel);
    let admission = store.run_admit(&key(), &intruder, &Log::default().next(b"leaf"), OWNER).await.unwrap();
    assert_eq!(admission, Admission::NotOpen(None));
    assert!(!store.run_change(OTHER, admitted.id, &change(8, Some([1; 32]))).await.unwrap());

    // Neither the next event, nor a stored one again, nor another in its place, nor in another session's name.
    let next = log.next(b"next");
    let first = subject.read(&admitted).await.remove(0);
    for events in [[next.clone()], [first], [Log::default().next(b"another first")]] {
        let answer = store.event_append(OTHER, admitted.session, admitted.id, &events).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    }
    // Large contents go to the session that is named.
    let large = EventRow { content: Some(noise(1, 30_000)), ..next.clone() };
    let answer = store.event_append(TENANT, intruder.id, admitted.id, &[large]).await;
    assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");

    assert_eq!(store.session_get(TENANT, session.id).await.unwrap(), Some(session.clone()));
    assert_eq!(store.run_get(TENANT, admitted.id).await.unwrap(), Some(admitted.clone()));
    assert_eq!(store.session_log(TENANT, session.id).await.unwrap().len(), 2);
    assert_eq!(subject.read(&admitted).await.len(), 1);
    assert_eq!(subject.append(&admitted, &[next]).await, Append::Done);
}
