//! What callers stream in.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use uuid::Uuid;

use crate::store::{
    BlobRow, BlobStore, Error, Finished, Opening, RequestKey, SESSION_OPEN, UploadRow, fault::Fault, timer::TimerKind,
};

use super::{
    SqliteStore, answer,
    requests::{Request, take_in_tx},
    rows::{self, now},
    sessions::state_in_tx,
    timers::micros,
};

macro_rules! columns {
    () => {
        "id, sha256, media_type, size_bytes, create_time"
    };
}

const BLOBS: i16 = TimerKind::Blobs.number();

fn blob(row: &SqliteRow) -> Result<BlobRow, Fault> {
    Ok(BlobRow {
        id: row.try_get("id")?,
        sha256: rows::hash(row, "sha256")?,
        media_type: row.try_get("media_type")?,
        size_bytes: row.try_get("size_bytes")?,
        create_time: rows::time(row, "create_time")?,
    })
}

async fn begin(pool: &SqlitePool, upload: &UploadRow, most_bytes: i64, patience: Duration) -> Result<Opening, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    match state_in_tx(&mut tx, &upload.tenant, upload.session).await? {
        Some(SESSION_OPEN) => {}
        other => return Ok(Opening::NotOpen(other)),
    }
    let query = sqlx::query_scalar(
        "SELECT coalesce(sum(size_bytes), 0) FROM uploads WHERE tenant = $1 AND session = $2 AND id <> $3",
    );
    let query = query.bind(&upload.tenant).bind(upload.session).bind(upload.id);
    let used: i64 = query.fetch_one(&mut *tx).await?;
    if used.saturating_add(upload.size_bytes) > most_bytes {
        return Ok(Opening::Full(used));
    }
    let query = sqlx::query(concat!(
        "INSERT INTO uploads (tenant, id, session, sha256, media_type, size_bytes, expire_time) \
         VALUES ($1, $2, $3, $4, $5, $6, ",
        now!(),
        " + $7) ON CONFLICT (tenant, id) DO NOTHING"
    ));
    let query = query.bind(&upload.tenant).bind(upload.id).bind(upload.session).bind(&upload.sha256[..]);
    query.bind(&upload.media_type).bind(upload.size_bytes).bind(micros(patience)).execute(&mut *tx).await?;
    wake_in_tx(&mut tx, &upload.tenant, upload.session, patience).await?;
    tx.commit().await?;
    Ok(Opening::Open)
}

/// Has the session's uploads be looked at after this time at the latest.
async fn wake_in_tx(tx: &mut SqliteConnection, tenant: &str, session: Uuid, span: Duration) -> Result<(), Fault> {
    let query = sqlx::query(concat!(
        "INSERT INTO timers (session, kind, tenant, due_time) VALUES ($1, $2, $3, ",
        now!(),
        " + $4) ON CONFLICT (session, kind) DO UPDATE SET due_time = min(due_time, excluded.due_time)"
    ));
    query.bind(session).bind(BLOBS).bind(tenant).bind(micros(span)).execute(tx).await?;
    Ok(())
}

async fn piece(pool: &SqlitePool, tenant: &str, upload: Uuid, number: i32, content: &Bytes) -> Result<bool, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let query = sqlx::query_scalar(concat!(
        "SELECT EXISTS (SELECT 1 FROM uploads WHERE tenant = $1 AND id = $2 AND NOT complete AND expire_time > ",
        now!(),
        ")"
    ));
    if !query.bind(tenant).bind(upload).fetch_one(&mut *tx).await? {
        return Ok(false);
    }
    let query = sqlx::query(
        "INSERT INTO upload_pieces (tenant, upload, number, content) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, upload, number) DO NOTHING",
    );
    query.bind(tenant).bind(upload).bind(number).bind(&content[..]).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

async fn finish(pool: &SqlitePool, key: &RequestKey, upload: &UploadRow, keep: Duration) -> Result<Finished, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    match state_in_tx(&mut tx, &upload.tenant, upload.session).await? {
        Some(SESSION_OPEN) => {}
        other => return Ok(Finished::NotOpen(other)),
    }
    if matches!(take_in_tx(&mut tx, &upload.tenant, key, upload.session, upload.id).await?, Request::Reused) {
        return Ok(Finished::Reused);
    }
    let found = match get_in_tx(&mut tx, &upload.tenant, upload.session, &upload.sha256).await? {
        Some(found) => found,
        None => {
            let query = sqlx::query(concat!(
                "UPDATE uploads SET complete = 1, create_time = ",
                now!(),
                " WHERE tenant = $1 AND id = $2 AND expire_time > ",
                now!(),
                " RETURNING ",
                columns!()
            ));
            let row = query.bind(&upload.tenant).bind(upload.id).fetch_optional(&mut *tx).await?;
            let Some(row) = row else { return Ok(Finished::Gone) };
            blob(&row)?
        }
    };
    let query = sqlx::query(concat!(
        "UPDATE uploads SET expire_time = ",
        now!(),
        " + $3 WHERE tenant = $1 AND id = $2 AND expire_time IS NOT NULL"
    ));
    query.bind(&upload.tenant).bind(found.id).bind(micros(keep)).execute(&mut *tx).await?;
    wake_in_tx(&mut tx, &upload.tenant, upload.session, keep).await?;
    tx.commit().await?;
    Ok(Finished::Done(found))
}

