//! Approvals as they stand.

use bytes::Bytes;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::store::{ApprovalPage, ApprovalRow, fault::Fault};

use super::database::Database;

macro_rules! columns {
    () => {
        "session, run, id, state, body, create_time"
    };
}

pub(super) async fn put(db: &Database, tenant: &str, approvals: &[ApprovalRow]) -> Result<(), Fault> {
    let mut tx = db.begin(tenant).await?;
    for row in approvals {
        let query = tx.query(
            "INSERT INTO session.approvals (run, id, tenant, session, state, body, create_time) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (run, id) DO UPDATE SET state = excluded.state, body = excluded.body",
        );
        let query = query.bind(row.run).bind(&row.id).bind(tenant).bind(row.session).bind(row.state);
        query.bind(&row.body[..]).bind(row.create_time).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

pub(super) async fn read(db: &Database, tenant: &str, run: Uuid, id: &str) -> Result<Option<ApprovalRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let query =
        tx.query(concat!("SELECT ", columns!(), " FROM session.approvals WHERE tenant = $1 AND run = $2 AND id = $3"));
    let row = query.bind(tenant).bind(run).bind(id).fetch_optional(&mut *tx).await?;
    tx.done().await?;
    row.as_ref().map(approval).transpose()
}

pub(super) async fn list(db: &Database, tenant: &str, page: &ApprovalPage) -> Result<Vec<ApprovalRow>, Fault> {
    let mut tx = db.begin(tenant).await?;
    let (before_run, before_id) = page.before.clone().unzip();
    let query = tx.query(concat!(
        "SELECT ",
        columns!(),
        " FROM session.approvals WHERE tenant = $1 AND ($2::uuid IS NULL OR session = $2) \
         AND ($3::uuid IS NULL OR run = $3) AND ($4::smallint IS NULL OR state = $4) \
         AND ($5::uuid IS NULL OR (run, id) < ($5, $6)) ORDER BY run DESC, id DESC LIMIT $7"
    ));
    let query = query.bind(tenant).bind(page.session).bind(page.run).bind(page.state);
    let query = query.bind(before_run).bind(before_id).bind(page.limit.max(0));
    let rows = query.fetch_all(&mut *tx).await?;
    tx.done().await?;
    rows.iter().map(approval).collect()
}

fn approval(row: &PgRow) -> Result<ApprovalRow, Fault> {
    Ok(ApprovalRow {
        session: row.try_get("session")?,
        run: row.try_get("run")?,
        id: row.try_get("id")?,
        state: row.try_get("state")?,
        body: Bytes::from(row.try_get::<Vec<u8>, _>("body")?),
        create_time: row.try_get("create_time")?,
    })
}
