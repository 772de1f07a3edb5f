//! Sessions that end by themselves, and what is past retention.

use std::time::Duration;

use mar_session::store::{
    Outcome, SessionRow,
    erasure::{Begun, Extent},
    session_log::kind,
    timer::{Expiry, TimerKind},
};
use uuid::Uuid;

use crate::rows::{Behind, Concurrency, Log, Subject, TENANT, change, key, now, run, session};

const IDLE: Duration = Duration::from_secs(60);

impl Subject {
    /// An open session that ends when it is idle.
    async fn idling(&self) -> SessionRow {
        let session = SessionRow { idle_timeout: Some(IDLE), ..session() };
        assert_eq!(self.store.session_start(&key(), &session).await.unwrap(), Outcome::Done(session.clone()));
        session
    }

    /// Lets a minute and more go by for what has happened so far in any session.
    async fn be_idle(&self) {
        match &self.behind {
            Behind::Postgres(pool) => {
                let sql = "UPDATE session.timers SET seen_time = seen_time - interval '70 seconds', \
                           due_time = due_time - interval '70 seconds'";
                sqlx::query(sql).execute(pool).await.map(drop).unwrap();
            }
            Behind::Sqlite(pool) => {
                let sql = "UPDATE timers SET seen_time = seen_time - 70000000, due_time = due_time - 70000000";
                sqlx::query(sql).execute(pool).await.map(drop).unwrap();
            }
        }
    }

    /// What is due, as it is claimed.
    async fn due(&self) -> Vec<(Uuid, TimerKind)> {
        let due = self.store.timer_claim(10).await.unwrap();
        due.into_iter().map(|timer| (timer.session, timer.kind)).collect()
    }

    async fn expire(&self, session: &SessionRow) -> Expiry {
        self.store.session_expire(&ending(session)).await.unwrap()
    }
}

/// The session as it is when its end has begun.
fn ending(session: &SessionRow) -> SessionRow {
    SessionRow { state: 2, version: session.version + 1, update_time: now(), ..session.clone() }
}

pub async fn idle_timeouts_are_kept(subject: Subject) {
    let first = subject.idling().await;
    assert_eq!(subject.store.session_get(TENANT, first.id).await.unwrap(), Some(first.clone()));
    let longer = SessionRow { idle_timeout: Some(2 * IDLE), version: 2, ..first };
    assert_eq!(subject.store.session_change(None, &longer).await.unwrap(), Some(Outcome::Done(longer.clone())));
    subject.be_idle().await;
    assert_eq!(subject.due().await, [], "the longer one counts");
    let never = SessionRow { idle_timeout: None, version: 3, ..longer };
    subject.store.session_change(None, &never).await.unwrap().unwrap();
    subject.let_time_pass().await;
    assert_eq!(subject.due().await, []);
    let again = SessionRow { idle_timeout: Some(IDLE), version: 4, ..never };
    subject.store.session_change(None, &again).await.unwrap().unwrap();
    subject.be_idle().await;
    assert_eq!(subject.due().await, [(again.id, TimerKind::End)]);
}

pub async fn an_idle_session_expires(subject: Subject) {
    let idle = subject.idling().await;
    assert_eq!(subject.due().await, []);
    assert_eq!(subject.expire(&idle).await, Expiry::NotIdle);
    subject.be_idle().await;
    assert_eq!(subject.due().await, [(idle.id, TimerKind::End)]);
    assert_eq!(subject.due().await, [], "one at a time");
    assert_eq!(subject.expire(&idle).await, Expiry::Ending);
    assert_eq!(subject.expire(&idle).await, Expiry::Changed);
    let row = subject.store.session_get(TENANT, idle.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.version), (2, 2));
    assert_eq!(subject.kinds(idle.id).await, [kind::STARTED, kind::EXPIRED]);
    let ended = SessionRow { state: 3, version: 3, ..row };
    subject.store.session_change(None, &ended).await.unwrap().unwrap();
    assert_eq!(subject.kinds(idle.id).await, [kind::STARTED, kind::EXPIRED, kind::ENDED]);
    subject.let_time_pass().await;
    assert_eq!(subject.due().await, []);
}

pub async fn what_calls_name_is_not_idle(subject: Subject) {
    let (named, other) = (subject.idling().await, subject.idling().await);
    subject.be_idle().await;
    let strangers = [("globex".to_owned(), other.id), (TENANT.to_owned(), Uuid::from_u128(3))];
    subject.store.sessions_seen(&strangers).await.unwrap();
    subject.store.sessions_seen(&[(TENANT.to_owned(), named.id)]).await.unwrap();
    subject.store.sessions_seen(&[]).await.unwrap();
    assert_eq!(subject.due().await, [(other.id, TimerKind::End)], "another tenant keeps nothing awake");
    assert_eq!(subject.expire(&named).await, Expiry::NotIdle);
    // A call after the claim counts, too.
    subject.store.sessions_seen(&[(TENANT.to_owned(), other.id)]).await.unwrap();
    assert_eq!(subject.expire(&other).await, Expiry::NotIdle);
    assert_eq!(subject.kinds(other.id).await, [kind::STARTED]);
    subject.be_idle().await;
    let mut due = subject.due().await;
    due.sort();
    assert_eq!(due, [(named.id, TimerKind::End), (other.id, TimerKind::End)]);
}