async fn abandon(pool: &SqlitePool, tenant: &str, session: Uuid, upload: Uuid) -> Result<(), Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let query = sqlx::query(concat!(
        "UPDATE uploads SET expire_time = ",
        now!(),
        " WHERE tenant = $1 AND id = $2 AND NOT complete AND expire_time IS NOT NULL"
    ));
    if query.bind(tenant).bind(upload).execute(&mut *tx).await?.rows_affected() > 0 {
        wake_in_tx(&mut tx, tenant, session, Duration::ZERO).await?;
    }
    Ok(tx.commit().await?)
}

async fn get_in_tx(
    tx: &mut SqliteConnection,
    tenant: &str,
    session: Uuid,
    sha256: &[u8; 32],
) -> Result<Option<BlobRow>, Fault> {
    let query = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM uploads WHERE tenant = $1 AND session = $2 AND sha256 = $3 AND complete \
         AND (expire_time IS NULL OR expire_time > ",
        now!(),
        ")"
    ));
    let row = query.bind(tenant).bind(session).bind(&sha256[..]).fetch_optional(tx).await?;
    row.as_ref().map(blob).transpose()
}

async fn get(pool: &SqlitePool, tenant: &str, session: Uuid, sha256: &[u8; 32]) -> Result<Option<BlobRow>, Fault> {
    get_in_tx(&mut *pool.acquire().await?, tenant, session, sha256).await
}

async fn read(pool: &SqlitePool, tenant: &str, id: Uuid, number: i32) -> Result<Option<Bytes>, Fault> {
    let query = sqlx::query("SELECT content FROM upload_pieces WHERE tenant = $1 AND upload = $2 AND number = $3");
    let row = query.bind(tenant).bind(id).bind(number).fetch_optional(pool).await?;
    row.map(|row| Ok(Bytes::from(row.try_get::<Vec<u8>, _>("content")?))).transpose()
}

async fn keep(pool: &SqlitePool, tenant: &str, session: Uuid, sha256: &[[u8; 32]]) -> Result<Vec<BlobRow>, Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let mut found = Vec::new();
    for one in sha256 {
        let Some(blob) = get_in_tx(&mut tx, tenant, session, one).await? else { continue };
        let query = sqlx::query("UPDATE uploads SET expire_time = NULL WHERE tenant = $1 AND id = $2");
        query.bind(tenant).bind(blob.id).execute(&mut *tx).await?;
        if !found.contains(&blob) {
            found.push(blob);
        }
    }
    tx.commit().await?;
    Ok(found)
}

async fn expire(pool: &SqlitePool, tenant: &str, session: Uuid) -> Result<(), Fault> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    for sql in [
        concat!(
            "DELETE FROM upload_pieces WHERE tenant = $1 AND upload IN \
             (SELECT id FROM uploads WHERE tenant = $1 AND session = $2 AND expire_time <= ",
            now!(),
            ")"
        ),
        concat!(
            "DELETE FROM uploads WHERE tenant = $1 AND session = $2 AND expire_time <= ",
            now!(),
            " AND NOT EXISTS (SELECT 1 FROM upload_pieces WHERE tenant = $1 AND upload = uploads.id)"
        ),
    ] {
        sqlx::query(sql).bind(tenant).bind(session).execute(&mut *tx).await?;
    }
    let query = sqlx::query_scalar("SELECT min(expire_time) FROM uploads WHERE tenant = $1 AND session = $2");
    let next: Option<i64> = query.bind(tenant).bind(session).fetch_one(&mut *tx).await?;
    let query = match next {
        Some(next) => sqlx::query("UPDATE timers SET due_time = $4 WHERE tenant = $1 AND session = $2 AND kind = $3")
            .bind(tenant)
            .bind(session)
            .bind(BLOBS)
            .bind(next),
        None => sqlx::query("DELETE FROM timers WHERE tenant = $1 AND session = $2 AND kind = $3")
            .bind(tenant)
            .bind(session)
            .bind(BLOBS),
    };
    query.execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

#[async_trait]
impl BlobStore for SqliteStore {
    async fn blob_begin(&self, upload: &UploadRow, most_bytes: i64, patience: Duration) -> Result<Opening, Error> {
        answer(begin(&self.writer, upload, most_bytes, patience).await)
    }

    async fn blob_piece(&self, tenant: &str, upload: Uuid, number: i32, content: &Bytes) -> Result<bool, Error> {
        answer(piece(&self.writer, tenant, upload, number, content).await)
    }

    async fn blob_finish(&self, key: &RequestKey, upload: &UploadRow, keep: Duration) -> Result<Finished, Error> {
        answer(finish(&self.writer, key, upload, keep).await)
    }

    async fn blob_abandon(&self, tenant: &str, session: Uuid, upload: Uuid) -> Result<(), Error> {
        answer(abandon(&self.writer, tenant, session, upload).await)
    }

    async fn blob_get(&self, tenant: &str, session: Uuid, sha256: &[u8; 32]) -> Result<Option<BlobRow>, Error> {
        answer(get(&self.readers, tenant, session, sha256).await)
    }

    async fn blob_read(&self, tenant: &str, blob: Uuid, number: i32) -> Result<Option<Bytes>, Error> {
        answer(read(&self.readers, tenant, blob, number).await)
    }

    async fn blob_keep(&self, tenant: &str, session: Uuid, sha256: &[[u8; 32]]) -> Result<Vec<BlobRow>, Error> {
        answer(keep(&self.writer, tenant, session, sha256).await)
    }

    async fn blob_expire(&self, tenant: &str, session: Uuid) -> Result<(), Error> {
        answer(expire(&self.writer, tenant, session).await)
    }
}
