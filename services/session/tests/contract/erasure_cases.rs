//! Erasures: recorded, carried out piece by piece, brought back by their timers.

use std::time::Duration;

use bytes::Bytes;
use mar_session::store::{
    ApprovalPage, Error, Outcome, RequestKey, RunRow, SessionRow,
    erasure::{Begun, Extent},
    session_log::kind,
    timer::{Timer, TimerKind},
};
use uuid::Uuid;

use crate::rows::{Behind, Concurrency, Log, OWNER, Subject, TENANT, change, key, noise, run, session};

const OTHER: &str = "globex";

impl Subject {
    /// A session with a run of inline and large contents, both ended.
    pub async fn ended(&self) -> (SessionRow, RunRow) {
        let session = self.started().await;
        let run = run(&session, Concurrency::Serial);
        let mut log = Log::default();
        self.admit(&run, &log.next_with(b"first", Some(noise(1, 100)))).await;
        let more = [log.next_with(b"second", Some(noise(2, 50_000))), log.next(b"third")];
        self.append(&run, &more).await;
        self.store.run_change(TENANT, run.id, &change(4, Some(log.head()))).await.unwrap();
        let ended = SessionRow { state: 3, version: 2, ..session };
        self.store.session_change(None, &ended).await.unwrap().unwrap();
        (ended, run)
    }

    async fn begin(&self, session: Uuid, extent: Extent) -> Begun {
        self.store.erasure_begin(None, TENANT, session, extent).await.unwrap()
    }

    pub async fn kinds(&self, session: Uuid) -> Vec<String> {
        self.store.session_log(TENANT, session).await.unwrap().into_iter().map(|entry| entry.kind).collect()
    }

    /// Makes every timer due.
    pub async fn let_time_pass(&self) {
        match &self.behind {
            Behind::Postgres(pool) => {
                let sql = "UPDATE session.timers SET due_time = now() - interval '1 second'";
                sqlx::query(sql).execute(pool).await.map(drop).unwrap();
            }
            Behind::Sqlite(pool) => {
                sqlx::query("UPDATE timers SET due_time = 1").execute(pool).await.map(drop).unwrap();
            }
        }
    }
}

fn rest() -> Bytes {
    Bytes::from_static(b"rest")
}

pub async fn an_erasure_is_recorded_once(subject: Subject) {
    let (ended, _) = subject.ended().await;
    assert_eq!(subject.begin(ended.id, Extent::Everything).await, Begun::Going);
    let row = subject.store.session_get(TENANT, ended.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.version), (3, 3));
    assert_eq!(subject.begin(ended.id, Extent::Everything).await, Begun::Going);
    assert_eq!(subject.kinds(ended.id).await.last().unwrap(), kind::ERASED);
    assert_eq!(subject.kinds(ended.id).await.len(), 5);
    subject.store.erasure_finish(&ended, Extent::Everything).await.unwrap();
    assert_eq!(subject.begin(ended.id, Extent::Everything).await, Begun::Gone);
    assert_eq!(subject.begin(ended.id, Extent::Payloads).await, Begun::Gone);
    assert_eq!(subject.kinds(ended.id).await.len(), 5);
}

pub async fn only_what_has_ended_goes(subject: Subject) {
    let (ended, _) = subject.ended().await;
    for state in [1, 2] {
        let open = SessionRow { state, ..session() };
        subject.store.session_start(&key(), &open).await.unwrap();
        assert_eq!(subject.begin(open.id, Extent::Everything).await, Begun::NotEnded(state));
        assert_eq!(subject.kinds(open.id).await, [kind::STARTED]);
    }
    assert_eq!(subject.begin(Uuid::from_u128(9), Extent::Everything).await, Begun::Absent);
    let foreign = subject.store.erasure_begin(None, OTHER, ended.id, Extent::Everything).await.unwrap();
    assert_eq!(foreign, Begun::Absent);
    assert_eq!(subject.kinds(ended.id).await.len(), 4);
}

