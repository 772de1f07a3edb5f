//! Appends that arrive together: one statement, and no run pays for another.

use std::{sync::Arc, time::Duration};

use mar_session::store::{
    Append, EventRow, RunRow,
    postgres::{PostgresConfig, PostgresStore},
};
use mar_testkit::{
    postgres::{Database, Postgres},
    wait,
};
use sqlx::{PgPool, Postgres as Driver, Transaction, postgres::PgPoolOptions};
use tokio::task::JoinSet;

use crate::{
    proxy::Proxy,
    rows::{Behind, Log, Subject, TENANT},
};

type Appending = JoinSet<(usize, Result<Append, mar_session::store::Error>)>;

/// A store on a database of its own, by this address.
async fn open(database: Database, through: &str) -> (Subject, PgPool) {
    let store = PostgresStore::connect(&PostgresConfig::new(through.to_owned().into())).await.unwrap();
    let behind = PgPoolOptions::new().max_connections(3).connect_lazy(&database).unwrap();
    let behind_it = Behind::Postgres(behind.clone());
    let subject = Subject { store: Arc::new(store), behind: behind_it, _keep: Box::new(database) };
    (subject, behind)
}

async fn open_directly() -> (Subject, PgPool) {
    let database = Postgres::shared().unwrap().database().unwrap();
    let url = database.to_string();
    open(database, &url).await
}

/// Holds every append back, so that those that follow gather.
async fn gate(behind: &PgPool) -> Transaction<'static, Driver> {
    let mut gate = behind.begin().await.unwrap();
    sqlx::query("LOCK TABLE session.events IN EXCLUSIVE MODE").execute(&mut *gate).await.unwrap();
    gate
}

/// How many statements wait at the gate.
async fn waiting(behind: &PgPool) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%session.events%'";
    sqlx::query_scalar(waiting).fetch_one(behind).await.unwrap()
}

/// Waits until that many statements stand at the gate.
async fn stands(behind: &PgPool, statements: i64) {
    wait::until(Duration::from_secs(10), || async { waiting(behind).await >= statements }).await.unwrap();
}

fn begin(subject: &Subject, appending: &mut Appending, number: usize, run: &RunRow, events: Vec<EventRow>) {
    let (store, session, run) = (Arc::clone(&subject.store), run.session, run.id);
    appending.spawn(async move { (number, store.event_append(TENANT, session, run, &events).await) });
}

async fn runs(subject: &Subject, count: usize) -> Vec<(RunRow, Log)> {
    let mut runs = Vec::new();
    for _ in 0..count {
        runs.push(subject.admitted().await);
    }
    runs
}

