//! The rows of session's store, changed without session: as the owner of the file, or as the superuser of the server.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};
use uuid::Uuid;

/// A connection around the runtime.
pub enum Rows {
    File(SqlitePool),
    Server(PgPool),
}

/// The same statement on both; tables are written `{}name`.
macro_rules! on_both {
    ($rows:expr, $sql:expr, |$query:ident, $pool:ident| $run:expr) => {
        match $rows {
            Rows::File($pool) => {
                let $query = AssertSqlSafe($sql.replace("{}", ""));
                $run
            }
            Rows::Server($pool) => {
                let $query = AssertSqlSafe($sql.replace("{}", "session."));
                $run
            }
        }
    };
}

impl Rows {
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
            return Ok(Self::File(SqlitePoolOptions::new().max_connections(1).connect_with(options).await?));
        }
        Ok(Self::Server(PgPool::connect(url).await?))
    }

    pub async fn events(&self, run: Uuid) -> anyhow::Result<i64> {
        let sql = "SELECT count(*) FROM {}events WHERE run_id = $1";
        Ok(on_both!(self, sql, |query, pool| sqlx::query_scalar(query).bind(run).fetch_one(pool).await?))
    }

    pub async fn event(&self, run: Uuid, seq: i64, column: &str) -> anyhow::Result<Vec<u8>> {
        let sql = format!("SELECT {column} FROM {{}}events WHERE run_id = $1 AND seq = $2");
        Ok(on_both!(self, sql, |query, pool| sqlx::query_scalar(query).bind(run).bind(seq).fetch_one(pool).await?))
    }

    pub async fn set_event(&self, run: Uuid, seq: i64, column: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let sql = format!("UPDATE {{}}events SET {column} = $3 WHERE run_id = $1 AND seq = $2");
        let changed = on_both!(self, sql, |query, pool| {
            sqlx::query(query).bind(run).bind(seq).bind(bytes).execute(pool).await?.rows_affected()
        });
        one(changed)
    }

    pub async fn clear_payload(&self, run: Uuid, seq: i64) -> anyhow::Result<()> {
        let sql = "UPDATE {}events SET content = NULL, blob_sha256 = NULL WHERE run_id = $1 AND seq = $2";
        one(on_both!(self, sql, |query, pool| {
            sqlx::query(query).bind(run).bind(seq).execute(pool).await?.rows_affected()
        }))
    }

    pub async fn move_event(&self, run: Uuid, seq: i64, to: i64) -> anyhow::Result<()> {
        let sql = "UPDATE {}events SET seq = $3 WHERE run_id = $1 AND seq = $2";
        one(on_both!(self, sql, |query, pool| {
            sqlx::query(query).bind(run).bind(seq).bind(to).execute(pool).await?.rows_affected()
        }))
    }

    pub async fn remove_event(&self, run: Uuid, seq: i64) -> anyhow::Result<()> {
        let sql = "DELETE FROM {}events WHERE run_id = $1 AND seq = $2";
        // One that was removed before is as good.
        let removed = on_both!(self, sql, |query, pool| {
            sqlx::query(query).bind(run).bind(seq).execute(pool).await?.rows_affected()
        });
        ensure!(removed <= 1, "{removed} events were removed");
        Ok(())
    }

    pub async fn summary(&self, run: Uuid) -> anyhow::Result<Vec<u8>> {
        let sql = "SELECT summary FROM {}runs WHERE id = $1";
        Ok(on_both!(self, sql, |query, pool| sqlx::query_scalar(query).bind(run).fetch_one(pool).await?))
    }

    pub async fn set_summary(&self, run: Uuid, bytes: &[u8]) -> anyhow::Result<()> {
        let sql = "UPDATE {}runs SET summary = $2 WHERE id = $1";
        one(on_both!(self, sql, |query, pool| {
            sqlx::query(query).bind(run).bind(bytes).execute(pool).await?.rows_affected()
        }))
    }

    pub async fn session_body(&self, session: Uuid) -> anyhow::Result<Vec<u8>> {
        let sql = "SELECT body FROM {}sessions WHERE id = $1";
        Ok(on_both!(self, sql, |query, pool| sqlx::query_scalar(query).bind(session).fetch_one(pool).await?))
    }

    pub async fn set_session_body(&self, session: Uuid, bytes: &[u8]) -> anyhow::Result<()> {
        let sql = "UPDATE {}sessions SET body = $2 WHERE id = $1";
        one(on_both!(self, sql, |query, pool| {
            sqlx::query(query).bind(session).bind(bytes).execute(pool).await?.rows_affected()
        }))
    }

    /// What the role that session writes as is answered when it changes what it has written: a statement each.
    pub async fn refusals(&self, tenant: &str, run: Uuid) -> anyhow::Result<Vec<String>> {
        let Self::Server(pool) = self else { return Ok(Vec::new()) };
        let mut codes = Vec::new();
        for sql in [
            "UPDATE session.events SET leaf = leaf WHERE run_id = $1",
            "UPDATE session.events SET content = NULL WHERE run_id = $1",
            "DELETE FROM session.events WHERE run_id = $1",
            "UPDATE session.session_log SET run_hash = run_hash WHERE run = $1",
            "DELETE FROM session.session_log WHERE run = $1",
            "DELETE FROM session.runs WHERE id = $1",
        ] {
            let mut tx = pool.begin().await?;
            sqlx::query("SET LOCAL ROLE mar_session").execute(&mut *tx).await?;
            sqlx::query("SELECT set_config('mar.tenant', $1, true)").bind(tenant).execute(&mut *tx).await?;
            let refused = sqlx::query(sql).bind(run).execute(&mut *tx).await.err();
            let refused = refused.with_context(|| format!("{sql} was let through"))?;
            codes.push(refused.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned());
        }
        Ok(codes)
    }

    /// Whether anything that is stored of a session holds this text.
    pub async fn holds(&self, text: &str, session: Uuid) -> anyhow::Result<bool> {
        let mut columns = Vec::new();
        for (table, column, key) in [
            ("events", "content", "run_id IN (SELECT id FROM {}runs WHERE session = $1)"),
            ("events", "leaf", "run_id IN (SELECT id FROM {}runs WHERE session = $1)"),
            ("blobs", "content", "session = $1"),
            ("runs", "summary", "session = $1"),
            ("runs", "caller", "session = $1"),
            ("approvals", "body", "session = $1"),
            ("sessions", "body", "id = $1"),
        ] {
            let sql = format!("SELECT {column} FROM {{}}{table} WHERE {key} AND {column} IS NOT NULL");
            let found: Vec<Vec<u8>> =
                on_both!(self, sql, |query, pool| sqlx::query_scalar(query).bind(session).fetch_all(pool).await?);
            columns.extend(found);
        }
        Ok(columns.iter().any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes())))
    }

    pub async fn session_state(&self, session: Uuid) -> anyhow::Result<i16> {
        let sql = "SELECT state FROM {}sessions WHERE id = $1";
        Ok(on_both!(self, sql, |query, pool| sqlx::query_scalar(query).bind(session).fetch_one(pool).await?))
    }

    /// The kinds of a session log's entries.
    pub async fn session_log(&self, session: Uuid) -> anyhow::Result<Vec<String>> {
        let sql = "SELECT kind FROM {}session_log WHERE session = $1 ORDER BY seq";
        Ok(on_both!(self, sql, |query, pool| sqlx::query_scalar(query).bind(session).fetch_all(pool).await?))
    }

    /// Uploads of a session, whole or under way.
    pub async fn uploads(&self, session: Uuid) -> anyhow::Result<i64> {
        let sql = "SELECT count(*) FROM {}uploads WHERE session = $1";
        Ok(on_both!(self, sql, |query, pool| sqlx::query_scalar(query).bind(session).fetch_one(pool).await?))
    }

    /// Pieces of all uploads.
    pub async fn upload_pieces(&self) -> anyhow::Result<i64> {
        let sql = "SELECT count(*) FROM {}upload_pieces";
        Ok(on_both!(self, sql, |query, pool| sqlx::query_scalar(query).fetch_one(pool).await?))
    }

    /// Lets the time come at which what is streamed into a session goes, unless it is kept, and the session's timers'.
    pub async fn make_uploads_due(&self, session: Uuid) -> anyhow::Result<()> {
        match self {
            Self::File(pool) => {
                let sql = "UPDATE uploads SET expire_time = 1 WHERE session = $1 AND expire_time IS NOT NULL";
                sqlx::query(sql).bind(session).execute(pool).await.map(drop)?;
            }
            Self::Server(pool) => {
                let sql =
                    "UPDATE session.uploads SET expire_time = now() WHERE session = $1 AND expire_time IS NOT NULL";
                sqlx::query(sql).bind(session).execute(pool).await.map(drop)?;
            }
        }
        self.make_timers_due().await
    }

    /// Lets the time of every timer come.
    pub async fn make_timers_due(&self) -> anyhow::Result<()> {
        match self {
            Self::File(pool) => sqlx::query("UPDATE timers SET due_time = 1").execute(pool).await.map(drop)?,
            Self::Server(pool) => {
                let sql = "UPDATE session.timers SET due_time = now() - interval '1 second'";
                sqlx::query(sql).execute(pool).await.map(drop)?;
            }
        }
        Ok(())
    }

    /// Lets the time of everything that hooks are to be told come.
    pub async fn make_hooks_due(&self) -> anyhow::Result<()> {
        match self {
            Self::File(pool) => {
                let sql = "UPDATE hooks SET due_time = 1 WHERE due_time IS NOT NULL";
                sqlx::query(sql).execute(pool).await.map(drop)?;
            }
            Self::Server(pool) => {
                let sql = "UPDATE session.hooks SET due_time = now() WHERE due_time IS NOT NULL";
                sqlx::query(sql).execute(pool).await.map(drop)?;
            }
        }
        Ok(())
    }

    /// A hash that the schema would not let in.
    pub async fn break_hash(&self, run: Uuid, seq: i64) -> anyhow::Result<()> {
        match self {
            Self::File(pool) => sqlx::query("PRAGMA ignore_check_constraints = on").execute(pool).await.map(drop)?,
            Self::Server(pool) => {
                let sql = "ALTER TABLE session.events DROP CONSTRAINT events_hash_check";
                sqlx::query(sql).execute(pool).await.map(drop)?;
            }
        }
        self.set_event(run, seq, "hash", b"short").await
    }

    /// Another hash in the entry of this kind about a run.
    pub async fn change_log(&self, run: Uuid, kind: &str, hash: &[u8]) -> anyhow::Result<()> {
        let sql = "UPDATE {}session_log SET run_hash = $3 WHERE run = $1 AND kind = $2";
        one(on_both!(self, sql, |query, pool| {
            sqlx::query(query).bind(run).bind(kind).bind(hash).execute(pool).await?.rows_affected()
        }))
    }
}

fn one(changed: u64) -> anyhow::Result<()> {
    ensure!(changed == 1, "{changed} rows were changed");
    Ok(())
}
