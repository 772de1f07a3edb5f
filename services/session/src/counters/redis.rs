//! Counters in Redis: one hash per run, changed by one script in one trip.

use std::time::Duration;

use async_trait::async_trait;
use redis::{
    Client, RedisError, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{Advance, Amounts, Answer, Counters, Error, Limit, Verdict, ledger};

/// A key outlives every run: the longest `expire_time` is below it.
const KEY_EXPIRY: Duration = Duration::from_secs(35 * 24 * 3600);

/// Where Redis is and how long it may take.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://…`
    pub url: SecretString,
    /// How long an answer may take before it counts as lost.
    pub response_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

impl RedisConfig {
    /// The address with the default timeouts: 500 ms each.
    #[must_use]
    pub const fn new(url: SecretString) -> Self {
        Self { url, response_timeout: Duration::from_millis(500), connect_timeout: Duration::from_millis(500) }
    }
}

/// Counters that every replica shares.
#[derive(Debug, Clone)]
pub struct RedisCounters {
    connection: ConnectionManager,
    script: Script,
    /// Bound of one try, connecting included.
    try_timeout: Duration,
}

impl RedisCounters {
    /// Counters that connect on first use, and again by themselves after a loss. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the address makes no sense; a Redis that is down is none.
    pub fn new(config: &RedisConfig) -> Result<Self, Error> {
        let client = Client::open(config.url.expose_secret()).map_err(unavailable)?;
        let manager = ConnectionManagerConfig::new()
            .set_response_timeout(Some(config.response_timeout))
            .set_connection_timeout(Some(config.connect_timeout))
            // The next change connects again; a backoff in here would only keep this one waiting.
            .set_number_of_retries(0)
            .set_pipeline_buffer_size(1024);
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(client, manager).map_err(unavailable)?,
            script: Script::new(include_str!("advance.lua")),
            try_timeout: config.response_timeout.saturating_add(config.connect_timeout / 2),
        })
    }

    async fn advance_once(&self, change: &Advance) -> Result<Answer, Error> {
        let mut invocation = self.script.key(key(change.root, change.run));
        invocation.arg(change.epoch).arg(change.seq).arg(change.last_seq).arg(KEY_EXPIRY.as_secs());
        for amounts in [change.totals, change.settle, change.reserve, change.limits] {
            for amount in amounts.in_order() {
                invocation.arg(amount);
            }
        }
        let mut connection = self.connection.clone();
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let answer: Vec<String> = tokio::time::timeout(self.try_timeout, invocation.invoke_async(&mut connection))
            .await
            .map_err(unavailable)?
            .map_err(unavailable)?;
        read(&answer, change.epoch)
    }

    async fn forget_once(&self, root: Uuid, run: Uuid) -> Result<(), Error> {
        let mut connection = self.connection.clone();
        let mut command = redis::cmd("UNLINK");
        command.arg(key(root, run));
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let forgotten: Result<(), RedisError> =
            tokio::time::timeout(self.try_timeout, command.exec_async(&mut connection)).await.map_err(unavailable)?;
        forgotten.map_err(unavailable)
    }
}

#[async_trait]
impl Counters for RedisCounters {
    /// A try without an answer may have run, or have met a connection that had died meanwhile: it is repeated once, which
    /// the script knows by (epoch, seq).
    async fn advance(&self, change: Advance) -> Result<Answer, Error> {
        ledger::check(&change)?;
        match self.advance_once(&change).await {
            Err(Error::Unavailable(_)) => self.advance_once(&change).await,
            answer => answer,
        }
    }

    async fn forget(&self, root: Uuid, run: Uuid) -> Result<(), Error> {
        match self.forget_once(root, run).await {
            Err(Error::Unavailable(_)) => self.forget_once(root, run).await,
            answer => answer,
        }
    }
}

/// The braces are the hash tag: a run tree lives on one node of a cluster.
fn key(root: Uuid, run: Uuid) -> String {
    format!("halt:{{{root}}}:{run}")
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Unavailable(Box::new(error))
}

/// Reads the script's answer. One that it cannot have given counts as none.
fn read(answer: &[String], epoch: i64) -> Result<Answer, Error> {
    let foreign = || Error::Unavailable("answer of another script".into());
    let number = |text: &String| text.parse::<i64>().map_err(unavailable);
    match answer {
        [ok, verdict, rebuilt, used @ ..] if ok == "1" => {
            let used: [i64; 5] =
                used.iter().map(number).collect::<Result<Vec<_>, _>>()?.try_into().map_err(|_| foreign())?;
            let verdict = match usize::try_from(number(verdict)?).map_err(unavailable)? {
                0 => Verdict::Granted,
                limit => Verdict::Refused(*Limit::IN_ORDER.get(limit - 1).ok_or_else(foreign)?),
            };
            let rebuilt = if rebuilt.is_empty() { None } else { Some(number(rebuilt)?) };
            Ok(Answer { verdict, used: Amounts::from_order(used), rebuilt })
        }
        [stale, seen] if stale == "0" => Err(Error::Stale(epoch, number(seen)?)),
        _ => Err(foreign()),
    }
}
