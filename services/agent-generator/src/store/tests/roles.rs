//! What each database role may do: row-level security and grants, seen past the store.

use mar_testkit::postgres::Postgres;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::block_in_place;

use super::postgres::{config, database};
use super::*;
use crate::store::postgres::{OpenError, PostgresConfig, SCHEMA};

const DENIED: &str = "42501";

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

async fn count(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM agent.descriptors").fetch_one(connection).await.unwrap()
}

/// The code with which a statement is refused.
async fn refusal(connection: &mut PgConnection, sql: &'static str) -> String {
    let error = connection.execute(sql).await.expect_err(sql);
    error.as_database_error().and_then(|error| error.code().map(Into::into)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_with_a_tenant_is_isolated() {
    let url = database();
    PostgresStore::connect(&config(&url)).await.unwrap();
    let mut owner = PgConnection::connect(&url).await.unwrap();
    let tables: Vec<(String, bool)> = sqlx::query_as(
        "SELECT c.relname::text, c.relrowsecurity AND c.relforcerowsecurity FROM pg_class c \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped \
         WHERE c.relnamespace = 'agent'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert_eq!(tables, [("descriptors".to_owned(), true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_its_own_descriptors_and_without_one_there_are_none() {
    let url = database();
    let store = PostgresStore::connect(&config(&url)).await.unwrap();
    for (tenant, purpose) in [("acme", "one"), ("acme", "two"), ("globex", "one")] {
        store.descriptor_put(tenant, &sealed(purpose, 1), at(1)).await.unwrap();
    }
    for (tenant, sees) in [(Some("acme"), 2), (Some("globex"), 1), (Some("initech"), 0), (Some(""), 0), (None, 0)] {
        assert_eq!(count(&mut under(&url, "mar_agent", tenant).await).await, sees, "{tenant:?}");
    }
    // What was set for one transaction is gone after it.
    let mut connection = under(&url, "mar_agent", None).await;
    let mut tx = connection.begin().await.unwrap();
    sqlx::query("SELECT set_config('mar.tenant', 'acme', true)").execute(&mut *tx).await.unwrap();
    assert_eq!(count(&mut tx).await, 2);
    tx.commit().await.unwrap();
    assert_eq!(count(&mut connection).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_adds_and_changes_nothing() {
    let url = database();
    let store = PostgresStore::connect(&config(&url)).await.unwrap();
    store.descriptor_put("acme", &sealed("one", 1), at(1)).await.unwrap();
    let mut connection = under(&url, "mar_agent", Some("acme")).await;
    for sql in [
        "UPDATE agent.descriptors SET envelope = ''",
        "UPDATE agent.descriptors SET tenant = 'globex'",
        "DELETE FROM agent.descriptors",
        "TRUNCATE agent.descriptors",
        "ALTER TABLE agent.descriptors DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON agent.descriptors",
        "CREATE TABLE agent.mine (id int)",
        "UPDATE agent.migrations SET version = 2",
        // Nor can a row be put into another tenant.
        "INSERT INTO agent.descriptors SELECT 'globex', hash, sealing, envelope, create_time FROM agent.descriptors",
    ] {
        assert_eq!(refusal(&mut connection, sql).await, DENIED, "{sql}");
    }
    assert_eq!(count(&mut connection).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_a_member_is_enough_and_no_other_is() {
    // An owner without superuser rights, as a managed database has it, and an application that owns nothing.
    let postgres = block_in_place(|| {
        let postgres = Postgres::start().unwrap();
        postgres
            .execute("CREATE ROLE mar_owner LOGIN CREATEROLE; CREATE ROLE app LOGIN; CREATE ROLE other LOGIN")
            .unwrap();
        postgres.execute("CREATE DATABASE mar OWNER mar_owner").unwrap();
        postgres
    });
    let url = |login: &str| format!("postgres://{login}@127.0.0.1:{}/mar", postgres.port());
    let with = |login: &str| PostgresConfig {
        migrate_url: Some(url("mar_owner").into()),
        auto_migrate: false,
        ..config(&url(login))
    };
    assert_eq!(SCHEMA.migrate(&with("app")).await.unwrap(), 1);
    assert_eq!(SCHEMA.migrate(&with("app")).await.unwrap(), 1);
    block_in_place(|| postgres.execute("GRANT mar_agent TO app")).unwrap();
    let refused = PostgresStore::connect(&with("other")).await;
    assert!(matches!(refused, Err(OpenError::Schema { found: 0, .. } | OpenError::Unavailable(_))), "{refused:?}");
    let store = PostgresStore::connect(&with("app")).await.unwrap();
    let one = sealed("one", 1);
    store.descriptor_put("acme", &one, at(1)).await.unwrap();
    assert!(store.descriptor_get("acme", one.hash).await.unwrap().is_some());
    // The owner is bound by the policy, too: force. So is it as the application.
    let mut owner = PgConnection::connect(&url("mar_owner")).await.unwrap();
    assert_eq!(count(&mut owner).await, 0);
    sqlx::query("SELECT set_config('mar.tenant', 'acme', false)").execute(&mut owner).await.unwrap();
    assert_eq!(
        refusal(
            &mut owner,
            "INSERT INTO agent.descriptors VALUES ('globex', decode(repeat('00', 32), 'hex'), 1, '', now())"
        )
        .await,
        DENIED
    );
    // Where one login is the owner and the application it takes the role on.
    let alone =
        PostgresStore::connect(&PostgresConfig { auto_migrate: true, ..config(&url("mar_owner")) }).await.unwrap();
    assert!(alone.descriptor_get("acme", one.hash).await.unwrap().is_some());
    assert_eq!(alone.descriptor_get("globex", one.hash).await.unwrap(), None);
}
