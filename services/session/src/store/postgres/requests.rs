//! Request ids: the first statement of a mutation's transaction.

use sqlx::Row;
use uuid::Uuid;

use crate::store::{RequestKey, fault::Fault};

use super::{
    database::{Database, Tx},
    rows,
};

/// What a request id says about this request.
pub(super) enum Request {
    /// It is new; the transaction may go on and takes the id with its commit.
    New,
    /// It had this effect before.
    Repeated(Uuid),
    /// It came with another body before.
    Reused,
}

/// Takes a request id for something in a session. Waits for another transaction that is about to take the same.
pub(super) async fn take_in_tx(
    tx: &mut Tx,
    tenant: &str,
    key: &RequestKey,
    session: Uuid,
    resource: Uuid,
) -> Result<Request, Fault> {
    let taken = tx
        .query(
            "INSERT INTO session.request_ids (tenant, principal, method, request_id, digest, session, resource) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(tenant)
        .bind(&key.principal)
        .bind(key.method)
        .bind(&key.request_id)
        .bind(&key.digest[..])
        .bind(session)
        .bind(resource)
        .execute(&mut **tx)
        .await?;
    if taken.rows_affected() == 1 {
        return Ok(Request::New);
    }
    let row = tx
        .query(
            "SELECT digest, resource FROM session.request_ids \
         WHERE tenant = $1 AND principal = $2 AND method = $3 AND request_id = $4",
        )
        .bind(tenant)
        .bind(&key.principal)
        .bind(key.method)
        .bind(&key.request_id)
        .fetch_one(&mut **tx)
        .await?;
    if rows::hash(&row, "digest")? == key.digest {
        Ok(Request::Repeated(row.try_get("resource")?))
    } else {
        Ok(Request::Reused)
    }
}

/// Whether a request id was used, and whether with this body.
pub(super) async fn seen(db: &Database, tenant: &str, key: &RequestKey) -> Result<Option<bool>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query = tx.query(
        "SELECT digest FROM session.request_ids \
         WHERE tenant = $1 AND principal = $2 AND method = $3 AND request_id = $4",
    );
    let query = query.bind(tenant).bind(&key.principal).bind(key.method).bind(&key.request_id);
    let row = query.fetch_optional(&mut *tx).await?;
    tx.done().await?;
    row.map(|row| Ok(rows::hash(&row, "digest")? == key.digest)).transpose()
}
