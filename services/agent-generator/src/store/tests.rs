//! The contract, over both implementations.

use std::sync::Arc;

use mar_descriptor::{Descriptor, SigningKey, seal};

use super::*;

mod postgres;
mod roles;

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

    // Also one that has sealed it before.
    store.descriptor_put("acme", &first, at(1_950_000_000_000_000)).await.unwrap();
    let stored = store.descriptor_get("acme", first.hash).await.unwrap().unwrap();
    assert_eq!(stored, Stored { descriptor: first.clone(), create_time: at(1_700_000_000_000_001) });

    // Tenants do not see each other's.
    assert_eq!(store.descriptor_get("other", first.hash).await.unwrap(), None);
    store.descriptor_put("other", &first, at(5)).await.unwrap();
    assert_eq!(store.descriptor_get("other", first.hash).await.unwrap().unwrap().create_time, at(5));
    assert_eq!(store.descriptor_get("acme", sealed("two", 1).hash).await.unwrap(), None);

    // Of several that seal at a time one is the last, and all are stored without an error.
    let keys: Vec<_> = (0..16).map(|number| sealed("one", number % 4)).collect();
    let puts = keys.iter().map(|sealed| store.descriptor_put("acme", sealed, at(7)));
    for outcome in futures::future::join_all(puts).await {
        outcome.unwrap();
    }
    let stored = store.descriptor_get("acme", first.hash).await.unwrap().unwrap();
    assert!(keys.contains(&stored.descriptor));
    assert_eq!(stored.create_time, at(1_700_000_000_000_001));

    // Many at a time, of two tenants, each with its own.
    let many: Vec<_> = (0..40).map(|number| sealed(&format!("many {number}"), 1)).collect();
    let puts = many.iter().enumerate().map(|(number, sealed)| {
        let tenant = if number % 2 == 0 { "acme" } else { "other" };
        let store = Arc::clone(&store);
        async move {
            store.descriptor_put(tenant, sealed, at(9)).await.unwrap();
            let own = store.descriptor_get(tenant, sealed.hash).await.unwrap().unwrap();
            assert_eq!(own, Stored { descriptor: sealed.clone(), create_time: at(9) });
            let foreign = if number % 2 == 0 { "other" } else { "acme" };
            assert_eq!(store.descriptor_get(foreign, sealed.hash).await.unwrap(), None);
        }
    });
    futures::future::join_all(puts).await;
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
