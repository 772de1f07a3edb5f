//! Runs: admission, states, claims.

use std::{collections::HashSet, sync::Arc};

use mar_session::store::{Admission, Error, EventRow, Page, RequestKey, RunRow, SessionRow};
use tokio::task::JoinSet;

use crate::rows::{Concurrency, Log, OWNER, Subject, TENANT, change, id, key, noise, run, session};

pub async fn a_run_is_admitted_whole(subject: Subject) {
    let run = run(&subject.started().await, Concurrency::Serial);
    let first = Log::default().next_with(b"leaf", Some(noise(1, 40_000)));
    subject.admit(&run, &first).await;
    assert_eq!(subject.store.run_get(TENANT, run.id).await.unwrap(), Some(run.clone()));
    assert_eq!(subject.read(&run).await, [first]);
    assert_eq!(subject.store.session_log(TENANT, run.session).await.unwrap().len(), 2);
    // The lease is the owner's, at epoch 1.
    assert!(subject.store.run_claim(OWNER, 1, 10, crate::PATIENCE).await.unwrap().is_empty());
    assert_eq!(crate::claims(subject.store.run_claim("replica-2", 1, 10, crate::PATIENCE).await.unwrap()), [(run, 2)]);
}

pub async fn an_admission_is_repeated(subject: Subject) {
    let session = subject.started().await;
    let (key, stored) = (key(), run(&session, Concurrency::Serial));
    let first = Log::default().next(b"leaf");
    for _ in 0..2 {
        // The same row again is the same call again: its caller got no answer the first time.
        assert_eq!(subject.store.run_admit(&key, &stored, &first, OWNER).await.unwrap(), Admission::Admitted);
    }
    let other = run(&session, Concurrency::Serial);
    assert_eq!(
        subject.store.run_admit(&key, &other, &first, OWNER).await.unwrap(),
        Admission::Repeated(stored.clone())
    );
    let reused = RequestKey { digest: [8; 32], ..key.clone() };
    assert_eq!(subject.store.run_admit(&reused, &other, &first, OWNER).await.unwrap(), Admission::Reused);

    // Repeating answers also when the session has ended since.
    subject.store.run_change(TENANT, stored.id, &change(8, Some(first.hash))).await.unwrap();
    let ended = SessionRow { state: 3, version: 2, ..session };
    subject.store.session_change(None, &ended).await.unwrap().unwrap();
    let repeated = subject.store.run_admit(&key, &other, &first, OWNER).await.unwrap();
    assert!(matches!(repeated, Admission::Repeated(row) if row.id == stored.id && row.state == 8));
}

pub async fn runs_need_an_open_session(subject: Subject) {
    let first = Log::default().next(b"leaf");
    let nowhere = run(&session(), Concurrency::Serial);
    assert_eq!(subject.store.run_admit(&key(), &nowhere, &first, OWNER).await.unwrap(), Admission::NotOpen(None));

    let session = subject.started().await;
    let ending = SessionRow { state: 2, version: 2, ..session.clone() };
    subject.store.session_change(None, &ending).await.unwrap().unwrap();
    let (key, late) = (key(), run(&session, Concurrency::Serial));
    assert_eq!(subject.store.run_admit(&key, &late, &first, OWNER).await.unwrap(), Admission::NotOpen(Some(2)));
    assert_eq!(subject.store.run_get(TENANT, late.id).await.unwrap(), None);

    // The refusal did not use the request id up.
    let open = SessionRow { state: 1, version: 3, ..session };
    subject.store.session_change(None, &open).await.unwrap().unwrap();
    assert_eq!(subject.store.run_admit(&key, &late, &first, OWNER).await.unwrap(), Admission::Admitted);
}

pub async fn serial_runs_exclude_each_other(subject: Subject) {
    let session = subject.started().await;
    let first = Log::default().next(b"leaf");
    let (one, two) = (run(&session, Concurrency::Serial), run(&session, Concurrency::Serial));
    subject.admit(&one, &first).await;
    let busy = subject.store.run_admit(&key(), &two, &first, OWNER).await.unwrap();
    assert_eq!(busy, Admission::Busy(one.id));
    let parallel = run(&session, Concurrency::Parallel);
    let busy = subject.store.run_admit(&key(), &parallel, &first, OWNER).await.unwrap();
    assert_eq!(busy, Admission::Busy(one.id));
    assert_eq!(subject.store.run_get(TENANT, two.id).await.unwrap(), None);

    // Another session is not in the way, and an ended run neither.
    subject.admitted().await;
    subject.store.run_change(TENANT, one.id, &change(4, Some(first.hash))).await.unwrap();
    subject.admit(&two, &first).await;
}

