//! The rows of session's store, changed without session: as the owner of the file, or as the superuser of the server.

use std::time::Duration;

use anyhow::ensure;
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
