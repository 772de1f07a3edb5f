//! The store in a file.

use std::{path::Path, sync::Arc};

use mar_session::store::{Append, OpenError, Store, sqlite::SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tempfile::TempDir;

use crate::rows::{Behind, Subject, TENANT, hooked};

async fn open() -> Subject {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("sessions.db");
    let store = Arc::new(SqliteStore::open(&path).await.unwrap());
    store.hook(&hooked()).await.unwrap();
    subject(store, &path, directory)
}

fn subject(store: Arc<SqliteStore>, path: &Path, keep: impl Send + Sync + 'static) -> Subject {
    let behind =
        SqlitePoolOptions::new().max_connections(1).connect_lazy_with(SqliteConnectOptions::new().filename(path));
    Subject { store, behind: Behind::Sqlite(behind), _keep: Box::new(keep) }
}

store_suite!(open);

#[tokio::test(flavor = "multi_thread")]
async fn a_second_opener_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/down/sessions.db");
    let first = SqliteStore::open(&path).await.unwrap();
    let second = SqliteStore::open(&path).await.unwrap_err();
    assert!(matches!(&second, OpenError::InUse(used) if *used == path), "{second:?}");
    assert_eq!(second.to_string(), format!("{} is in use by another process", path.display()));
    first.ping().await.unwrap();
    first.close().await;
    drop(first);
    SqliteStore::open(&path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_survives() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("sessions.db");
    let store = Arc::new(SqliteStore::open(&path).await.unwrap());
    let subject = subject(Arc::clone(&store), &path, ());
    let (run, mut log) = subject.admitted().await;
    let events = [log.next(b"one"), log.next_with(b"two", Some(vec![3; 50_000].into()))];
    subject.append(&run, &events).await;
    store.close().await;
    drop((subject, store));

    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.run_get(TENANT, run.id).await.unwrap(), Some(run.clone()));
    assert_eq!(store.event_read(TENANT, run.id, 1, 10, usize::MAX).await.unwrap(), events);
    assert_eq!(store.event_append(TENANT, run.session, run.id, &[log.next(b"three")]).await.unwrap(), Append::Done);
    assert_eq!(store.session_log(TENANT, run.session).await.unwrap().len(), 2);
    assert_eq!(crate::claims(store.run_claim("replica-2", 1, 10, crate::PATIENCE).await.unwrap()), [(run, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("sessions.db");
    std::fs::write(&path, vec![7; 10_000]).unwrap();
    assert!(SqliteStore::open(&path).await.is_err());
    assert!(matches!(SqliteStore::open(directory.path().join("sessions.db/below")).await, Err(OpenError::File { .. })));
}
