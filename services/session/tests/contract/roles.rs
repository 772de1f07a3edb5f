//! What each database role may do: row-level security and grants, seen past the store.

use std::sync::Arc;

use mar_session::store::{
    Append, Page, RunRow, SessionRow, Store,
    erasure::{Begun, Extent},
    postgres::{OpenError, PostgresConfig, PostgresStore, SCHEMA},
};
use mar_testkit::postgres::{Database, Postgres};
use sqlx::{Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use crate::rows::{Behind, Concurrency, Log, OWNER, Subject, TENANT, change, key, number, run, session};

const OTHER: &str = "globex";

/// A store on a database of its own, with the database's URL.
async fn open() -> (Subject, Database) {
    let url = Postgres::shared().unwrap().database().unwrap();
    let store = PostgresStore::connect(&PostgresConfig::new(url.to_string().into())).await.unwrap();
    (subject(store, &url), url)
}

fn subject(store: PostgresStore, url: &str) -> Subject {
    let behind = PgPoolOptions::new().max_connections(2).connect_lazy(url).unwrap();
    Subject { store: Arc::new(store), behind: Behind::Postgres(behind), _keep: Box::new(()) }
}

/// A connection under a role and a tenant for its life.
async fn under(url: &str, role: &str, tenant: Option<&str>) -> PgConnection {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query("SELECT set_config('role', $1, false)").bind(role).execute(&mut connection).await.unwrap();
    if let Some(tenant) = tenant {
        let set = sqlx::query("SELECT set_config('mar.tenant', $1, false)");
        set.bind(tenant).execute(&mut connection).await.unwrap();
    }
    connection
}

async fn count(connection: &mut PgConnection, table: &str) -> i64 {
    let text = format!("SELECT count(*) FROM session.{table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_one(connection).await.unwrap()
}

/// The code with which a statement is refused.
async fn refusal(connection: &mut PgConnection, sql: &'static str) -> String {
    let error = connection.execute(sql).await.expect_err(sql);
    error.as_database_error().and_then(|error| error.code().map(Into::into)).unwrap_or_default()
}

const DENIED: &str = "42501";

/// Tables with a tenant, as the catalogue has them.
async fn tenant_tables(pool: &PgPool) -> Vec<(String, bool)> {
    sqlx::query_as(
        "SELECT c.relname::text, c.relrowsecurity AND c.relforcerowsecurity FROM pg_class c \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped \
         WHERE c.relnamespace = 'session'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_a_tenant_is_isolated() {
    let (subject, _url) = open().await;
    let Behind::Postgres(pool) = &subject.behind else { return };
    let tables = tenant_tables(pool).await;
    assert!(tables.len() >= 7, "{tables:?}");
    let open: Vec<_> = tables.iter().filter(|(_, forced)| !forced).collect();
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_sees_the_tenant_it_names_and_none_without() {
    let (subject, url) = open().await;
    let (run, mut log) = subject.admitted().await;
    let large = log.next_with(b"leaf", Some(vec![1; 20_000].into()));
    assert_eq!(subject.append(&run, &[large]).await, Append::Done);
    let tables = ["sessions", "session_log", "runs", "leases", "events", "blobs", "request_ids"];
    for (tenant, sees) in [(Some(TENANT), true), (Some(OTHER), false), (Some(""), false), (None, false)] {
        let mut connection = under(&url, "mar_session", tenant).await;
        for table in tables {
            assert_eq!(count(&mut connection, table).await > 0, sees, "{table} {tenant:?}");
        }
    }
    // What was set for one transaction is gone after it.
    let mut connection = under(&url, "mar_session", None).await;
    let mut tx = connection.begin().await.unwrap();
    sqlx::query("SELECT set_config('mar.tenant', $1, true)").bind(TENANT).execute(&mut *tx).await.unwrap();
    assert_eq!(count(&mut tx, "runs").await, 1);
    tx.commit().await.unwrap();
    assert_eq!(count(&mut connection, "runs").await, 0);
    // Nor can a row be put into another tenant.
    let mut connection = under(&url, "mar_session", Some(OTHER)).await;
    let foreign = "INSERT INTO session.blobs VALUES ('acme', gen_random_uuid(), decode(repeat('00', 32), 'hex'), '')";
    assert_eq!(refusal(&mut connection, foreign).await, DENIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_cannot_rewrite_the_log() {
    let (subject, url) = open().await;
    subject.admitted().await;
    let mut connection = under(&url, "mar_session", Some(TENANT)).await;
    for sql in [
        "UPDATE session.events SET leaf = ''",
        "DELETE FROM session.events",
        "TRUNCATE session.events",
        "UPDATE session.session_log SET kind = ''",
        "DELETE FROM session.session_log",
        "DELETE FROM session.blobs",
        "DELETE FROM session.runs",
        "UPDATE session.runs SET tenant = 'globex'",
        "UPDATE session.sessions SET tenant = 'globex'",
        "UPDATE session.leases SET owner = ''",
        "SELECT * FROM session.events_stray",
        "ALTER TABLE session.events DISABLE ROW LEVEL SECURITY",
        "SELECT session.isolate('session.runs')",
        "SELECT session.events_drop('2020-01-01', now())",
        "UPDATE session.sessions SET salt_key = ''",
        "UPDATE session.runs SET caller = ''",
        "UPDATE session.request_ids SET digest = digest",
        "DELETE FROM session.approvals",
        "SELECT session.goes(id, ARRAY['erased']) FROM session.sessions",
        "SELECT session.run_forget(id, '') FROM session.runs",
        "SELECT session.blobs_forget(id, 10) FROM session.sessions",
        "SELECT session.keys_forget(id) FROM session.sessions",
        "CREATE TABLE session.mine (id int)",
    ] {
        assert_eq!(refusal(&mut connection, sql).await, DENIED, "{sql}");
    }
    let month = format!("SELECT * FROM session.events_{}", months(&subject).await[0].trim_start_matches("events_"));
    let error = connection.execute(sqlx::AssertSqlSafe(month)).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), DENIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_sees_leases_of_all_tenants_and_nothing_else() {
    let (subject, url) = open().await;
    subject.admitted().await;
    let foreign = SessionRow { tenant: OTHER.to_owned(), ..session() };
    subject.store.session_start(&key(), &foreign).await.unwrap();
    let theirs = run(&foreign, Concurrency::Serial);
    subject.admit(&theirs, &Log::default().next(b"first")).await;
    let mut scheduler = under(&url, "mar_scheduler", None).await;
    assert_eq!(count(&mut scheduler, "leases").await, 2);
    for sql in [
        "SELECT id FROM session.runs",
        "SELECT id FROM session.sessions",
        "SELECT run_id FROM session.events",
        "SELECT session FROM session.blobs",
        "SELECT seq FROM session.session_log",
        "SELECT resource FROM session.request_ids",
        "DELETE FROM session.leases",
        "DELETE FROM session.timers",
        "UPDATE session.timers SET tenant = 'acme'",
        "SELECT session.keys_forget(session) FROM session.leases",
        "UPDATE session.leases SET tenant = 'acme'",
        "INSERT INTO session.leases SELECT * FROM session.leases",
    ] {
        assert_eq!(refusal(&mut scheduler, sql).await, DENIED, "{sql}");
    }
    // A claim brings each tenant's run whole.
    let claimed = subject.store.run_claim("replica-2", 1, 10, crate::PATIENCE).await.unwrap();
    let tenants: Vec<_> = claimed.iter().map(|claimed| claimed.run.tenant.as_str()).collect();
    assert_eq!(tenants, [TENANT, OTHER]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_payload_of_the_tenant_it_names() {
    let (subject, url) = open().await;
    let (run, mut log) = subject.admitted().await;
    subject.append(&run, &[log.next_with(b"leaf", Some(vec![1; 20_000].into()))]).await;
    let mut retention = under(&url, "mar_retention", Some(OTHER)).await;
    let delete = "DELETE FROM session.blobs";
    assert_eq!(retention.execute(delete).await.unwrap().rows_affected(), 0);
    for sql in [
        "SELECT content FROM session.blobs",
        "SELECT leaf FROM session.events",
        "SELECT summary FROM session.runs",
        "SELECT salt_key FROM session.sessions",
        "SELECT hash FROM session.session_log",
        "DELETE FROM session.events",
        "UPDATE session.events SET leaf = ''",
        "UPDATE session.events SET hash = ''",
        "DELETE FROM session.session_log",
    ] {
        assert_eq!(refusal(&mut retention, sql).await, DENIED, "{sql}");
    }
    // Ages it sees of all tenants.
    assert_eq!(
        sqlx::query("SELECT id, update_time FROM session.runs").fetch_all(&mut retention).await.unwrap().len(),
        1
    );
    let mut retention = under(&url, "mar_retention", Some(TENANT)).await;
    assert_eq!(retention.execute(delete).await.unwrap().rows_affected(), 1);
    let forget = "UPDATE session.events SET content = NULL, blob_sha256 = NULL";
    assert_eq!(retention.execute(forget).await.unwrap().rows_affected(), 2);
    assert!(subject.read(&run).await.iter().all(|event| event.content.is_none()));
}

/// The statement that appends sets its own tenant before row-level security asks for it, whatever the connection had, with
/// each way of joining that Postgres may be left with.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_brings_its_tenant() {
    let url = Postgres::shared().unwrap().database().unwrap();
    SCHEMA.migrate(&PostgresConfig::new(url.to_string().into())).await.unwrap();
    for settings in [
        "options[mar.tenant]=globex",
        "options[mar.tenant]=",
        "options[enable_nestloop]=off&options[enable_indexscan]=off&options[enable_bitmapscan]=off",
        "options[enable_seqscan]=off&options[enable_hashjoin]=off&options[enable_mergejoin]=off",
    ] {
        let config =
            PostgresConfig { max_connections: 1, ..PostgresConfig::new(format!("{}?{settings}", &*url).into()) };
        let subject = subject(PostgresStore::connect(&config).await.unwrap(), &url);
        let (run, mut log) = subject.admitted().await;
        for step in 0..8_u8 {
            let events = [log.next(&[step]), log.next_with(&[step, 1], Some(vec![step; 100].into()))];
            assert_eq!(subject.append(&run, &events).await, Append::Done, "{settings}");
            let large = log.next_with(b"large", Some(vec![step; 20_000].into()));
            assert_eq!(subject.append(&run, &[large]).await, Append::Done, "{settings}");
        }
        assert_eq!(subject.read(&run).await.len(), 25);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_a_member_is_enough() {
    member_is_enough(&Postgres::start().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_a_member_is_enough_on_18() {
    if Postgres::has_version(18) {
        member_is_enough(&Postgres::builder().version(18).start().unwrap()).await;
    }
}

async fn member_is_enough(postgres: &Postgres) {
    // An owner without superuser rights, as a managed database has it, and an application that owns nothing.
    postgres.execute("CREATE ROLE mar_owner LOGIN CREATEROLE").unwrap();
    postgres.execute("CREATE DATABASE mar OWNER mar_owner").unwrap();
    let url = |login: &str| format!("postgres://{login}@127.0.0.1:{}/mar", postgres.port());
    let config = PostgresConfig {
        migrate_url: Some(url("mar_owner").into()),
        auto_migrate: false,
        ..PostgresConfig::new(url("app").into())
    };
    let early = PostgresStore::connect(&config).await;
    assert!(matches!(early, Err(OpenError::Unavailable(_) | OpenError::Schema { found: 0, .. })), "{early:?}");
    assert_eq!(SCHEMA.migrate(&config).await.unwrap(), 1);
    assert_eq!(SCHEMA.migrate(&config).await.unwrap(), 1);
    postgres.execute("CREATE ROLE app LOGIN; CREATE ROLE stranger LOGIN").unwrap();
    let outsider = PostgresConfig { url: url("stranger").into(), ..config.clone() };
    let refused = PostgresStore::connect(&outsider).await;
    assert!(matches!(refused, Err(OpenError::Schema { found: 0, .. })), "{refused:?}");
    postgres.execute("GRANT mar_session TO app").unwrap();
    let subject = subject(PostgresStore::connect(&config).await.unwrap(), &url("app"));
    let (run, mut log) = subject.admitted().await;
    assert_eq!(subject.append(&run, &[log.next(b"next")]).await, Append::Done);
    assert_eq!(subject.store.run_claim("replica-2", 1, 10, crate::PATIENCE).await.unwrap().len(), 1);
    assert!(subject.store.run_change(TENANT, run.id, &change(4, Some(log.head()))).await.unwrap());
    let session = subject.store.session_get(TENANT, run.session).await.unwrap().unwrap();
    let ended = SessionRow { state: 3, version: 2, ..session };
    subject.store.session_change(None, &ended).await.unwrap().unwrap();
    let begun = subject.store.erasure_begin(None, TENANT, ended.id, Extent::Everything).await.unwrap();
    assert_eq!(begun, Begun::Going);
    subject.store.erasure_run(TENANT, run.id, &"rest".into()).await.unwrap();
    assert_eq!(subject.store.erasure_blobs(TENANT, ended.id, 10).await.unwrap(), 0);
    subject.store.erasure_finish(&ended, Extent::Everything).await.unwrap();
    assert_eq!(subject.store.session_get(TENANT, ended.id).await.unwrap().unwrap().salt_key.len(), 0);
    // The owner is bound by the policies, too: force.
    let mut owner = PgConnection::connect(&url("mar_owner")).await.unwrap();
    assert_eq!(count(&mut owner, "events").await, 0);
    assert_eq!(count(&mut owner, "sessions").await, 0);
    let strays: i64 = sqlx::query_scalar("SELECT session.events_strays()").fetch_one(&mut owner).await.unwrap();
    assert_eq!(strays, 0);
}

/// Names of the months' partitions.
async fn months(subject: &Subject) -> Vec<String> {
    let Behind::Postgres(pool) = &subject.behind else { return Vec::new() };
    sqlx::query_scalar(
        "SELECT relid::text FROM pg_partition_tree('session.events') WHERE isleaf AND relid::text ~ '[0-9]{6}$' ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
    .iter()
    .map(|name: &String| name.trim_start_matches("session.").to_owned())
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_ahead_and_dropped_when_all_is_past() {
    let (subject, url) = open().await;
    let Behind::Postgres(pool) = &subject.behind else { return };
    let before = months(&subject).await;
    assert_eq!(before.len(), 5, "the month before, this one, three ahead: {before:?}");
    let (run, log) = subject.admitted().await;
    let place: String =
        sqlx::query_scalar("SELECT tableoid::regclass::text FROM session.events").fetch_one(pool).await.unwrap();
    assert!(before.contains(&place.trim_start_matches("session.").to_owned()), "{place}");

    // The application makes them, without owning anything; doing it again changes nothing.
    let mut application = under(&url, "mar_session", None).await;
    let prepare = |months: i32| sqlx::query_scalar::<_, i32>("SELECT session.events_prepare($1)").bind(months);
    assert_eq!(prepare(3).fetch_one(&mut application).await.unwrap(), 0);
    assert_eq!(prepare(5).fetch_one(&mut application).await.unwrap(), 2);
    assert!(prepare(25).fetch_one(&mut application).await.is_err());
    assert_eq!(months(&subject).await.len(), 7);

    // A run as old as the month before, which holds its partition until it is past retention.
    let mut retention = under(&url, "mar_retention", None).await;
    let dropped = |ended_before: &'static str, months: i32| {
        sqlx::query_scalar::<_, bool>(
            "SELECT session.events_drop((now() AT TIME ZONE 'UTC' - make_interval(months => $2))::date, $1::timestamptz)",
        )
        .bind(ended_before)
        .bind(months)
    };
    let old = old_run(&subject).await;
    assert!(!dropped("infinity", 1).fetch_one(&mut retention).await.unwrap(), "an open run");
    assert!(subject.store.run_change(TENANT, old, &change(4, Some(Log::default().next(b"old").hash))).await.unwrap());
    assert!(!dropped("2001-01-01", 1).fetch_one(&mut retention).await.unwrap(), "not past retention");
    assert!(dropped("infinity", 1).fetch_one(&mut retention).await.unwrap());
    assert!(!dropped("infinity", 1).fetch_one(&mut retention).await.unwrap(), "gone already");
    assert!(subject.store.run_change(TENANT, run.id, &change(4, Some(log.head()))).await.unwrap());
    assert!(!dropped("infinity", 0).fetch_one(&mut retention).await.unwrap(), "a month that is not over");
    assert_eq!(months(&subject).await.len(), 6);
    assert_eq!(subject.store.event_read(TENANT, run.id, 0, 10, usize::MAX).await.unwrap().len(), 1);

    // A row that no partition takes is kept, and reported.
    let strays = || sqlx::query_scalar::<_, i64>("SELECT session.events_strays()");
    assert_eq!(strays().fetch_one(&mut application).await.unwrap(), 0);
    old_run(&subject).await;
    assert_eq!(strays().fetch_one(&mut application).await.unwrap(), 1);
}

/// Admits a run whose id was made in the month before this one.
async fn old_run(subject: &Subject) -> Uuid {
    let Behind::Postgres(pool) = &subject.behind else { return Uuid::nil() };
    let lowest: Uuid = sqlx::query_scalar(
        "SELECT session.lowest_id(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '2 days')",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let id = Uuid::from_u128(lowest.as_u128() + u128::from(number()));
    let run = run(&subject.started().await, Concurrency::Serial);
    let run = RunRow { id, ..run };
    subject.admit(&run, &Log::default().next(b"old")).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_another_version_is_refused_by_name() {
    let url = Postgres::shared().unwrap().database().unwrap();
    let config = PostgresConfig { auto_migrate: false, ..PostgresConfig::new(url.to_string().into()) };
    let empty = PostgresStore::connect(&config).await;
    let Err(error @ OpenError::Schema { found: 0, wanted: 1, .. }) = empty else { panic!("{empty:?}") };
    assert!(error.to_string().contains("run `session migrate`"), "{error}");
    SCHEMA.migrate(&config).await.unwrap();
    let store = PostgresStore::connect(&config).await.unwrap();
    assert_eq!(store.session_list(TENANT, Page { limit: 1, ..Page::default() }).await.unwrap(), []);
    assert_eq!(crate::claims(store.run_claim(OWNER, 1, 1, crate::PATIENCE).await.unwrap()), []);
    let mut owner = PgConnection::connect(&url).await.unwrap();
    let newer = "INSERT INTO session.migrations (version, description, success, checksum, execution_time) \
                 VALUES (99, 'x', true, '', 0)";
    owner.execute(newer).await.unwrap();
    let newer = PostgresStore::connect(&config).await;
    let Err(error @ OpenError::Schema { found: 99, wanted: 1, .. }) = newer else { panic!("{newer:?}") };
    assert!(error.to_string().contains("newer program"), "{error}");
}