pub async fn an_open_run_keeps_its_session(subject: Subject) {
    let session = subject.idling().await;
    let run = run(&session, Concurrency::Serial);
    subject.admit(&run, &Log::default().next(b"first")).await;
    subject.store.run_change(TENANT, run.id, &change(3, None)).await.unwrap();
    subject.be_idle().await;
    assert_eq!(subject.due().await.len(), 1);
    assert_eq!(subject.expire(&session).await, Expiry::NotIdle);
    assert_eq!(subject.due().await, [], "it is looked at again a while later");
    subject.be_idle().await;
    assert_eq!(subject.due().await.len(), 1);
}

pub async fn the_end_of_a_run_is_something_that_happens(subject: Subject) {
    let session = subject.idling().await;
    let run = run(&session, Concurrency::Serial);
    let first = Log::default().next(b"first");
    subject.admit(&run, &first).await;
    subject.be_idle().await;
    subject.store.run_change(TENANT, run.id, &change(4, Some(first.hash))).await.unwrap();
    assert_eq!(subject.due().await, []);
    assert_eq!(subject.expire(&session).await, Expiry::NotIdle);
    subject.be_idle().await;
    assert_eq!(subject.expire(&session).await, Expiry::Ending);
}

pub async fn only_what_was_read_expires(subject: Subject) {
    let session = subject.idling().await;
    subject.be_idle().await;
    let changed = SessionRow { body: b"new".as_slice().into(), version: 2, ..session.clone() };
    subject.store.session_change(None, &changed).await.unwrap().unwrap();
    assert_eq!(subject.expire(&session).await, Expiry::Changed);
    let foreign = SessionRow { tenant: "globex".to_owned(), ..ending(&changed) };
    assert_eq!(subject.store.session_expire(&foreign).await.unwrap(), Expiry::Changed);
    assert_eq!(subject.kinds(session.id).await, [kind::STARTED]);
    // One without an idle timeout does not expire, whoever says so.
    let lasting = subject.started().await;
    assert_eq!(subject.expire(&lasting).await, Expiry::NotIdle);
}

pub async fn an_end_that_nobody_completes_comes_back(subject: Subject) {
    for idle_timeout in [None, Some(IDLE)] {
        let session = SessionRow { idle_timeout, ..session() };
        subject.store.session_start(&key(), &session).await.unwrap();
        let ending = ending(&session);
        subject.store.session_change(None, &ending).await.unwrap().unwrap();
        assert_eq!(subject.due().await, []);
        // What is asked of a session that ends does not put its end off.
        subject.store.sessions_seen(&[(TENANT.to_owned(), session.id)]).await.unwrap();
        subject.let_time_pass().await;
        assert_eq!(subject.due().await, [(session.id, TimerKind::End)]);
        assert_eq!(subject.expire(&ending).await, Expiry::Changed);
        let ended = SessionRow { state: 3, version: 3, ..ending };
        subject.store.session_change(None, &ended).await.unwrap().unwrap();
        subject.let_time_pass().await;
        assert_eq!(subject.due().await, []);
    }
}

pub async fn what_is_past_retention_is_found_once(subject: Subject) {
    let (ended, _) = subject.ended().await;
    let (erased, _) = subject.ended().await;
    let open = subject.started().await;
    // Rows of these tests are of the year 2027.
    let past = |tenant: &'static str, retention: Duration| {
        let store = &subject.store;
        async move { store.sessions_past(tenant, retention, 10).await.unwrap() }
    };
    assert_eq!(past(TENANT, Duration::ZERO).await, Vec::<Uuid>::new());
    match &subject.behind {
        Behind::Postgres(pool) => {
            let sql = "UPDATE session.sessions SET update_time = now() - interval '2 hours'";
            sqlx::query(sql).execute(pool).await.map(drop).unwrap();
        }
        Behind::Sqlite(pool) => {
            let sql = "UPDATE sessions SET update_time = CAST(unixepoch() * 1000000 AS INTEGER) - 7200000000";
            sqlx::query(sql).execute(pool).await.map(drop).unwrap();
        }
    }
    assert_eq!(past(TENANT, 3 * 60 * IDLE).await, Vec::<Uuid>::new());
    assert_eq!(past("globex", 60 * IDLE).await, Vec::<Uuid>::new());
    let mut found = past(TENANT, 60 * IDLE).await;
    found.sort();
    assert_eq!(found, [ended.id, erased.id]);
    assert!(!found.contains(&open.id));
    assert_eq!(subject.store.sessions_past(TENANT, 60 * IDLE, 1).await.unwrap().len(), 1);
    let begun = subject.store.erasure_begin(None, TENANT, erased.id, Extent::Everything).await.unwrap();
    assert_eq!(begun, Begun::Going);
    assert_eq!(past(TENANT, 60 * IDLE).await, [ended.id]);
    subject.store.erasure_begin(None, TENANT, ended.id, Extent::Payloads).await.unwrap();
    assert_eq!(past(TENANT, 60 * IDLE).await, Vec::<Uuid>::new());
}
