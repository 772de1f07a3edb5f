//! The store on Postgres: the system's, 18, and behind pgbouncer in transaction mode with its default settings.

use std::sync::LazyLock;
use std::time::Duration;

use mar_testkit::pgbouncer::PgBouncer;
use mar_testkit::postgres::{Database, Postgres};
use mar_testkit::wait;
use tokio::task::block_in_place;

use super::*;
use crate::store::postgres::{OpenError, Pooler, PostgresConfig, SCHEMA};

/// The test machine is busy; how long a call may take has tests of its own in session.
pub(super) fn config(url: &str) -> PostgresConfig {
    PostgresConfig {
        max_connections: 6,
        connect_timeout: Duration::from_secs(10),
        ..PostgresConfig::new(url.to_owned().into())
    }
}

pub(super) fn database() -> Database {
    block_in_place(|| Postgres::shared().unwrap().database().unwrap())
}

/// Whether a tool that is missing may be.
fn skips(what: &str, has: bool) -> bool {
    let required = std::env::var("MAR_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
    assert!(has || !required, "{what} is not installed (scripts/install-tools.sh)");
    if !has {
        eprintln!("skipped: {what} is not installed (scripts/install-tools.sh)");
    }
    !has
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_contract() {
    let database = database();
    let config = config(&database);
    let open = || PostgresStore::connect(&config);
    // Two replicas may start at once.
    let (one, two) = futures::future::join(open(), open()).await;
    contract(Arc::new(one.unwrap())).await;
    let two = two.unwrap();
    assert!(two.descriptor_get("acme", sealed("one", 1).hash).await.unwrap().is_some());
    two.close().await;
    assert!(matches!(two.ping().await, Err(Error::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_18_keeps_the_contract() {
    if skips("Postgres 18", Postgres::has_version(18)) {
        return;
    }
    let postgres = block_in_place(|| Postgres::builder().version(18).start().unwrap());
    contract(Arc::new(PostgresStore::connect(&config(&postgres.url())).await.unwrap())).await;
}

/// A Postgres with a login of the application's, and the pooler before it.
static POOLED: LazyLock<(Postgres, PgBouncer)> = LazyLock::new(|| {
    let postgres = Postgres::start().unwrap();
    // The first migration finds the role there, and that it may log in.
    postgres.execute("CREATE ROLE mar_agent LOGIN NOINHERIT").unwrap();
    let pooler = PgBouncer::start(&postgres, "mar_agent").unwrap();
    (postgres, pooler)
});

fn pooled() -> Option<(Database, PostgresConfig)> {
    if skips("pgbouncer", PgBouncer::is_installed()) {
        return None;
    }
    block_in_place(|| {
        let (postgres, pooler) = &*POOLED;
        let database = postgres.database().unwrap();
        let config = PostgresConfig {
            migrate_url: Some(database.to_string().into()),
            pooler: Pooler::Transaction,
            // More than pgbouncer has: each transaction of one may be on the connection of another.
            max_connections: 16,
            ..config(&pooler.url(&database))
        };
        Some((database, config))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_behind_pgbouncer_keeps_the_contract() {
    let Some((_database, config)) = pooled() else { return };
    let store = PostgresStore::connect(&config).await.unwrap();
    contract(Arc::new(store)).await;
    // The next one finds what is there, on connections that the first has used.
    let again = PostgresStore::connect(&PostgresConfig { auto_migrate: false, ..config }).await.unwrap();
    assert!(again.descriptor_get("acme", sealed("one", 1).hash).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_postgres_is_not_seen_and_its_absence_passes() {
    let postgres = block_in_place(|| Postgres::start().unwrap());
    let config = PostgresConfig { connect_timeout: Duration::from_secs(1), ..config(&postgres.url()) };
    let store = PostgresStore::connect(&config).await.unwrap();
    let (one, two) = (sealed("one", 1), sealed("two", 1));
    store.descriptor_put("acme", &one, at(1)).await.unwrap();
    block_in_place(|| postgres.stop());
    assert!(matches!(store.descriptor_put("acme", &two, at(2)).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.descriptor_get("acme", one.hash).await, Err(Error::Unavailable(_))));
    block_in_place(|| postgres.resume().unwrap());
    let back = || async { store.ping().await.is_ok() };
    wait::until(Duration::from_secs(10), back).await.unwrap();
    store.descriptor_put("acme", &two, at(2)).await.unwrap();
    // Every connection is dead now, and nobody knows.
    block_in_place(|| {
        postgres.stop();
        postgres.resume().unwrap();
    });
    assert!(store.descriptor_get("acme", one.hash).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_another_version_is_refused_by_name() {
    let database = database();
    let config = PostgresConfig { auto_migrate: false, ..config(&database) };
    let empty = PostgresStore::connect(&config).await;
    let Err(error @ OpenError::Schema { found: 0, wanted: 1, .. }) = empty else { panic!("{empty:?}") };
    let told = error.to_string();
    assert!(told.contains("run `agent-generator migrate`") && told.contains("a member of mar_agent"), "{told}");
    SCHEMA.migrate(&config).await.unwrap();
    PostgresStore::connect(&config).await.unwrap().ping().await.unwrap();
    let owner = sqlx::PgPool::connect(&database).await.unwrap();
    let newer = "INSERT INTO agent.migrations (version, description, success, checksum, execution_time) \
                 VALUES (99, 'x', true, '', 0)";
    sqlx::query(newer).execute(&owner).await.unwrap();
    let newer = PostgresStore::connect(&config).await;
    let Err(error @ OpenError::Schema { found: 99, wanted: 1, .. }) = newer else { panic!("{newer:?}") };
    assert!(error.to_string().contains("newer program"), "{error}");
}
