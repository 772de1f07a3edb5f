//! What callers stream in. The application may not remove it: a function of the retention role does, at its time.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::store::{
    BlobRow, BlobStore, Error, Finished, Opening, RequestKey, SESSION_OPEN, UploadRow, fault::Fault, timer::TimerKind,
};

use super::{
    PostgresStore,
    claims::millis,
    database::{Database, Tx},
    requests::{Request, take_in_tx},
    rows,
    sessions::lock_in_tx,
};

macro_rules! columns {
    () => {
        "id, sha256, media_type, size_bytes, create_time"
    };
}

const BLOBS: i16 = TimerKind::Blobs.number();

fn blob(row: &PgRow) -> Result<BlobRow, Fault> {
    Ok(BlobRow {
        id: row.try_get("id")?,
        sha256: rows::hash(row, "sha256")?,
        media_type: row.try_get("media_type")?,
        size_bytes: row.try_get("size_bytes")?,
        create_time: row.try_get("create_time")?,
    })
}

async fn begin(db: &Database, upload: &UploadRow, most_bytes: i64, patience: Duration) -> Result<Opening, Fault> {
    let mut tx = db.begin(&upload.tenant).await?;
    match lock_in_tx(&mut tx, &upload.tenant, upload.session).await? {
        Some(SESSION_OPEN) => {}
        other => return Ok(Opening::NotOpen(other)),
    }
    let query = tx.query_scalar(
        "SELECT coalesce(sum(size_bytes), 0)::bigint FROM session.uploads \
         WHERE tenant = $1 AND session = $2 AND id <> $3",
    );
    let query = query.bind(&upload.tenant).bind(upload.session).bind(upload.id);
    let used: i64 = query.fetch_one(&mut *tx).await?;
    if used.saturating_add(upload.size_bytes) > most_bytes {
        return Ok(Opening::Full(used));
    }
    let query = tx.query(
        "INSERT INTO session.uploads (tenant, id, session, sha256, media_type, size_bytes, expire_time) \
         VALUES ($1, $2, $3, $4, $5, $6, now() + $7 * interval '1 millisecond') ON CONFLICT (tenant, id) DO NOTHING",
    );
    let query = query.bind(&upload.tenant).bind(upload.id).bind(upload.session).bind(&upload.sha256[..]);
    query.bind(&upload.media_type).bind(upload.size_bytes).bind(millis(patience)).execute(&mut *tx).await?;
    wake_in_tx(&mut tx, &upload.tenant, upload.session, patience).await?;
    tx.commit().await?;
    Ok(Opening::Open)
}

/// Has the session's uploads be looked at after this time at the latest.
async fn wake_in_tx(tx: &mut Tx, tenant: &str, session: Uuid, span: Duration) -> Result<(), Fault> {
    let query = tx.query(
        "INSERT INTO session.timers AS t (session, kind, tenant, due_time) \
         VALUES ($1, $2, $3, now() + $4 * interval '1 millisecond') \
         ON CONFLICT (session, kind) DO UPDATE SET due_time = least(t.due_time, excluded.due_time)",
    );
    query.bind(session).bind(BLOBS).bind(tenant).bind(millis(span)).execute(&mut **tx).await?;
    Ok(())
}

async fn piece(db: &Database, tenant: &str, upload: Uuid, number: i32, content: &Bytes) -> Result<bool, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query_scalar(
        "SELECT EXISTS (SELECT FROM session.uploads \
         WHERE tenant = $1 AND id = $2 AND NOT complete AND expire_time > now())",
    );
    if !query.bind(tenant).bind(upload).fetch_one(&mut *tx).await? {
        tx.done().await?;
        return Ok(false);
    }
    let query = tx.query(
        "INSERT INTO session.upload_pieces (tenant, upload, number, content) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, upload, number) DO NOTHING",
    );
    query.bind(tenant).bind(upload).bind(number).bind(&content[..]).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

async fn finish(db: &Database, key: &RequestKey, upload: &UploadRow, keep: Duration) -> Result<Finished, Fault> {
    let mut tx = db.begin(&upload.tenant).await?;
    // Locked: of equal bytes one becomes whole.
    match lock_in_tx(&mut tx, &upload.tenant, upload.session).await? {
        Some(SESSION_OPEN) => {}
        other => return Ok(Finished::NotOpen(other)),
    }
    if matches!(take_in_tx(&mut tx, &upload.tenant, key, upload.session, upload.id).await?, Request::Reused) {
        return Ok(Finished::Reused);
    }
    let found = match get_in_tx(&mut tx, &upload.tenant, upload.session, &upload.sha256).await? {
        Some(found) => found,
        None => {
            let query = tx.query(concat!(
                "UPDATE session.uploads SET complete = true, create_time = now() \
                 WHERE tenant = $1 AND id = $2 AND expire_time > now() RETURNING ",
                columns!()
            ));
            let row = query.bind(&upload.tenant).bind(upload.id).fetch_optional(&mut *tx).await?;
            let Some(row) = row else { return Ok(Finished::Gone) };
            blob(&row)?
        }
    };
    let query = tx.query(
        "UPDATE session.uploads SET expire_time = now() + $3 * interval '1 millisecond' \
         WHERE tenant = $1 AND id = $2 AND expire_time IS NOT NULL",
    );
    query.bind(&upload.tenant).bind(found.id).bind(millis(keep)).execute(&mut *tx).await?;
    wake_in_tx(&mut tx, &upload.tenant, upload.session, keep).await?;
    tx.commit().await?;
    Ok(Finished::Done(found))
}

