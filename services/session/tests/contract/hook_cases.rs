//! What hooks are told of: marked with what happens, claimed by one, never lost.

use std::time::Duration;

use mar_session::store::{
    SessionRow,
    hook::{Claim, DeadNotice, DeadPage, Due},
};
use uuid::Uuid;

use crate::rows::{Behind, Concurrency, HOOK, Log, Subject, TENANT, change, key, now, run, session};

impl Subject {
    async fn claim(&self) -> Vec<Claim> {
        self.store.hook_claim(TENANT, HOOK, 10).await.unwrap()
    }

    /// The one claim that is due.
    async fn only(&self) -> Claim {
        let mut claims = self.claim().await;
        assert_eq!(claims.len(), 1, "{claims:?}");
        claims.remove(0)
    }

    async fn make_hooks_due(&self) {
        match &self.behind {
            Behind::Postgres(pool) => {
                let sql = "UPDATE session.hooks SET due_time = now() - interval '1 second' WHERE due_time IS NOT NULL";
                sqlx::query(sql).execute(pool).await.map(drop).unwrap();
            }
            Behind::Sqlite(pool) => {
                let sql = "UPDATE hooks SET due_time = 1 WHERE due_time IS NOT NULL";
                sqlx::query(sql).execute(pool).await.map(drop).unwrap();
            }
        }
    }
}

fn dead(session: Uuid, id: &str) -> DeadNotice {
    DeadNotice {
        hook: HOOK.to_owned(),
        id: id.to_owned(),
        session,
        notice: b"{}".as_slice().into(),
        failure: "HTTP 500".to_owned(),
        attempts: 3,
        time: now(),
    }
}

pub async fn everything_that_happens_is_marked(subject: Subject) {
    let session = subject.started().await;
    let mut marks = subject.only().await.marks;
    let run = run(&session, Concurrency::Serial);
    let first = Log::default().next(b"first");
    subject.admit(&run, &first).await;
    let mut marked = async |what: &str| {
        subject.make_hooks_due().await;
        let now = subject.only().await.marks;
        assert!(now > marks, "{what}: {now} after {marks}");
        marks = now;
    };
    marked("admitted").await;
    subject.store.run_change(TENANT, run.id, &change(3, None)).await.unwrap();
    marked("waiting").await;
    subject.store.run_change(TENANT, run.id, &change(4, Some(first.hash))).await.unwrap();
    marked("ended").await;
    let ended = SessionRow { state: 3, version: 2, ..session };
    subject.store.session_change(None, &ended).await.unwrap().unwrap();
    marked("session ended").await;
    subject.store.erasure_begin(None, TENANT, ended.id, mar_session::store::erasure::Extent::Everything).await.unwrap();
    marked("erased").await;
}

pub async fn tenants_without_hooks_are_not_marked(subject: Subject) {
    let foreign = SessionRow { tenant: "globex".to_owned(), ..session() };
    subject.store.session_start(&key(), &foreign).await.unwrap();
    assert_eq!(subject.store.hook_claim("globex", HOOK, 10).await.unwrap(), []);
    assert_eq!(subject.claim().await, []);
    subject.started().await;
    assert_eq!(subject.store.hook_claim(TENANT, "another", 10).await.unwrap(), []);
    assert_eq!(subject.store.hook_claim("globex", HOOK, 10).await.unwrap(), []);
    assert_eq!(subject.claim().await.len(), 1);
}

pub async fn what_was_told_is_kept(subject: Subject) {
    subject.started().await;
    let claim = subject.only().await;
    assert_eq!((&claim.cursor[..], claim.attempts, claim.epoch), (&b""[..], 0, 1));
    assert_eq!(subject.claim().await, [], "one at a time");
    assert!(subject.store.hook_save(&claim, b"one", 2, Due::In(Duration::ZERO)).await.unwrap());
    let again = subject.only().await;
    assert_eq!((&again.cursor[..], again.attempts, again.epoch), (&b"one"[..], 2, 2));
    // Whoever was overtaken records nothing.
    assert!(!subject.store.hook_save(&claim, b"two", 0, Due::Told).await.unwrap());
    assert!(!subject.store.hook_bury(&claim, b"two", &dead(claim.session, "1")).await.unwrap());
    assert_eq!(subject.store.dead_list(TENANT, &DeadPage { limit: 9, ..DeadPage::default() }).await.unwrap(), []);
    assert!(subject.store.hook_save(&again, b"three", 0, Due::In(Duration::from_secs(60))).await.unwrap());
    assert_eq!(subject.claim().await, [], "it rests");
    subject.make_hooks_due().await;
    assert_eq!(&subject.only().await.cursor[..], b"three");
}

