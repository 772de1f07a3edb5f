//! Signals through the channels of Redis or Valkey: one that every replica hears, and one for each. Nothing is kept there.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use redis::RedisError;

use super::{Signal, Signals};
use crate::counters::{
    Error,
    redis::{RedisConfig, link::Link},
};

/// Pause before a lost subscription is made again.
const PAUSE: Duration = Duration::from_millis(500);

/// Signals to and from the replicas that share a server of counters, and its database.
#[derive(Debug)]
pub struct RedisSignals {
    link: Link,
    channel: String,
}

impl RedisSignals {
    /// Signals that connect on first use, and again by themselves after a loss. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the address or the certificate makes no sense; a Redis that is down is none.
    pub fn new(config: &RedisConfig) -> Result<Self, Error> {
        let link = Link::new(config).map_err(|error| Error::Unavailable(error.into()))?;
        // Channels are of no database: others on the same server have their own installations.
        let channel = format!("session:{}:signals", link.database());
        Ok(Self { link, channel })
    }

    fn of(&self, replica: &str) -> String {
        format!("{}:{replica}", self.channel)
    }

    /// Listens for as long as the connection lasts.
    async fn attend(&self, replica: &str, heard: &(dyn Fn(Signal) + Send + Sync)) -> Result<(), RedisError> {
        let mut subscription = self.link.subscription().await?;
        subscription.subscribe(&[&self.channel, &self.of(replica)]).await?;
        let mut messages = subscription.on_message();
        while let Some(message) = messages.next().await {
            if let Some(signal) = Signal::decode(&Bytes::copy_from_slice(message.get_payload_bytes())) {
                heard(signal);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Signals for RedisSignals {
    async fn tell(&self, replica: Option<&str>, signal: &Signal) {
        let channel = replica.map_or_else(|| self.channel.clone(), |replica| self.of(replica));
        if let Err(error) = self.link.publish(&channel, &signal.encode()).await {
            tracing::debug!(error = %mar_runtime::status::chain(&error), "a signal is lost");
        }
    }

    #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
    async fn listen(&self, replica: &str, heard: &(dyn Fn(Signal) + Send + Sync)) {
        loop {
            if let Err(error) = self.attend(replica, heard).await {
                tracing::debug!(error = %error, "signals are not heard");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
