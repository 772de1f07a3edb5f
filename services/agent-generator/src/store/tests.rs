//! The contract, over both implementations.

use std::sync::Arc;

use mar_descriptor::{Descriptor, SigningKey, seal};

use super::*;

fn sealed(purpose: &str, seed: u8) -> SealedDescriptor {
    let mut descriptor = Descriptor::default();
    descriptor.metadata.purpose = purpose.to_owned();
    seal(&descriptor, &SigningKey::from_seed(&[seed; 32])).unwrap()
}

fn at(micros: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).unwrap()
}

async fn contract(store: Arc<dyn Store>) {
    store.ping().await.unwrap();
    let first = sealed("one", 1);
    assert_eq!(store.descriptor_get("acme", first.hash).await.unwrap(), None);
    store.descriptor_put("acme", &first, at(1_700_000_000_000_001)).await.unwrap();
    store.descriptor_put("acme", &first, at(1_800_000_000_000_000)).await.unwrap();
    let stored = store.descriptor_get("acme", first.hash).await.unwrap().unwrap();
    assert_eq!(stored, Stored { descriptor: first.clone(), create_time: at(1_700_000_000_000_001) });

    // A rotated key takes over and the first time stays.
    let resealed = sealed("one", 2);
    assert_eq!(resealed.hash, first.hash);
    store.descriptor_put("acme", &resealed, at(1_900_000_000_000_000)).await.unwrap();
    let stored = store.descriptor_get("acme", first.hash).await.unwrap().unwrap();
    assert_eq!(stored, Stored { descriptor: resealed, create_time: at(1_700_000_000_000_001) });

    // Tenants do not see each other's.
    assert_eq!(store.descriptor_get("other", first.hash).await.unwrap(), None);
    store.descriptor_put("other", &first, at(5)).await.unwrap();
    assert_eq!(store.descriptor_get("other", first.hash).await.unwrap().unwrap().create_time, at(5));
    assert_eq!(store.descriptor_get("acme", sealed("two", 1).hash).await.unwrap(), None);

    let same: Vec<_> = (0..8).map(|_| store.descriptor_put("acme", &first, at(7))).collect();
    for outcome in futures::future::join_all(same).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    contract(Arc::new(SqliteStore::open(&path).await.unwrap())).await;
    let again = SqliteStore::open(&path).await.unwrap();
    assert!(again.descriptor_get("acme", sealed("one", 1).hash).await.unwrap().is_some());
    again.close().await;
    assert!(matches!(again.ping().await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn sqlite_refuses_what_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    std::fs::write(&path, "not a database, but long enough to look at".repeat(50)).unwrap();
    assert!(SqliteStore::open(&path).await.is_err());
    assert!(SqliteStore::open(&folder.path().join("none/agent.db")).await.is_err());
}

#[tokio::test]
async fn a_changed_row_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("agent.db")).await.unwrap();
    let (one, two) = (sealed("one", 1), sealed("two", 1));
    store.descriptor_put("acme", &one, at(1)).await.unwrap();
    for envelope in [two.to_envelope().unwrap(), "{}".to_owned()] {
        sqlx::query("UPDATE descriptors SET envelope = ?").bind(envelope).execute(&store.writer).await.unwrap();
        assert!(matches!(store.descriptor_get("acme", one.hash).await, Err(Error::Corrupt(_))));
    }
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let database =
        tokio::task::spawn_blocking(|| mar_testkit::postgres::Postgres::shared().unwrap().database().unwrap());
    let database = database.await.unwrap();
    let url = secrecy::SecretString::from(database.to_string());
    let open = || PostgresStore::connect(&url, 4);
    // Two replicas may start at once.
    let (one, two) = futures::future::join(open(), open()).await;
    contract(Arc::new(one.unwrap())).await;
    let two = two.unwrap();
    assert!(two.descriptor_get("acme", sealed("one", 1).hash).await.unwrap().is_some());
    two.close().await;
    assert!(matches!(two.ping().await, Err(Error::Unavailable(_))));
}