pub async fn what_happens_meanwhile_is_told_next(subject: Subject) {
    let session = subject.started().await;
    let claim = subject.only().await;
    let ended = SessionRow { state: 3, version: 2, ..session };
    subject.store.session_change(None, &ended).await.unwrap().unwrap();
    assert_eq!(subject.claim().await, [], "whoever tells it is not overtaken");
    assert!(subject.store.hook_save(&claim, b"one", 0, Due::Told).await.unwrap());
    let again = subject.only().await;
    assert!(again.marks > claim.marks);
    assert!(subject.store.hook_save(&again, b"two", 0, Due::Told).await.unwrap());
    subject.make_hooks_due().await;
    assert_eq!(subject.claim().await, [], "everything was told");
}

pub async fn claims_of_hooks_at_a_time_are_disjoint(subject: Subject) {
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(subject.started().await.id);
    }
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = std::sync::Arc::clone(&subject.store);
        claims.spawn(async move { store.hook_claim(TENANT, HOOK, 3).await.unwrap() });
    }
    let mut claimed: Vec<Uuid> = claims.join_all().await.concat().into_iter().map(|claim| claim.session).collect();
    claimed.extend(subject.store.hook_claim(TENANT, HOOK, 20).await.unwrap().into_iter().map(|claim| claim.session));
    claimed.sort();
    assert_eq!(claimed, sessions);
}

pub async fn dead_notices_are_kept_and_paged(subject: Subject) {
    subject.started().await;
    let claim = subject.only().await;
    for id in ["b", "a", "c", "a"] {
        assert!(subject.store.hook_bury(&claim, id.as_bytes(), &dead(claim.session, id)).await.unwrap());
    }
    let list = |page: DeadPage| {
        let store = &subject.store;
        async move { store.dead_list(TENANT, &page).await.unwrap().into_iter().map(|dead| dead.id).collect::<Vec<_>>() }
    };
    assert_eq!(list(DeadPage { limit: 9, ..DeadPage::default() }).await, ["a", "b", "c"]);
    assert_eq!(list(DeadPage { limit: 2, ..DeadPage::default() }).await, ["a", "b"]);
    let after = Some((HOOK.to_owned(), "a".to_owned()));
    assert_eq!(list(DeadPage { after, limit: 9, ..DeadPage::default() }).await, ["b", "c"]);
    let other = Some("other".to_owned());
    assert_eq!(list(DeadPage { hook: other, limit: 9, ..DeadPage::default() }).await, Vec::<String>::new());
    let kept = subject.store.dead_get(TENANT, HOOK, "b").await.unwrap().unwrap();
    assert_eq!(DeadNotice { time: kept.time, ..dead(claim.session, "b") }, kept);
    assert_eq!(subject.store.dead_get("globex", HOOK, "b").await.unwrap(), None);
    subject.store.dead_drop("globex", HOOK, "b").await.unwrap();
    subject.store.dead_drop(TENANT, HOOK, "a").await.unwrap();
    assert_eq!(list(DeadPage { limit: 9, ..DeadPage::default() }).await, ["b", "c"]);
}

pub async fn leaves_are_read_without_payloads(subject: Subject) {
    let (run, mut log) = subject.admitted().await;
    subject.append(&run, &[log.next_with(b"second", Some(vec![1; 50_000].into())), log.next(b"third")]).await;
    let leaves = subject.store.event_leaves(TENANT, run.id, 1, 10).await.unwrap();
    assert_eq!(leaves, [(1, b"second".as_slice().into()), (2, b"third".as_slice().into())]);
    assert_eq!(subject.store.event_leaves(TENANT, run.id, 0, 1).await.unwrap().len(), 1);
    assert_eq!(subject.store.event_leaves("globex", run.id, 0, 10).await.unwrap(), []);
}
