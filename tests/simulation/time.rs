//! Simulated time: it stands still while anything can be done, and jumps to the next sleeper when nothing can.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

type Key = (Duration, u128, u64);

/// One world's time.
#[derive(Debug, Default)]
pub struct Time(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    now: Duration,
    sleeps: u64,
    /// By the end of their sleep, by whose they are, then in the order in which they fell asleep.
    sleepers: BTreeMap<Key, Waker>,
}

impl Time {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the world began.
    pub fn now(&self) -> Duration {
        self.inner().now
    }

    /// Wakes the next sleeper, at its time. Called when no task can do anything.
    pub fn jump(&self) {
        let mut inner = self.inner();
        let Some(((at, _, _), waker)) = inner.sleepers.pop_first() else { return };
        inner.now = inner.now.max(at);
        drop(inner);
        waker.wake();
    }

    /// Resolves at this time, when nothing else can be done, in the order of `whose`: tasks that one event woke go on in
    /// an order that does not depend on how they were woken.
    pub fn turn(self: &Arc<Self>, whose: u128) -> Sleep {
        Sleep { time: Arc::clone(self), key: (self.now(), whose, 0), state: State::New }
    }

    /// Resolves when the time has come.
    pub fn sleep_until(self: &Arc<Self>, at: Duration) -> Sleep {
        let state = if at <= self.now() { State::Over } else { State::New };
        Sleep { time: Arc::clone(self), key: (at, 0, 0), state }
    }

    /// Resolves after a span.
    pub fn sleep(self: &Arc<Self>, span: Duration) -> Sleep {
        self.sleep_until(self.now().saturating_add(span))
    }

    /// What a future gives within a span.
    pub async fn within<T>(self: &Arc<Self>, span: Duration, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = self.sleep(span) => None,
        }
    }
}

/// A sleep. Dropping it ends it.
#[derive(Debug)]
pub struct Sleep {
    time: Arc<Time>,
    key: Key,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Asleep,
    Over,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let time = Arc::clone(&self.time);
        let mut inner = time.inner();
        if self.state == State::New {
            inner.sleeps += 1;
            self.key.2 = inner.sleeps;
            self.state = State::Asleep;
        } else if self.state == State::Over || !inner.sleepers.contains_key(&self.key) {
            self.state = State::Over;
            return Poll::Ready(());
        }
        inner.sleepers.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.state == State::Asleep {
            self.time.inner().sleepers.remove(&self.key);
        }
    }
}
