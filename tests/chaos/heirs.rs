//! Servers that wait to take the place of others: a standby of Postgres, a replica of Redis.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_testkit::postgres::Postgres;
use mar_testkit::redis::Redis;
use mar_tests::Deployment;
use tokio::task::block_in_place;

const PAUSE: Duration = Duration::from_millis(20);
/// Looks at a replica before it is given up: 20 s.
const LOOKS: u32 = 1_000;

/// The next primaries.
pub struct Heirs {
    standby: Postgres,
    replica: Redis,
}

impl Heirs {
    /// Of a system behind doors. From here on Postgres acknowledges what its standby has, too; Redis does not wait for its
    /// replica.
    pub fn of(system: &Deployment) -> anyhow::Result<Self> {
        let postgres = system.postgres.as_ref().context("no postgres")?;
        let redis = system.redis.as_ref().context("no redis")?;
        block_in_place(|| Ok(Self { standby: standby_of(postgres)?, replica: replica_of(redis)? }))
    }

    /// The primary of Postgres is killed, and after a while its standby leads. Nothing that was acknowledged is lost.
    pub async fn promote_standby(&mut self, system: &mut Deployment, span: Duration) -> anyhow::Result<()> {
        block_in_place(|| system.postgres.as_ref().context("no postgres")?.crash())?;
        tokio::time::sleep(span).await;
        block_in_place(|| self.standby.promote())?;
        let (door, _) = system.doors.as_ref().context("no doors")?;
        door.lead_to(self.standby.port());
        let next = block_in_place(|| standby_of(&self.standby))?;
        // The dead one goes with its data.
        system.postgres = Some(std::mem::replace(&mut self.standby, next));
        Ok(())
    }

    /// The replica of Redis is cut off; after a while, in which Redis takes writes that it never hears of, Redis is killed and
    /// the replica leads.
    pub async fn promote_replica(&mut self, system: &mut Deployment, span: Duration) -> anyhow::Result<()> {
        block_in_place(|| {
            follows(&self.replica)?;
            said(&self.replica, "REPLICAOF 127.0.0.1 1")
        })?;
        tokio::time::sleep(span).await;
        let (_, door) = system.doors.as_ref().context("no doors")?;
        let redis = system.redis.as_ref().context("no redis")?;
        let next = block_in_place(|| {
            redis.stop();
            said(&self.replica, "REPLICAOF NO ONE")?;
            door.lead_to(self.replica.port());
            replica_of(&self.replica)
        })?;
        system.redis = Some(std::mem::replace(&mut self.replica, next));
        Ok(())
    }
}

fn standby_of(postgres: &Postgres) -> anyhow::Result<Postgres> {
    let standby = postgres.standby()?;
    postgres.wait_for_standbys()?;
    Ok(standby)
}

fn replica_of(redis: &Redis) -> anyhow::Result<Redis> {
    let replica = Redis::start()?;
    said(&replica, &format!("REPLICAOF 127.0.0.1 {}", redis.port()))?;
    follows(&replica)?;
    Ok(replica)
}

/// Waits until a replica has what its master has.
fn follows(replica: &Redis) -> anyhow::Result<()> {
    for _ in 0..LOOKS {
        let state = replica.text("INFO replication").unwrap_or_default();
        if state.contains("master_link_status:up") && state.contains("master_sync_in_progress:0") {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    anyhow::bail!("the replica does not follow")
}

fn said(redis: &Redis, command: &str) -> anyhow::Result<()> {
    let answer = redis.command(command)?;
    ensure!(answer.starts_with("+OK"), "{command}: {answer}");
    Ok(())
}
