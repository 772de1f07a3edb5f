//! Claims of open runs: leases across tenants as the scheduler, then each tenant's runs as the application.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{Row, postgres::PgRow};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::store::{Claimed, fault::Fault};

use super::{
    database::{Database, Tx},
    rows::{self, run_columns},
};

/// A claim whose commit was sent.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    tenant: String,
    run: Uuid,
    epoch: i64,
    unattended: Option<Duration>,
}

/// Who claims, and what it may.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant<'a> {
    pub owner: &'a str,
    pub log_version: i32,
    /// An owner that has shown no sign of life for so long is gone.
    pub patience: Duration,
}

/// Claims up to `limit` open runs, those first whose claim by this store was committed without an answer. One at a time in a
/// store: a claim in doubt and one on its way look the same.
pub(super) async fn claim(
    db: &Database,
    who: Claimant<'_>,
    limit: i64,
    doubtful: &Mutex<Vec<Claim>>,
) -> Result<Vec<Claimed>, Fault> {
    let mut doubtful = doubtful.lock().await;
    let mut tx = db.begin_as_scheduler().await?;
    let mut claims = committed_in_tx(&mut tx, who.owner, &doubtful).await?;
    let left = limit.saturating_sub(i64::try_from(claims.len()).unwrap_or(i64::MAX)).max(0);
    claims.extend(claim_in_tx(&mut tx, who, left).await?);
    let mut claimed = runs_in_tx(&mut tx, &claims).await?;
    claimed.sort_by_key(|claimed| claimed.run.id);
    *doubtful = claims;
    tx.commit().await?;
    doubtful.clear();
    Ok(claimed)
}

/// Which claims in doubt have happened and still hold.
async fn committed_in_tx(tx: &mut Tx, owner: &str, doubtful: &[Claim]) -> Result<Vec<Claim>, Fault> {
    if doubtful.is_empty() {
        return Ok(Vec::new());
    }
    let runs: Vec<Uuid> = doubtful.iter().map(|claim| claim.run).collect();
    let epochs: Vec<i64> = doubtful.iter().map(|claim| claim.epoch).collect();
    let query = tx.query(
        "SELECT l.tenant, l.run, l.epoch, NULL::bigint AS unattended_ms FROM unnest($2::uuid[], $3::bigint[]) AS claim (run, epoch) \
         JOIN session.leases l ON l.run = claim.run AND l.epoch = claim.epoch AND l.owner = $1",
    );
    let rows = query.bind(owner).bind(runs).bind(epochs).fetch_all(&mut **tx).await?;
    let held = rows.iter().map(claim_of).collect::<Result<Vec<_>, Fault>>()?;
    let known = |claim: &Claim| doubtful.iter().find(|doubted| doubted.run == claim.run);
    Ok(held.into_iter().map(|claim| known(&claim).cloned().unwrap_or(claim)).collect())
}

async fn claim_in_tx(tx: &mut Tx, who: Claimant<'_>, limit: i64) -> Result<Vec<Claim>, Fault> {
    let query = tx.query(
        "WITH picked AS ( \
           SELECT run, CASE WHEN owner IS NULL THEN wake_time ELSE \
             (SELECT last.beat_time FROM session.heartbeats last WHERE last.owner = l.owner) END AS left_time \
           FROM session.leases l WHERE log_version <= $2 AND CASE WHEN owner IS NULL THEN wake_time <= now() \
             ELSE owner <> $1 AND NOT EXISTS (SELECT FROM session.heartbeats h \
               WHERE h.owner = l.owner AND h.beat_time > now() - $4 * interval '1 millisecond') \
             AND NOT EXISTS (SELECT FROM session.heartbeats me WHERE me.owner = $1 AND ( \
               me.since_time > now() - $4 * interval '1 millisecond' OR \
               me.beat_time < now() - $4 * interval '1 millisecond')) END \
           ORDER BY run LIMIT $3 FOR UPDATE SKIP LOCKED) \
         UPDATE session.leases l SET owner = $1, epoch = l.epoch + 1, wake_time = NULL FROM picked WHERE l.run = picked.run \
         RETURNING l.tenant, l.run, l.epoch, (extract(epoch FROM now() - picked.left_time) * 1000)::bigint AS unattended_ms",
    );
    let query = query.bind(who.owner).bind(who.log_version).bind(limit).bind(millis(who.patience));
    let rows = query.fetch_all(&mut **tx).await?;
    rows.iter().map(claim_of).collect()
}

/// The claimed runs themselves, which the scheduler does not see.
async fn runs_in_tx(tx: &mut Tx, claims: &[Claim]) -> Result<Vec<Claimed>, Fault> {
    let mut by_tenant: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in claims {
        by_tenant.entry(&claim.tenant).or_default().push(claim);
    }
    let mut found = Vec::with_capacity(claims.len());
    for (tenant, claims) in by_tenant {
        tx.turn_to(tenant).await?;
        let ids: Vec<Uuid> = claims.iter().map(|claim| claim.run).collect();
        let epochs: Vec<i64> = claims.iter().map(|claim| claim.epoch).collect();
        let query = tx.query(concat!(
            "SELECT ",
            run_columns!(),
            ", claim.epoch FROM unnest($2::uuid[], $3::bigint[]) AS claim (run, epoch) \
             JOIN session.runs r ON r.id = claim.run AND r.tenant = $1"
        ));
        let rows = query.bind(tenant).bind(ids).bind(epochs).fetch_all(&mut **tx).await?;
        for row in &rows {
            let run = rows::run(row)?;
            let unattended = claims.iter().find(|claim| claim.run == run.id).and_then(|claim| claim.unattended);
            found.push(Claimed { run, epoch: row.try_get("epoch")?, unattended });
        }
    }
    Ok(found)
}

/// As statements take it.
pub(super) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2)
}

fn claim_of(row: &PgRow) -> Result<Claim, Fault> {
    let unattended: Option<i64> = row.try_get("unattended_ms")?;
    Ok(Claim {
        tenant: row.try_get("tenant")?,
        run: row.try_get("run")?,
        epoch: row.try_get("epoch")?,
        unattended: unattended.map(|millis| Duration::from_millis(millis.try_into().unwrap_or(0))),
    })
}