/// Opens the gate when each tenant's first statement stands before it and the rest has had time to gather.
async fn answers(
    behind: &PgPool,
    gate: Transaction<'static, Driver>,
    appending: Appending,
) -> Vec<Result<Append, mar_session::store::Error>> {
    stands(behind, 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.rollback().await.unwrap();
    let mut answers = appending.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Transactions that wrote events from position 1 on.
async fn transactions(behind: &PgPool) -> i64 {
    let counted = "SELECT count(DISTINCT xmin::text) FROM session.events WHERE seq > 0";
    sqlx::query_scalar(counted).fetch_one(behind).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_that_arrive_together_are_one_statement() {
    let (subject, behind) = open_directly().await;
    let mut runs = runs(&subject, 12).await;
    let (gate, mut appending) = (gate(&behind).await, Appending::new());
    for (number, (run, log)) in runs.iter_mut().enumerate() {
        let events = vec![log.next(b"one"), log.next_with(b"two", Some(vec![1; 100].into()))];
        begin(&subject, &mut appending, number, run, events);
    }
    for answer in answers(&behind, gate, appending).await {
        assert_eq!(answer.unwrap(), Append::Done);
    }
    for (run, _) in &runs {
        assert_eq!(subject.read(run).await.len(), 3);
    }
    let transactions = transactions(&behind).await;
    assert!((2..=4).contains(&transactions), "{transactions} for 12 appends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_or_a_gap_of_one_run_fails_no_other() {
    let (subject, behind) = open_directly().await;
    let mut runs = runs(&subject, 12).await;
    // The run at 8 has another writer, the one at 9 a gap, the one at 10 repeats what is stored.
    let mut other = runs[8].1.clone();
    assert_eq!(subject.append(&runs[8].0, &[other.next(b"theirs")]).await, Append::Done);
    runs[9].1.next(b"skipped");
    let repeated = runs[10].1.next(b"stored");
    assert_eq!(subject.append(&runs[10].0, std::slice::from_ref(&repeated)).await, Append::Done);
    let (gate, mut appending) = (gate(&behind).await, Appending::new());
    for (number, (run, log)) in runs.iter_mut().enumerate() {
        let events = if number == 10 { vec![repeated.clone()] } else { vec![log.next(b"mine"), log.next(b"next")] };
        begin(&subject, &mut appending, number, run, events);
    }
    let answers = answers(&behind, gate, appending).await;
    for (number, answer) in answers.iter().enumerate() {
        match number {
            8 => assert!(matches!(answer, Ok(Append::Fenced)), "{answer:?}"),
            9 => assert!(matches!(answer, Err(mar_session::store::Error::Invalid(_))), "{answer:?}"),
            _ => assert!(matches!(answer, Ok(Append::Done)), "{number}: {answer:?}"),
        }
    }
    let mut lengths = Vec::new();
    for (run, _) in &runs {
        lengths.push(subject.read(run).await.len());
    }
    assert_eq!(lengths, [3, 3, 3, 3, 3, 3, 3, 3, 2, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_one_run_and_of_two_tenants_stay_apart() {
    let (subject, behind) = open_directly().await;
    let mut runs = runs(&subject, 3).await;
    let (gate, mut appending) = (gate(&behind).await, Appending::new());
    let (run, log) = &mut runs[0];
    // The same append twice and another in its place: one writer wins, whichever goes first.
    let (mut mine, mut theirs) = (log.clone(), log.clone());
    let events = vec![mine.next(b"mine")];
    begin(&subject, &mut appending, 0, run, events.clone());
    begin(&subject, &mut appending, 1, run, events);
    begin(&subject, &mut appending, 2, run, vec![theirs.next(b"theirs")]);
    for (number, (run, log)) in runs.iter_mut().enumerate().skip(1) {
        begin(&subject, &mut appending, 2 + number, run, vec![log.next(b"one")]);
    }
    // Another tenant's append for a stored run finds nothing to go on from.
    let (store, run, mut foreign) = (Arc::clone(&subject.store), runs[1].0.clone(), runs[1].1.clone());
    appending.spawn(async move { (5, store.event_append("globex", run.session, run.id, &[foreign.next(b"x")]).await) });
    stands(&behind, 2).await;
    let answers = answers(&behind, gate, appending).await;
    let fenced = |answer: &Result<Append, _>| matches!(answer, Ok(Append::Fenced));
    assert_eq!(fenced(&answers[0]), fenced(&answers[1]), "{answers:?}");
    assert_ne!(fenced(&answers[0]), fenced(&answers[2]), "{answers:?}");
    assert!(
        matches!(answers[3..], [Ok(Append::Done), Ok(Append::Done), Err(mar_session::store::Error::Invalid(_))]),
        "{answers:?}"
    );
    assert_eq!(subject.read(&runs[0].0).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_batch_is_done_for_each() {
    let postgres = Postgres::shared().unwrap();
    let url = postgres.database().unwrap();
    let proxy = Proxy::start(postgres.port()).await;
    let through = proxy.url(&url, postgres.port());
    let (subject, behind) = open(url, &through).await;
    let mut runs = runs(&subject, 8).await;
    let (gate, mut appending) = (gate(&behind).await, Appending::new());
    proxy.lose(b"INSERT 0 7\0");
    for (number, (run, log)) in runs.iter_mut().enumerate() {
        begin(&subject, &mut appending, number, run, vec![log.next(b"one")]);
        if number == 0 {
            // Alone, or its statement might take more of them and leave fewer than seven to gather.
            stands(&behind, 1).await;
        }
    }
    for answer in answers(&behind, gate, appending).await {
        assert_eq!(answer.unwrap(), Append::Done);
    }
    assert!(proxy.has_lost());
    for (run, _) in &runs {
        assert_eq!(subject.read(run).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gives_up_leaves_the_others_theirs() {
    let (subject, behind) = open_directly().await;
    let mut runs = runs(&subject, 6).await;
    let (gate, mut appending) = (gate(&behind).await, Appending::new());
    // The first sends the statement that the rest waits for.
    let mut given_up = Appending::new();
    for (number, (run, log)) in runs.iter_mut().enumerate() {
        let appending = if number == 0 { &mut given_up } else { &mut appending };
        begin(&subject, appending, number, run, vec![log.next(b"one")]);
        if number == 0 {
            stands(&behind, 1).await;
        }
    }
    given_up.shutdown().await;
    for answer in answers(&behind, gate, appending).await {
        assert_eq!(answer.unwrap(), Append::Done);
    }
    for (run, _) in &runs {
        assert_eq!(subject.read(run).await.len(), 2);
    }
}
