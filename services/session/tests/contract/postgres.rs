//! The store on Postgres, and what it does when Postgres dies, hangs or loses an answer.

use std::{sync::Arc, time::Duration};

use mar_session::store::{
    Admission, Append, Error, Outcome, Store,
    postgres::{OpenError, PostgresConfig, PostgresStore},
};
use mar_testkit::{postgres::Postgres, wait};
use sqlx::postgres::PgPoolOptions;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    proxy::Proxy,
    rows::{Behind, Concurrency, Log, OWNER, Subject, TENANT, change, hooked, key, now, run, session},
};

/// Short enough for tests; still generous for a busy machine.
fn config(url: String) -> PostgresConfig {
    PostgresConfig {
        max_connections: 4,
        connect_timeout: Duration::from_secs(1),
        statement_timeout: Duration::from_secs(2),
        ..PostgresConfig::new(url.into())
    }
}

async fn open() -> Subject {
    let database = Postgres::shared().unwrap().database().unwrap();
    let url = database.to_string();
    // The suites stress a small machine; the bound has tests of its own.
    let patient = PostgresConfig { max_connections: 6, ..PostgresConfig::new(url.clone().into()) };
    let patient = PostgresConfig { connect_timeout: Duration::from_secs(10), ..patient };
    let store = Arc::new(PostgresStore::connect_with_hooks(&patient, hooked()).await.unwrap());
    Subject { _keep: Box::new(database), ..subject(store, &url) }
}

fn subject(store: Arc<PostgresStore>, url: &str) -> Subject {
    let behind = PgPoolOptions::new().max_connections(1).connect_lazy(url).unwrap();
    Subject { store, behind: Behind::Postgres(behind), _keep: Box::new(()) }
}

store_suite!(open);

/// A store behind a relay, on a database of its own.
async fn relayed() -> (Proxy, Subject) {
    let postgres = Postgres::shared().unwrap();
    let url = postgres.database().unwrap();
    let proxy = Proxy::start(postgres.port()).await;
    let store = PostgresStore::connect(&config(proxy.url(&url, postgres.port()))).await.unwrap();
    let subject = subject(Arc::new(store), &url);
    (proxy, Subject { _keep: Box::new(url), ..subject })
}