pub async fn an_erasure_carries_a_request_id(subject: Subject) {
    let (first, second) = (subject.ended().await.0, subject.ended().await.0);
    let key = RequestKey { method: "/agentruntime.session.v1.SessionService/EraseSession", ..key() };
    let begin = |session: Uuid, key: RequestKey| {
        let store = &subject.store;
        async move { store.erasure_begin(Some(&key), TENANT, session, Extent::Everything).await.unwrap() }
    };
    assert_eq!(begin(first.id, key.clone()).await, Begun::Going);
    assert_eq!(begin(first.id, key.clone()).await, Begun::Going);
    assert_eq!(begin(first.id, RequestKey { digest: [8; 32], ..key.clone() }).await, Begun::Reused);
    assert_eq!(begin(second.id, key.clone()).await, Begun::Reused);
    subject.store.erasure_finish(&first, Extent::Everything).await.unwrap();
    // The erasure itself does not take from its own request what a repetition is known by.
    assert_eq!(begin(first.id, key).await, Begun::Gone);
}

pub async fn nothing_goes_that_no_log_records(subject: Subject) {
    let (ended, run) = subject.ended().await;
    let whole = subject.read(&run).await;
    let refused =
        |answer: Result<(), Error>| assert!(matches!(answer, Err(Error::Invalid(_) | Error::Refused(_))), "{answer:?}");
    refused(subject.store.erasure_run(TENANT, run.id, &rest()).await);
    refused(subject.store.erasure_blobs(TENANT, ended.id, 10).await.map(drop));
    refused(subject.store.erasure_finish(&ended, Extent::Everything).await);
    // What is pruned keeps its key.
    assert_eq!(subject.begin(ended.id, Extent::Payloads).await, Begun::Going);
    refused(subject.store.erasure_finish(&ended, Extent::Everything).await);
    // Nor does another tenant's word count.
    refused(subject.store.erasure_run(OTHER, run.id, &rest()).await);
    refused(subject.store.erasure_blobs(OTHER, ended.id, 10).await.map(drop));
    assert_eq!(subject.read(&run).await, whole);
    assert_eq!(subject.blobs().await, 1);
    let row = subject.store.session_get(TENANT, ended.id).await.unwrap().unwrap();
    assert_eq!((row.salt_key, row.state), (ended.salt_key, 3));
}

pub async fn an_open_run_loses_nothing(subject: Subject) {
    let (ended, _) = subject.ended().await;
    let (open, _) = subject.admitted().await;
    subject.begin(ended.id, Extent::Everything).await;
    let answer = subject.store.erasure_run(TENANT, open.id, &rest()).await;
    assert!(matches!(answer, Err(Error::Invalid(_) | Error::Refused(_))), "{answer:?}");
    assert_eq!(subject.store.run_get(TENANT, open.id).await.unwrap(), Some(open));
}

pub async fn an_erasure_leaves_the_chain(subject: Subject) {
    let (ended, run) = subject.ended().await;
    let (other, others_run) = subject.ended().await;
    let whole = subject.read(&run).await;
    subject.begin(ended.id, Extent::Everything).await;
    // Each piece as often as one likes.
    for _ in 0..2 {
        subject.store.erasure_run(TENANT, run.id, &rest()).await.unwrap();
    }
    assert_eq!(subject.store.erasure_blobs(TENANT, ended.id, 10).await.unwrap(), 1);
    assert_eq!(subject.store.erasure_blobs(TENANT, ended.id, 10).await.unwrap(), 0);
    let rest = SessionRow { body: Bytes::from_static(b"nobody"), ..ended.clone() };
    for _ in 0..2 {
        subject.store.erasure_finish(&rest, Extent::Everything).await.unwrap();
    }
    let left = subject.read(&run).await;
    assert!(left.iter().all(|event| event.content.is_none()));
    let chain = |events: &[mar_session::store::EventRow]| {
        events.iter().map(|event| (event.seq, event.prev_hash, event.hash, event.leaf.clone())).collect::<Vec<_>>()
    };
    assert_eq!(chain(&left), chain(&whole));
    let row = subject.store.run_get(TENANT, run.id).await.unwrap().unwrap();
    assert_eq!((&row.summary[..], &row.caller[..], row.state), (&b"rest"[..], &b""[..], 4));
    let row = subject.store.session_get(TENANT, ended.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.version, &row.body[..], &row.salt_key[..]), (4, 4, &b"nobody"[..], &b""[..]));
    // Nothing of another session.
    assert!(subject.read(&others_run).await[0].content.is_some());
    assert_eq!(subject.store.session_get(TENANT, other.id).await.unwrap(), Some(other));
    assert_eq!(subject.blobs().await, 1);
}