pub async fn parallel_runs_do_not(subject: Subject) {
    let session = subject.started().await;
    let first = Log::default().next(b"leaf");
    let runs: Vec<_> = (0..3).map(|_| run(&session, Concurrency::Parallel)).collect();
    for run in &runs {
        subject.admit(run, &first).await;
    }
    let serial = run(&session, Concurrency::Serial);
    let busy = subject.store.run_admit(&key(), &serial, &first, OWNER).await.unwrap();
    assert_eq!(busy, Admission::Busy(runs[0].id));
}

/// A root run that excludes others, and a child of its call.
async fn child_of_a_run(subject: &Subject) -> (RunRow, RunRow, EventRow) {
    let (parent, _) = subject.admitted().await;
    let session = subject.store.session_get(TENANT, parent.session).await.unwrap().unwrap();
    let child = run(&session, Concurrency::Parallel);
    // Its chain begins with the intent of its parent.
    let first = Log::after([5; 32]).next_with(b"child", Some(noise(2, 40_000)));
    (parent, child, first)
}

/// What the owner of the parent claims beside it.
async fn claimed_by_owner(subject: &Subject) -> Vec<(RunRow, i64)> {
    crate::claims(subject.store.run_claim(OWNER, 1, 10, crate::PATIENCE).await.unwrap())
}

pub async fn a_child_is_admitted_whole(subject: Subject) {
    let (parent, child, first) = child_of_a_run(&subject).await;
    // What stands in a root run's way, its parent, does not stand in its way.
    assert_eq!(subject.store.child_admit(&child, &first).await.unwrap(), Admission::Admitted);
    assert_eq!(subject.store.run_get(TENANT, child.id).await.unwrap(), Some(child.clone()));
    assert_eq!(subject.read(&child).await, std::slice::from_ref(&first));
    let log = subject.store.session_log(TENANT, child.session).await.unwrap();
    let last = log.last().unwrap();
    assert_eq!((log.len(), last.run, last.run_hash), (3, Some(child.id), Some(first.hash)));
    // It is nobody's, and due: the owner of its parent may claim it like any other, once.
    assert_eq!(claimed_by_owner(&subject).await, [(child.clone(), 2)]);
    assert_eq!(claimed_by_owner(&subject).await, []);

    // What is no first event leaves nothing.
    let mut log = Log::default();
    log.next(b"skipped");
    let other = RunRow { id: id(), ..child };
    let refused = subject.store.child_admit(&other, &log.next(b"second")).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(subject.store.run_get(TENANT, other.id).await.unwrap(), None);
    assert_eq!(subject.store.session_log(TENANT, parent.session).await.unwrap().len(), 3);
}

pub async fn a_child_is_admitted_once(subject: Subject) {
    let (_, child, first) = child_of_a_run(&subject).await;
    // Two replicas hold the parent for theirs, and each brings rows of its own making.
    let mut calls = JoinSet::new();
    for number in 0..6_u8 {
        let (store, summary) = (Arc::clone(&subject.store), vec![number; 3]);
        let mine = RunRow { summary: summary.clone().into(), ..child.clone() };
        let first = Log::after([5; 32]).next_with(&summary, Some(vec![number; 20_000].into()));
        calls.spawn(async move { (store.child_admit(&mine, &first).await.unwrap(), mine, first) });
    }
    let answers = calls.join_all().await;
    assert!(answers.iter().all(|(answer, ..)| *answer == Admission::Admitted), "{answers:?}");
    let stored = subject.store.run_get(TENANT, child.id).await.unwrap().unwrap();
    let (_, _, taken) = answers.iter().find(|(_, mine, _)| *mine == stored).unwrap();
    assert_eq!(subject.read(&child).await, std::slice::from_ref(taken), "the row and the event of one of them");
    assert_eq!(subject.store.session_log(TENANT, child.session).await.unwrap().len(), 3);
    // Nor does it begin again later, when it is somebody's, or over.
    assert_eq!(claimed_by_owner(&subject).await, [(stored, 2)]);
    assert_eq!(subject.store.child_admit(&child, &first).await.unwrap(), Admission::Admitted);
    assert_eq!(claimed_by_owner(&subject).await, []);
    subject.store.run_change(TENANT, child.id, &change(8, Some(taken.hash))).await.unwrap();
    assert_eq!(subject.store.child_admit(&child, &first).await.unwrap(), Admission::Admitted);
    assert_eq!(subject.store.run_get(TENANT, child.id).await.unwrap().unwrap().state, 8);
    assert_eq!(claimed_by_owner(&subject).await, []);
}

