//! What happens to the system from outside while it works.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use mar_tests::Deployment;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::heirs::Heirs;
use crate::replica::Blow;
use mar_tests::dice::Dice;

/// Place of the tool gateway among the services.
const GATEWAY: usize = 3;

/// What happens, as often as it stands here, in another order each time.
const KINDS: [Kind; 14] = [
    Kind::Kill,
    Kind::Freeze,
    Kind::Freeze,
    Kind::Freeze,
    Kind::PostgresRestarted,
    Kind::PostgresPromoted,
    Kind::RedisFlushed,
    Kind::RedisFlushed,
    Kind::RedisPromoted,
    Kind::RedisRestarted,
    Kind::RedisSaved,
    Kind::RedisAway,
    Kind::GatewayKilled,
    Kind::Nothing,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A replica is killed.
    Kill,
    /// A replica stands still for longer than the others wait for its heartbeat.
    Freeze,
    /// The server of Postgres is killed and started again.
    PostgresRestarted,
    /// The server of Postgres is killed, and its standby takes its place.
    PostgresPromoted,
    /// Redis forgets everything.
    RedisFlushed,
    /// Redis starts again with what it last saved: the writes since are lost.
    RedisRestarted,
    /// Redis saves what it has.
    RedisSaved,
    /// Redis is away for a while and comes back with what it last saved.
    RedisAway,
    /// Redis is killed, and its replica, which has not heard the last writes, takes its place.
    RedisPromoted,
    /// The tool gateway is killed, with its calls in hand, and started again.
    GatewayKilled,
    Nothing,
}

/// The weather of one storm.
pub struct Weather {
    pub system: Deployment,
    pub heirs: Heirs,
    pub dice: Dice,
    pub places: Vec<mpsc::UnboundedSender<Blow>>,
    /// Longest pause between two events, in milliseconds.
    pub pace: u64,
    pub calm: CancellationToken,
}

impl Weather {
    /// Rages until the calm, then leaves everything standing; answers what has happened how often.
    pub async fn rage(mut self) -> anyhow::Result<(Self, BTreeMap<String, usize>)> {
        let mut happened = BTreeMap::new();
        // However short a storm is, it has these.
        let mut coming = vec![Kind::PostgresPromoted, Kind::RedisPromoted];
        loop {
            let pause = Duration::from_millis(self.pace / 3 + self.dice.below(self.pace));
            tokio::select! {
                () = self.calm.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            if coming.is_empty() {
                coming.extend(KINDS);
            }
            let kind = coming.swap_remove(self.dice.index(coming.len()));
            self.happen(kind).await.with_context(|| format!("{kind:?}"))?;
            *happened.entry(format!("{kind:?}")).or_default() += 1;
        }
        Ok((self, happened))
    }

    async fn happen(&mut self, kind: Kind) -> anyhow::Result<()> {
        let place = self.dice.index(self.places.len());
        let span = Duration::from_millis(400 + self.dice.below(600));
        if kind == Kind::RedisPromoted {
            return self.heirs.promote_replica(&mut self.system, span / 2).await;
        }
        let redis = self.system.redis.as_ref().context("no redis")?;
        match kind {
            // A place without a living replica is not hit.
            Kind::Kill => drop(self.places[place].send(Blow::Kill)),
            Kind::Freeze => drop(self.places[place].send(Blow::Freeze(span))),
            Kind::PostgresRestarted => {
                let postgres = self.system.postgres.as_ref().context("no postgres")?;
                tokio::task::block_in_place(|| postgres.crash())?;
                tokio::time::sleep(span).await;
                tokio::task::block_in_place(|| postgres.resume())?;
            }
            Kind::PostgresPromoted => self.heirs.promote_standby(&mut self.system, span).await?,
            Kind::RedisFlushed => tokio::task::block_in_place(|| redis.flush())?,
            Kind::RedisRestarted => tokio::task::block_in_place(|| redis.restart())?,
            Kind::RedisSaved => drop(tokio::task::block_in_place(|| redis.command("SAVE"))?),
            Kind::RedisAway => {
                tokio::task::block_in_place(|| redis.stop());
                tokio::time::sleep(span).await;
                tokio::task::block_in_place(|| redis.resume())?;
            }
            Kind::GatewayKilled => {
                self.system.kill(GATEWAY).await?;
                tokio::time::sleep(span / 4).await;
                self.system.restart(GATEWAY).await?;
            }
            Kind::RedisPromoted | Kind::Nothing => {}
        }
        Ok(())
    }
}