async fn abandon(db: &Database, tenant: &str, session: Uuid, upload: Uuid) -> Result<(), Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "UPDATE session.uploads SET expire_time = now() WHERE tenant = $1 AND id = $2 AND NOT complete \
         AND expire_time IS NOT NULL",
    );
    if query.bind(tenant).bind(upload).execute(&mut *tx).await?.rows_affected() > 0 {
        wake_in_tx(&mut tx, tenant, session, Duration::ZERO).await?;
    }
    Ok(tx.commit().await?)
}

async fn get_in_tx(tx: &mut Tx, tenant: &str, session: Uuid, sha256: &[u8; 32]) -> Result<Option<BlobRow>, Fault> {
    let query = tx.query(concat!(
        "SELECT ",
        columns!(),
        " FROM session.uploads WHERE tenant = $1 AND session = $2 AND sha256 = $3 AND complete \
         AND (expire_time IS NULL OR expire_time > now())"
    ));
    let row = query.bind(tenant).bind(session).bind(&sha256[..]).fetch_optional(&mut **tx).await?;
    row.as_ref().map(blob).transpose()
}

async fn get(db: &Database, tenant: &str, session: Uuid, sha256: &[u8; 32]) -> Result<Option<BlobRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let found = get_in_tx(&mut tx, tenant, session, sha256).await?;
    tx.done().await?;
    Ok(found)
}

async fn read(db: &Database, tenant: &str, id: Uuid, number: i32) -> Result<Option<Bytes>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query("SELECT content FROM session.upload_pieces WHERE tenant = $1 AND upload = $2 AND number = $3");
    let row = query.bind(tenant).bind(id).bind(number).fetch_optional(&mut *tx).await?;
    tx.done().await?;
    row.map(|row| Ok(Bytes::from(row.try_get::<Vec<u8>, _>("content")?))).transpose()
}

async fn keep(db: &Database, tenant: &str, session: Uuid, sha256: &[[u8; 32]]) -> Result<Vec<BlobRow>, Fault> {
    let wanted: Vec<&[u8]> = sha256.iter().map(|one| &one[..]).collect();
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "UPDATE session.uploads SET expire_time = NULL \
         WHERE tenant = $1 AND session = $2 AND sha256 = ANY ($3) AND complete AND expire_time > now()",
    );
    query.bind(tenant).bind(session).bind(&wanted).execute(&mut *tx).await?;
    let query = tx.query(concat!(
        "SELECT ",
        columns!(),
        " FROM session.uploads \
         WHERE tenant = $1 AND session = $2 AND sha256 = ANY ($3) AND complete AND expire_time IS NULL"
    ));
    let rows = query.bind(tenant).bind(session).bind(&wanted).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    rows.iter().map(blob).collect()
}

async fn expire(db: &Database, tenant: &str, session: Uuid) -> Result<(), Fault> {
    let mut tx = db.begin(tenant).await?;
    lock_in_tx(&mut tx, tenant, session).await?;
    tx.query("SELECT session.uploads_expire($1)").bind(session).execute(&mut *tx).await?;
    let query = tx.query(
        "UPDATE session.timers t SET due_time = next.due_time FROM ( \
           SELECT min(expire_time) AS due_time FROM session.uploads WHERE tenant = $1 AND session = $2) AS next \
         WHERE t.tenant = $1 AND t.session = $2 AND t.kind = $3 AND next.due_time IS NOT NULL",
    );
    let set = query.bind(tenant).bind(session).bind(BLOBS).execute(&mut *tx).await?.rows_affected();
    if set == 0 {
        let query = tx.query("DELETE FROM session.timers WHERE tenant = $1 AND session = $2 AND kind = $3");
        query.bind(tenant).bind(session).bind(BLOBS).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

#[async_trait]
impl BlobStore for PostgresStore {
    async fn blob_begin(&self, upload: &UploadRow, most_bytes: i64, patience: Duration) -> Result<Opening, Error> {
        self.db.call(|_| begin(&self.db, upload, most_bytes, patience)).await
    }

    async fn blob_piece(&self, tenant: &str, upload: Uuid, number: i32, content: &Bytes) -> Result<bool, Error> {
        self.db.call(|_| piece(&self.db, tenant, upload, number, content)).await
    }

    async fn blob_finish(&self, key: &RequestKey, upload: &UploadRow, keep: Duration) -> Result<Finished, Error> {
        self.db.call(|_| finish(&self.db, key, upload, keep)).await
    }

    async fn blob_abandon(&self, tenant: &str, session: Uuid, upload: Uuid) -> Result<(), Error> {
        self.db.call(|_| abandon(&self.db, tenant, session, upload)).await
    }

    async fn blob_get(&self, tenant: &str, session: Uuid, sha256: &[u8; 32]) -> Result<Option<BlobRow>, Error> {
        self.db.call(|_| get(&self.db, tenant, session, sha256)).await
    }

    async fn blob_read(&self, tenant: &str, blob: Uuid, number: i32) -> Result<Option<Bytes>, Error> {
        self.db.call(|_| read(&self.db, tenant, blob, number)).await
    }

    async fn blob_keep(&self, tenant: &str, session: Uuid, sha256: &[[u8; 32]]) -> Result<Vec<BlobRow>, Error> {
        self.db.call(|_| keep(&self.db, tenant, session, sha256)).await
    }

    async fn blob_expire(&self, tenant: &str, session: Uuid) -> Result<(), Error> {
        self.db.call(|_| expire(&self.db, tenant, session)).await
    }
}
