//! The full text index: SQLite FTS5 in memory.

use std::collections::BTreeSet;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};
use tokio::sync::Mutex;

use super::folder::{Folder, Listing};
use super::passages::{Document, split};
use super::query::{space, to_match};

const SCHEMA: [&str; 4] = [
    "CREATE TABLE documents (path TEXT PRIMARY KEY, title TEXT NOT NULL, passages INTEGER NOT NULL)",
    "CREATE TABLE passages (id INTEGER PRIMARY KEY, path TEXT NOT NULL, n INTEGER NOT NULL, text TEXT NOT NULL)",
    "CREATE INDEX passages_path ON passages (path)",
    "CREATE VIRTUAL TABLE words USING fts5(title, heading, body, content='', contentless_delete=1, \
     tokenize='porter unicode61 remove_diacritics 2', prefix='4 5 6')",
];

/// A document's title counts eight times, a passage's heading three times as much as its text.
const FIND: &str = "SELECT p.path, p.n, p.text, d.title, -bm25(words, 8.0, 3.0, 1.0) AS score \
     FROM words JOIN passages p ON p.id = words.rowid JOIN documents d ON d.path = p.path \
     WHERE words MATCH ?1 ORDER BY score DESC, p.path, p.n LIMIT ?2";

/// A passage that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The document's path below the folder.
    pub path: String,
    /// The document's title.
    pub title: String,
    /// The passage's number within it, from 1.
    pub n: i64,
    /// Its text.
    pub text: String,
    /// Higher is better; comparable within one query only.
    pub score: f64,
}

/// A document of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the folder.
    pub path: String,
    /// Its title.
    pub title: String,
    /// How many passages it has.
    pub passages: i64,
}

/// The index of one folder.
#[derive(Debug)]
pub struct Index {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: SqliteConnection,
    listing: Listing,
}

impl Index {
    /// An empty index.
    ///
    /// # Errors
    /// SQLite cannot make it.
    pub async fn open() -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new().in_memory(true);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        for statement in SCHEMA {
            sqlx::raw_sql(statement).execute(&mut connection).await?;
        }
        Ok(Self { inner: Mutex::new(Inner { connection, listing: Listing::new() }) })
    }

    /// Takes in what has changed since the last listing, all or nothing. Says how many documents changed.
    ///
    /// # Errors
    /// SQLite fails. A document that cannot be read is taken out and looked at again the next time.
    pub async fn update(&self, folder: &Folder, mut listing: Listing) -> Result<usize, sqlx::Error> {
        let changed: BTreeSet<String> = {
            let inner = self.inner.lock().await;
            let gone = inner.listing.keys().filter(|path| !listing.contains_key(*path));
            let new = listing.iter().filter(|(path, stamp)| inner.listing.get(*path) != Some(stamp));
            gone.chain(new.map(|(path, _)| path)).cloned().collect()
        };
        if changed.is_empty() {
            return Ok(0);
        }
        // Files are read before the lock is taken, so a search waits for the writing alone.
        let mut documents = Vec::new();
        for path in changed.iter().filter(|path| listing.contains_key(*path)) {
            match read(folder.clone(), path.clone()).await {
                Ok(document) => documents.push((path.clone(), document)),
                Err(error) => tracing::debug!(search.document = %path, %error, "document left out"),
            }
        }
        listing.retain(|path, _| !changed.contains(path) || documents.iter().any(|(read, _)| read == path));
        let mut inner = self.inner.lock().await;
        let mut transaction = inner.connection.begin().await?;
        for path in &changed {
            remove(&mut transaction, path).await?;
        }
        for (path, document) in &documents {
            insert(&mut transaction, path, document).await?;
        }
        transaction.commit().await?;
        inner.listing = listing;
        Ok(changed.len())
    }

    /// The passages that fit best.
    ///
    /// # Errors
    /// SQLite fails.
    pub async fn find(&self, query: &str, limit: i64) -> Result<Vec<Hit>, sqlx::Error> {
        let Some(expression) = to_match(query) else { return Ok(Vec::new()) };
        let mut inner = self.inner.lock().await;
        let rows = sqlx::query(FIND).bind(expression).bind(limit).fetch_all(&mut inner.connection).await?;
        rows.iter()
            .map(|row| {
                Ok(Hit {
                    path: row.try_get(0)?,
                    n: row.try_get(1)?,
                    text: row.try_get(2)?,
                    title: row.try_get(3)?,
                    score: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// Documents in the order of their paths, after `after`.
    ///
    /// # Errors
    /// SQLite fails.
    pub async fn documents(&self, after: &str, limit: i64) -> Result<Vec<Entry>, sqlx::Error> {
        let mut inner = self.inner.lock().await;
        let rows = sqlx::query("SELECT path, title, passages FROM documents WHERE path > ?1 ORDER BY path LIMIT ?2")
            .bind(after)
            .bind(limit)
            .fetch_all(&mut inner.connection)
            .await?;
        rows.iter()
            .map(|row| Ok(Entry { path: row.try_get(0)?, title: row.try_get(1)?, passages: row.try_get(2)? }))
            .collect()
    }

    /// How many documents there are.
    ///
    /// # Errors
    /// SQLite fails.
    pub async fn count(&self) -> Result<i64, sqlx::Error> {
        let mut inner = self.inner.lock().await;
        sqlx::query_scalar("SELECT count(*) FROM documents").fetch_one(&mut inner.connection).await
    }
}

async fn read(folder: Folder, path: String) -> std::io::Result<Document> {
    let work = move || folder.read(&path).map(|content| split(&path, &content));
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

async fn remove(connection: &mut SqliteConnection, path: &str) -> Result<(), sqlx::Error> {
    for statement in [
        "DELETE FROM words WHERE rowid IN (SELECT id FROM passages WHERE path = ?1)",
        "DELETE FROM passages WHERE path = ?1",
        "DELETE FROM documents WHERE path = ?1",
    ] {
        sqlx::query(statement).bind(path).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn insert(connection: &mut SqliteConnection, path: &str, document: &Document) -> Result<(), sqlx::Error> {
    let count = i64::try_from(document.passages.len()).unwrap_or(i64::MAX);
    sqlx::query("INSERT INTO documents (path, title, passages) VALUES (?1, ?2, ?3)")
        .bind(path)
        .bind(&document.title)
        .bind(count)
        .execute(&mut *connection)
        .await?;
    for (n, passage) in (1_i64..).zip(&document.passages) {
        let id = sqlx::query("INSERT INTO passages (path, n, text) VALUES (?1, ?2, ?3)")
            .bind(path)
            .bind(n)
            .bind(&passage.text)
            .execute(&mut *connection)
            .await?
            .last_insert_rowid();
        sqlx::query("INSERT INTO words (rowid, title, heading, body) VALUES (?1, ?2, ?3, ?4)")
            .bind(id)
            .bind(space(&document.title))
            .bind(space(&passage.heading))
            .bind(space(&passage.text))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