pub async fn pruning_takes_payloads_alone(subject: Subject) {
    let (ended, run) = subject.ended().await;
    subject.begin(ended.id, Extent::Payloads).await;
    subject.store.erasure_run(TENANT, run.id, &rest()).await.unwrap();
    subject.store.erasure_blobs(TENANT, ended.id, 10).await.unwrap();
    subject.store.erasure_finish(&ended, Extent::Payloads).await.unwrap();
    assert!(subject.read(&run).await.iter().all(|event| event.content.is_none()));
    assert_eq!(subject.blobs().await, 0);
    let row = subject.store.session_get(TENANT, ended.id).await.unwrap().unwrap();
    assert_eq!((row.state, &row.body, &row.salt_key), (3, &ended.body, &ended.salt_key));
    assert_eq!(subject.store.run_get(TENANT, run.id).await.unwrap().unwrap().caller, run.caller);
    assert_eq!(subject.begin(ended.id, Extent::Payloads).await, Begun::Gone);
    // It can be erased afterwards.
    assert_eq!(subject.begin(ended.id, Extent::Everything).await, Begun::Going);
    let kinds = subject.kinds(ended.id).await;
    assert_eq!(kinds[kinds.len() - 2..], [kind::PRUNED, kind::ERASED]);
}

pub async fn approvals_go_too(subject: Subject) {
    let session = subject.started().await;
    let (run, request) = (run(&session, Concurrency::Serial), key());
    let first = Log::default().next(b"first");
    subject.store.run_admit(&request, &run, &first, OWNER).await.unwrap();
    let approval = crate::holding_cases::approval(&run, "1-0", 1);
    subject.store.approval_put(TENANT, std::slice::from_ref(&approval)).await.unwrap();
    subject.store.run_change(TENANT, run.id, &change(4, Some(first.hash))).await.unwrap();
    let ended = SessionRow { state: 3, version: 2, ..session };
    subject.store.session_change(None, &ended).await.unwrap().unwrap();
    subject.begin(ended.id, Extent::Everything).await;
    subject.store.erasure_run(TENANT, run.id, &rest()).await.unwrap();
    let page = ApprovalPage { limit: 10, ..ApprovalPage::default() };
    assert_eq!(subject.store.approval_list(TENANT, &page).await.unwrap(), []);
}

