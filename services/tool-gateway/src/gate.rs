//! How many calls an upstream has at one time, and how many wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds the calls of one upstream, so that it cannot take the gateway's memory or another's turn.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Running and waiting.
    places: Arc<Semaphore>,
    /// Running.
    slots: Arc<Semaphore>,
}

/// A call's turn; dropping it lets the next one in.
#[derive(Debug)]
pub struct Turn {
    _slot: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

/// The queue is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Gate {
    /// Lets `slots` calls run and `queue` more wait.
    pub fn new(slots: usize, queue: usize) -> Self {
        let places = slots.saturating_add(queue).min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), slots: Arc::new(Semaphore::new(slots)) }
    }

    /// Waits for a turn, in the order of arrival.
    ///
    /// # Errors
    /// At once when too many wait already.
    pub async fn enter(&self) -> Result<Turn, Full> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Full)?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| Full)?;
        Ok(Turn { _slot: slot, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_queues_and_refuses() {
        let gate = Gate::new(1, 1);
        let first = gate.enter().await.unwrap();
        let mut second = Box::pin(gate.enter());
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(gate.enter().await.unwrap_err(), Full);
        drop(second);
        let mut third = Box::pin(gate.enter());
        assert!(futures::poll!(&mut third).is_pending());
        drop(first);
        assert!(third.await.is_ok());
    }
}