async fn assert_unavailable<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Error>>) {
    let bound = config(String::new()).bound() + Duration::from_millis(500);
    let answer = timeout(bound, call).await.expect("an answer in time");
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_replicas_may_migrate_at_a_time() {
    let url = Postgres::shared().unwrap().database().unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        let config = config(url.to_string());
        calls.spawn(async move { PostgresStore::connect(&config).await.unwrap().ping().await.unwrap() });
    }
    calls.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_address_is_named() {
    let nonsense = PostgresStore::connect(&config("mysql://x".to_owned())).await;
    assert!(matches!(nonsense, Err(OpenError::Address(_))), "{nonsense:?}");
    let port = mar_testkit::ports::free().unwrap();
    let nobody = PostgresStore::connect(&config(format!("postgres://postgres@127.0.0.1:{port}/postgres"))).await;
    assert!(matches!(nobody, Err(OpenError::Unavailable(_))), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_from_the_future_is_refused() {
    let url = Postgres::shared().unwrap().database().unwrap();
    PostgresStore::connect(&config(url.to_string())).await.unwrap();
    let pool = PgPoolOptions::new().connect(&url).await.unwrap();
    sqlx::query("INSERT INTO session.migrations (version, description, success, checksum, execution_time) VALUES (99, 'x', true, '', 0)")
        .execute(&pool)
        .await
        .unwrap();
    let newer = PostgresStore::connect(&config(url.to_string())).await;
    assert!(matches!(newer, Err(OpenError::Migration(_))), "{newer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_calls_is_not_seen() {
    let postgres = Postgres::start().unwrap();
    let subject = subject(Arc::new(PostgresStore::connect(&config(postgres.url())).await.unwrap()), &postgres.url());
    let (run, mut log) = subject.admitted().await;
    // All connections of the pool are dead afterwards.
    let mut pings = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&subject.store);
        pings.spawn(async move { store.ping().await.unwrap() });
    }
    pings.join_all().await;
    postgres.stop();
    postgres.resume().unwrap();
    assert_eq!(subject.append(&run, &[log.next(b"after")]).await, Append::Done);
    assert_eq!(subject.read(&run).await.len(), 2);
    postgres.crash().unwrap();
    // The dead server's children hold its memory until they notice, and no new one starts before.
    wait::until(Duration::from_secs(20), || async { postgres.resume().is_ok() }).await.unwrap();
    assert!(subject.store.run_change(TENANT, run.id, &change(4, Some(log.head()))).await.unwrap());
    assert_eq!(subject.store.session_log(TENANT, run.session).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_postgres_is_unavailable_and_comes_back() {
    let postgres = Postgres::start().unwrap();
    let subject = subject(Arc::new(PostgresStore::connect(&config(postgres.url())).await.unwrap()), &postgres.url());
    let (run, mut log) = subject.admitted().await;
    let events = [log.next(b"later")];
    postgres.stop();
    let store = &subject.store;
    assert_unavailable(store.ping()).await;
    assert_unavailable(store.run_get(TENANT, run.id)).await;
    assert_unavailable(store.event_append(TENANT, run.session, run.id, &events)).await;
    assert_unavailable(store.session_start(&key(), &session())).await;
    assert_unavailable(store.run_claim(OWNER, 1, 10, crate::PATIENCE)).await;
    postgres.resume().unwrap();
    let back = || async { store.ping().await.is_ok() };
    wait::until(Duration::from_secs(10), back).await.unwrap();
    assert_eq!(subject.append(&run, &events).await, Append::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_postgres_is_unavailable_and_comes_back() {
    let (proxy, subject) = relayed().await;
    let (run, mut log) = subject.admitted().await;
    let events = [log.next(b"held back")];
    proxy.hold(true);
    assert_unavailable(subject.store.event_append(TENANT, run.session, run.id, &events)).await;
    assert_unavailable(subject.store.ping()).await;
    proxy.hold(false);
    let back = || async { subject.store.ping().await.is_ok() };
    wait::until(Duration::from_secs(10), back).await.unwrap();
    // Whether or not it had arrived meanwhile.
    assert_eq!(subject.append(&run, &events).await, Append::Done);
    assert_eq!(subject.read(&run).await.len(), 2);
}

/// What was given up while the server hung had begun transactions under other roles, which the server learns of later.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_given_up_is_nobody_elses() {
    let (proxy, subject) = relayed().await;
    let (run, mut log) = subject.admitted().await;
    proxy.hold(true);
    let mut given_up = JoinSet::new();
    for number in 0..12 {
        let store = Arc::clone(&subject.store);
        given_up.spawn(async move {
            let id = run.id;
            match number % 3 {
                0 => store.run_get("globex", id).await.map(|_| ()),
                1 => store.command_runs("replica-9").await.map(|_| ()),
                _ => store.run_claim("replica-9", 1, 0, Duration::from_secs(600)).await.map(|_| ()),
            }
        });
    }
    for answer in given_up.join_all().await {
        assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    }
    proxy.hold(false);
    let back = || async { subject.store.ping().await.is_ok() };
    wait::until(Duration::from_secs(10), back).await.unwrap();
    let Behind::Postgres(behind) = &subject.behind else { unreachable!("a store on Postgres") };
    for expected in 2..42_i64 {
        assert_eq!(subject.append(&run, &[log.next(b"acknowledged")]).await, Append::Done);
        let stored = sqlx::query_scalar("SELECT count(*) FROM session.events WHERE run_id = $1").bind(run.id);
        let stored: i64 = stored.fetch_one(behind).await.unwrap();
        assert_eq!(stored, expected, "acknowledged and not committed");
        assert_eq!(subject.store.run_get(TENANT, run.id).await.unwrap().map(|row| row.id), Some(run.id));
    }
    let idle = || async {
        let open = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        sqlx::query_scalar::<_, i64>(open).fetch_one(behind).await.unwrap() == 0
    };
    wait::until(Duration::from_secs(3), idle).await.unwrap();
}

/// A store with that many connections on a database of its own.
async fn with_connections(max_connections: u32) -> Subject {
    let database = Postgres::shared().unwrap().database().unwrap();
    let url = database.to_string();
    let config = PostgresConfig { max_connections, ..config(url.clone()) };
    let store = PostgresStore::connect(&config).await.unwrap();
    Subject { _keep: Box::new(database), ..subject(Arc::new(store), &url) }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_again_and_again_needs_one_connection() {
    let subject = with_connections(4).await;
    let (run, mut log) = subject.admitted().await;
    let Behind::Postgres(behind) = &subject.behind else { unreachable!("a store on Postgres") };
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mar-session'";
    let before: i64 = sqlx::query_scalar(open).fetch_one(behind).await.unwrap();
    for _ in 0..50 {
        assert_eq!(subject.append(&run, &[log.next(b"next")]).await, Append::Done);
        assert!(subject.store.run_get(TENANT, run.id).await.unwrap().is_some());
    }
    let after: i64 = sqlx::query_scalar(open).fetch_one(behind).await.unwrap();
    assert_eq!(after, before, "each call left its connection to be tested, and the next took another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_share_one_connection_and_none_waits_for_ever() {
    let subject = with_connections(1).await;
    let (run, _) = subject.admitted().await;
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&subject.store);
        callers.spawn(async move {
            for _ in 0..40 {
                assert!(store.run_get(TENANT, run.id).await.unwrap().is_some());
            }
        });
    }
    callers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_closed_has_no_connection_left() {
    let database = Postgres::shared().unwrap().database().unwrap();
    let store = PostgresStore::connect(&config(database.to_string())).await.unwrap();
    store.ping().await.unwrap();
    timeout(Duration::from_secs(10), store.close()).await.expect("closed although a connection was warm");
    assert_unavailable(store.ping()).await;
    let behind = PgPoolOptions::new().max_connections(1).connect_lazy(&database).unwrap();
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mar-session'";
    let gone = || async { sqlx::query_scalar::<_, i64>(open).fetch_one(&behind).await.unwrap() == 0 };
    wait::until(Duration::from_secs(5), gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_statement_is_given_up() {
    let url = Postgres::shared().unwrap().database().unwrap();
    let subject = subject(Arc::new(PostgresStore::connect(&config(url.to_string())).await.unwrap()), &url);
    let (run, mut log) = subject.admitted().await;
    let Behind::Postgres(behind) = &subject.behind else { return };
    let mut blocker = behind.begin().await.unwrap();
    sqlx::query("LOCK TABLE session.events IN EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    let events = [log.next(b"later")];
    assert_unavailable(subject.store.event_append(TENANT, run.session, run.id, &events)).await;
    blocker.rollback().await.unwrap();
    assert_eq!(subject.append(&run, &events).await, Append::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_an_append_is_done() {
    let (proxy, subject) = relayed().await;
    let (run, mut log) = subject.admitted().await;
    subject.append(&run, &[log.next(b"prepares the statement")]).await;
    proxy.lose(b"INSERT 0 2\0");
    let events = [log.next(b"one"), log.next(b"two")];
    assert_eq!(subject.append(&run, &events).await, Append::Done);
    assert!(proxy.has_lost());
    assert_eq!(subject.read(&run).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_to_commits_are_done() {
    let (proxy, subject) = relayed().await;
    let store = &subject.store;
    let lose = || {
        assert!(proxy.has_lost());
        proxy.lose(b"COMMIT\0");
    };
    let session = session();
    lose();
    assert_eq!(store.session_start(&key(), &session).await.unwrap(), Outcome::Done(session.clone()));
    let run = run(&session, Concurrency::Serial);
    let mut log = Log::default();
    lose();
    assert_eq!(store.run_admit(&key(), &run, &log.next(b"first"), OWNER).await.unwrap(), Admission::Admitted);
    lose();
    assert!(store.run_change(TENANT, run.id, &change(2, None)).await.unwrap());
    lose();
    assert!(store.run_change(TENANT, run.id, &change(4, Some(log.head()))).await.unwrap());
    let mut changed = mar_session::store::SessionRow { state: 2, version: 2, update_time: now(), ..session };
    lose();
    assert_eq!(store.session_change(None, &changed).await.unwrap(), Some(Outcome::Done(changed.clone())));
    changed = mar_session::store::SessionRow { state: 3, version: 3, ..changed };
    lose();
    assert_eq!(store.session_change(Some(&key()), &changed).await.unwrap(), Some(Outcome::Done(changed.clone())));
    assert!(proxy.has_lost());
    assert_eq!(store.session_log(TENANT, changed.id).await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_claim_loses_no_run() {
    let (proxy, subject) = relayed().await;
    let (first, _) = subject.admitted().await;
    proxy.lose(b"COMMIT\0");
    assert_eq!(
        crate::claims(subject.store.run_claim("replica-2", 1, 10, crate::PATIENCE).await.unwrap()),
        [(first.clone(), 2)]
    );
    assert!(proxy.has_lost());
    assert_eq!(crate::claims(subject.store.run_claim("replica-2", 1, 10, crate::PATIENCE).await.unwrap()), []);

    // A caller that gives up while its claim is on its way gets the runs with the next one.
    let (second, _) = subject.admitted().await;
    proxy.lose(b"COMMIT\0");
    let given_up = subject.store.run_claim("replica-3", 1, 10, crate::PATIENCE);
    let look = || async { proxy.has_lost() };
    tokio::select! {
        biased;
        lost = wait::until(Duration::from_secs(5), look) => lost.unwrap(),
        claimed = given_up => { claimed.unwrap(); return }
    }
    assert_eq!(
        crate::claims(subject.store.run_claim("replica-3", 1, 10, crate::PATIENCE).await.unwrap()),
        [(first, 3), (second, 2)]
    );
}