/// Bodies of requests hold what callers said: whoever guesses one must find nothing to hold it against.
pub async fn no_request_of_an_erased_session_is_known_by_its_body(subject: Subject) {
    const DURING: [&str; 12] = [
        "UpdateSession",
        "StartRun",
        "RunTask",
        "ForkRun",
        "CreateBlob",
        "CancelRun",
        "PauseRun",
        "ResumeRun",
        "ResolveApproval",
        "SubmitToolResult",
        "SubmitInput",
        "StartSession",
    ];
    let requests = || DURING.map(|method| RequestKey { method, ..key() });
    let (gone, stays) = (requests(), requests());
    for keys in [&gone, &stays] {
        let mut session = session();
        for key in keys.iter().rev() {
            match key.method {
                "StartSession" => drop(subject.store.session_start(key, &session).await.unwrap()),
                "UpdateSession" => {
                    session.version += 1;
                    subject.store.session_change(Some(key), &session).await.unwrap().unwrap();
                }
                "CreateBlob" => {
                    let upload = crate::blob_cases::upload(session.id, 1, 10);
                    subject.brought(&upload).await;
                    subject.store.blob_finish(key, &upload, Duration::from_secs(3_600)).await.unwrap();
                }
                "StartRun" | "RunTask" | "ForkRun" => {
                    let run = run(&session, Concurrency::Parallel);
                    let first = Log::default().next(b"first");
                    subject.store.run_admit(key, &run, &first, OWNER).await.unwrap();
                    subject.store.run_change(TENANT, run.id, &change(4, Some(first.hash))).await.unwrap();
                }
                _ => {
                    let run = run(&session, Concurrency::Parallel);
                    let first = Log::default().next(b"first");
                    subject.admit(&run, &first).await;
                    let wanted = crate::holding_cases::command();
                    subject.store.command_put(TENANT, run.id, Some(key), &wanted).await.unwrap().unwrap();
                    subject.store.run_change(TENANT, run.id, &change(4, Some(first.hash))).await.unwrap();
                }
            }
        }
        let ended = SessionRow { state: 3, version: session.version + 1, ..session };
        subject.store.session_change(None, &ended).await.unwrap().unwrap();
        if std::ptr::eq(keys, &gone) {
            subject.begin(ended.id, Extent::Everything).await;
            subject.store.erasure_finish(&ended, Extent::Everything).await.unwrap();
        }
    }
    for (gone, stays) in gone.iter().zip(&stays) {
        // The id stays used, so that nothing is done a second time.
        let left = subject.store.request_seen(TENANT, gone).await.unwrap();
        assert_eq!(left, Some(false), "{}", gone.method);
        let left = subject.store.request_seen(TENANT, stays).await.unwrap();
        assert_eq!(left, Some(true), "{} of another session", stays.method);
    }
}

pub async fn an_unfinished_erasure_comes_back(subject: Subject) {
    let (ended, _) = subject.ended().await;
    subject.begin(ended.id, Extent::Everything).await;
    assert_eq!(subject.store.timer_claim(10).await.unwrap(), [], "whoever began it is at it");
    subject.let_time_pass().await;
    let timer = Timer { tenant: TENANT.to_owned(), session: ended.id, kind: TimerKind::Erase };
    assert_eq!(subject.store.timer_claim(10).await.unwrap(), std::slice::from_ref(&timer));
    assert_eq!(subject.store.timer_claim(10).await.unwrap(), [], "one at a time");
    subject.store.timer_put_off(&timer, Duration::ZERO).await.unwrap();
    assert_eq!(subject.store.timer_claim(10).await.unwrap().len(), 1);
    subject.store.erasure_finish(&ended, Extent::Everything).await.unwrap();
    subject.let_time_pass().await;
    assert_eq!(subject.store.timer_claim(10).await.unwrap(), []);
}

pub async fn timers_at_a_time_are_claimed_once(subject: Subject) {
    let mut sessions = Vec::new();
    for _ in 0..6 {
        let (ended, _) = subject.ended().await;
        subject.begin(ended.id, Extent::Payloads).await;
        sessions.push(ended.id);
    }
    subject.let_time_pass().await;
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = std::sync::Arc::clone(&subject.store);
        claims.spawn(async move { store.timer_claim(4).await.unwrap() });
    }
    let mut claimed: Vec<Uuid> = claims.join_all().await.concat().into_iter().map(|timer| timer.session).collect();
    claimed.extend(subject.store.timer_claim(10).await.unwrap().into_iter().map(|timer| timer.session));
    claimed.sort();
    assert_eq!(claimed, sessions);
    assert!(matches!(subject.store.session_start(&key(), &session()).await.unwrap(), Outcome::Done(_)));
}