pub async fn children_need_an_open_session(subject: Subject) {
    let (parent, child, first) = child_of_a_run(&subject).await;
    let store = &subject.store;
    let nowhere = RunRow { session: id(), ..child.clone() };
    assert_eq!(store.child_admit(&nowhere, &first).await.unwrap(), Admission::NotOpen(None));
    // Another tenant's session is none, and stays as it is.
    let foreign = RunRow { tenant: "globex".to_owned(), ..child.clone() };
    assert_eq!(store.child_admit(&foreign, &first).await.unwrap(), Admission::NotOpen(None));
    for tenant in [TENANT, "globex"] {
        assert_eq!(store.run_get(tenant, child.id).await.unwrap(), None);
    }
    // The parent has ended, and its session with it: who still holds the parent for open starts nothing.
    let sibling = RunRow { id: id(), ..child.clone() };
    store.child_admit(&sibling, &first).await.unwrap();
    let head = subject.read(&parent).await[0].hash;
    assert!(store.run_change(TENANT, parent.id, &change(8, Some(head))).await.unwrap());
    let session = store.session_get(TENANT, parent.session).await.unwrap().unwrap();
    for (version, state) in [(2, 2), (3, 3)] {
        let changed = SessionRow { state, version, ..session.clone() };
        store.session_change(None, &changed).await.unwrap().unwrap();
        assert_eq!(store.child_admit(&child, &first).await.unwrap(), Admission::NotOpen(Some(state)));
        assert_eq!(store.child_admit(&sibling, &first).await.unwrap(), Admission::Admitted, "it was before");
    }
    assert_eq!(store.run_get(TENANT, child.id).await.unwrap(), None);
    assert_eq!(subject.read(&child).await, []);
}

pub async fn serial_admissions_at_a_time_admit_one(subject: Subject) {
    let session = Arc::new(subject.started().await);
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let (store, session) = (Arc::clone(&subject.store), Arc::clone(&session));
        calls.spawn(async move {
            let run = run(&session, Concurrency::Serial);
            (run.id, store.run_admit(&key(), &run, &Log::default().next(b"leaf"), OWNER).await.unwrap())
        });
    }
    let answers = calls.join_all().await;
    let admitted: Vec<_> = answers.iter().filter(|(_, answer)| *answer == Admission::Admitted).collect();
    assert_eq!(admitted.len(), 1, "{answers:?}");
    let busy = Admission::Busy(admitted[0].0);
    assert_eq!(answers.iter().filter(|(_, answer)| *answer == busy).count(), 5);
    assert_eq!(subject.store.session_log(TENANT, session.id).await.unwrap().len(), 2);
}

pub async fn a_first_event_is_first(subject: Subject) {
    let run = run(&subject.started().await, Concurrency::Serial);
    let mut log = Log::default();
    log.next(b"skipped");
    let second = log.next(b"leaf");
    let refused = subject.store.run_admit(&key(), &run, &second, OWNER).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(subject.store.run_get(TENANT, run.id).await.unwrap(), None);
}

pub async fn runs_change_until_they_end(subject: Subject) {
    let (run, log) = subject.admitted().await;
    let running = change(2, None);
    assert!(subject.store.run_change(TENANT, run.id, &running).await.unwrap());
    let expected = RunRow { state: 2, summary: running.summary, update_time: running.time, ..run.clone() };
    assert_eq!(subject.store.run_get(TENANT, run.id).await.unwrap(), Some(expected));

    for wrong in [change(4, None), change(2, Some([1; 32]))] {
        let refused = subject.store.run_change(TENANT, run.id, &wrong).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }

    // Its store has lost the end, or has never had it.
    let gone = subject.store.run_change(TENANT, run.id, &change(5, Some([1; 32]))).await;
    assert!(matches!(gone, Err(Error::Invalid(_))), "{gone:?}");
    assert_eq!(subject.store.run_get(TENANT, run.id).await.unwrap().unwrap().state, 2);
    assert_eq!(subject.store.session_log(TENANT, run.session).await.unwrap().len(), 2);

    let ended = change(5, Some(log.head()));
    assert!(subject.store.run_change(TENANT, run.id, &ended).await.unwrap());
    for late in [change(4, Some([2; 32])), change(2, None), ended.clone()] {
        assert!(!subject.store.run_change(TENANT, run.id, &late).await.unwrap());
    }
    let stored = subject.store.run_get(TENANT, run.id).await.unwrap().unwrap();
    assert_eq!((stored.state, stored.summary, stored.update_time), (5, ended.summary, ended.time));
    let entries = subject.store.session_log(TENANT, run.session).await.unwrap();
    assert_eq!(entries.last().unwrap().run_hash, Some(log.head()));
    assert_eq!(entries.len(), 3);
    // The lease is gone with the end.
    assert!(subject.store.run_claim("replica-2", 1, 10, crate::PATIENCE).await.unwrap().is_empty());
    assert!(!subject.store.run_change(TENANT, id(), &running_again()).await.unwrap());
}

