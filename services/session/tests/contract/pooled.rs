//! The store behind pgbouncer in transaction mode: nothing prepared, role and tenant set by each transaction.

use std::sync::{Arc, LazyLock};

use mar_session::store::postgres::{Pooler, PostgresConfig, PostgresStore};
use mar_testkit::{pgbouncer::PgBouncer, postgres::Postgres};
use sqlx::postgres::PgPoolOptions;

use crate::rows::{Behind, Subject, hooked};

/// A Postgres with a login of the application's, and the pooler before it.
struct Servers {
    postgres: Postgres,
    pooler: PgBouncer,
}

/// `None` without pgbouncer.
static SERVERS: LazyLock<Option<Servers>> = LazyLock::new(|| {
    if !PgBouncer::is_installed() {
        let required = std::env::var("MAR_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
        assert!(!required, "pgbouncer is not installed (scripts/install-tools.sh)");
        eprintln!("skipped: pgbouncer is not installed (scripts/install-tools.sh)");
        return None;
    }
    let postgres = Postgres::start().unwrap();
    // The first migration finds the role there, and that it may log in.
    postgres.execute("CREATE ROLE mar_session LOGIN NOINHERIT").unwrap();
    let pooler = PgBouncer::start(&postgres, "mar_session").unwrap();
    Some(Servers { postgres, pooler })
});

async fn open() -> Option<Subject> {
    let servers = tokio::task::block_in_place(|| SERVERS.as_ref())?;
    let database = servers.postgres.database().unwrap();
    let direct: &str = &database;
    let config = PostgresConfig {
        migrate_url: Some(direct.to_owned().into()),
        pooler: Pooler::Transaction,
        max_connections: 6,
        connect_timeout: std::time::Duration::from_secs(10),
        ..PostgresConfig::new(servers.pooler.url(direct).into())
    };
    let store = PostgresStore::connect_with_hooks(&config, hooked()).await.unwrap();
    let behind = PgPoolOptions::new().max_connections(1).connect_lazy(direct).unwrap();
    Some(Subject { store: Arc::new(store), behind: Behind::Postgres(behind), _keep: Box::new(database) })
}

store_suite!(open);
