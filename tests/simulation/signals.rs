//! What simulated replicas tell each other: on its way for a moment, and lost now and then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mar_session::signals::{Signal, Signals};
use tokio::sync::mpsc;

use crate::link::Link;

/// Who listens, by name.
type Ears = BTreeMap<String, mpsc::UnboundedSender<Signal>>;

/// The channels between all replicas.
#[derive(Debug, Clone)]
pub struct Air {
    ears: Arc<Mutex<Ears>>,
    /// The longest that a signal is on its way, in microseconds.
    slowest: u64,
}

impl Air {
    pub fn new(slowest: u64) -> Self {
        Self { ears: Arc::default(), slowest }
    }

    fn ears(&self) -> MutexGuard<'_, Ears> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica's part in them.
pub struct SimSignals {
    pub link: Arc<Link>,
    pub air: Air,
}

impl fmt::Debug for SimSignals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SimSignals")
    }
}

#[async_trait]
impl Signals for SimSignals {
    async fn tell(&self, replica: Option<&str>, signal: &Signal) {
        self.link.alive().await;
        self.link.time.sleep(self.link.chance.span(100, self.air.slowest)).await;
        self.link.alive().await;
        if !self.link.weather.is_calm() && self.link.chance.once_in(30) {
            return;
        }
        for (name, ear) in self.air.ears().iter() {
            if replica.is_none_or(|replica| replica == name) {
                // One that is gone hears nothing.
                let _ = ear.send(signal.clone());
            }
        }
    }

    async fn listen(&self, replica: &str, heard: &(dyn Fn(Signal) + Send + Sync)) {
        let (ear, mut signals) = mpsc::unbounded_channel();
        self.air.ears().insert(replica.to_owned(), ear);
        while let Some(signal) = signals.recv().await {
            self.link.alive().await;
            heard(signal);
        }
    }
}