fn running_again() -> mar_session::store::RunChange {
    change(2, None)
}

pub async fn runs_are_paged(subject: Subject) {
    let session = subject.started().await;
    let first = Log::default().next(b"leaf");
    let mut all = Vec::new();
    for _ in 0..4 {
        let run = run(&session, Concurrency::Parallel);
        subject.admit(&run, &first).await;
        all.insert(0, run);
    }
    let (elsewhere, _) = subject.admitted().await;
    let list = |session, page| subject.store.run_list(TENANT, session, page);
    let page = Page { limit: 3, ..Page::default() };
    assert_eq!(list(Some(session.id), page).await.unwrap(), all[..3]);
    let rest = Page { before: Some(all[2].id), ..page };
    assert_eq!(list(Some(session.id), rest).await.unwrap(), all[3..]);
    assert_eq!(list(None, Page { limit: 1, ..page }).await.unwrap(), [elsewhere]);
    subject.store.run_change(TENANT, all[1].id, &change(2, None)).await.unwrap();
    let running = list(None, Page { state: Some(2), ..page }).await.unwrap();
    assert_eq!(running.iter().map(|run| run.id).collect::<Vec<_>>(), [all[1].id]);
    assert_eq!(list(Some(id()), page).await.unwrap(), []);
}

pub async fn open_runs_are_claimed(subject: Subject) {
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(subject.admitted().await.0);
    }
    let claim = |owner: &'static str, limit| {
        let store = Arc::clone(&subject.store);
        async move {
            let claimed = store.run_claim(owner, 1, limit, crate::PATIENCE).await.unwrap();
            claimed.into_iter().map(|claimed| (claimed.run.id, claimed.epoch)).collect::<Vec<_>>()
        }
    };
    assert_eq!(claim("replica-2", 2).await, [(runs[0].id, 2), (runs[1].id, 2)], "oldest first");
    assert_eq!(claim("replica-2", 10).await, [(runs[2].id, 2)], "its own are skipped");
    assert_eq!(claim("replica-2", 10).await, []);
    assert_eq!(claim(OWNER, 10).await, runs.iter().map(|run| (run.id, 3)).collect::<Vec<_>>(), "epochs rise");
    assert_eq!(claim("replica-2", 0).await, []);
}

pub async fn claims_respect_the_log_version(subject: Subject) {
    let session = subject.started().await;
    let first = Log::default().next(b"leaf");
    let newer = RunRow { log_version: 2, ..run(&session, Concurrency::Parallel) };
    let older = run(&session, Concurrency::Parallel);
    subject.admit(&newer, &first).await;
    subject.admit(&older, &first).await;
    assert_eq!(
        crate::claims(subject.store.run_claim("replica-2", 1, 10, crate::PATIENCE).await.unwrap()),
        [(older, 2)]
    );
    assert_eq!(
        crate::claims(subject.store.run_claim("replica-2", 2, 10, crate::PATIENCE).await.unwrap()),
        [(newer, 2)]
    );
}

pub async fn claims_at_a_time_are_disjoint(subject: Subject) {
    let session = subject.started().await;
    let mut runs = HashSet::new();
    for _ in 0..24 {
        let run = run(&session, Concurrency::Parallel);
        subject.admit(&run, &Log::default().next(b"leaf")).await;
        runs.insert(run.id);
    }
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&subject.store);
        calls.spawn(async move { store.run_claim("replica-2", 1, 3, crate::PATIENCE).await.unwrap() });
    }
    let claimed: Vec<_> = calls.join_all().await.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 24);
    assert!(claimed.iter().all(|claimed| claimed.epoch == 2));
    assert_eq!(claimed.iter().map(|claimed| claimed.run.id).collect::<HashSet<_>>(), runs);

    // Different owners may take from one another, but never at the same epoch.
    let mut calls = JoinSet::new();
    for owner in 0..6 {
        let store = Arc::clone(&subject.store);
        calls.spawn(async move { store.run_claim(&format!("other-{owner}"), 1, 24, crate::PATIENCE).await.unwrap() });
    }
    let claimed: Vec<_> =
        calls.join_all().await.into_iter().flatten().map(|claimed| (claimed.run.id, claimed.epoch)).collect();
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), claimed.len());
}
