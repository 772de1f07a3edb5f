//! The store on Postgres 18, where the suite's other one is the system's.

use std::sync::{Arc, LazyLock};

use mar_session::store::postgres::{PostgresConfig, PostgresStore};
use mar_testkit::postgres::Postgres;
use sqlx::postgres::PgPoolOptions;

use crate::rows::{Behind, Subject, hooked};

const VERSION: u32 = 18;

/// `None` where it is not installed.
static POSTGRES: LazyLock<Option<Postgres>> = LazyLock::new(|| {
    if !Postgres::has_version(VERSION) {
        let required = std::env::var("MAR_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
        assert!(!required, "Postgres {VERSION} is not installed (scripts/install-tools.sh)");
        eprintln!("skipped: Postgres {VERSION} is not installed (scripts/install-tools.sh)");
        return None;
    }
    Some(Postgres::builder().version(VERSION).start().unwrap())
});

async fn open() -> Option<Subject> {
    let postgres = tokio::task::block_in_place(|| POSTGRES.as_ref())?;
    let url = postgres.database().unwrap();
    let config = PostgresConfig { max_connections: 6, ..PostgresConfig::new(url.to_string().into()) };
    let config = PostgresConfig { connect_timeout: std::time::Duration::from_secs(10), ..config };
    let store = PostgresStore::connect_with_hooks(&config, hooked()).await.unwrap();
    let behind = PgPoolOptions::new().max_connections(1).connect_lazy(&url).unwrap();
    Some(Subject { store: Arc::new(store), behind: Behind::Postgres(behind), _keep: Box::new(url) })
}

store_suite!(open);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_that_version() {
    let Some(subject) = open().await else { return };
    let Behind::Postgres(pool) = &subject.behind else { return };
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(pool).await.unwrap();
    assert!(version.starts_with("18"), "{version}");
}
