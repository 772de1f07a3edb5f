//! Time and identifiers, injected so that domain code stays deterministic and tests own the clock.
//!
//! [`SystemClock`] and [`SystemIds`] are the only places that ask the operating system.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use rand::RngCore as _;
use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

/// Wall time, monotonic time and waiting.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day in UTC, cut to microseconds (what the stores keep).
    fn now(&self) -> OffsetDateTime;

    /// Time since an arbitrary fixed point of this process. Never goes back.
    fn monotonic(&self) -> Duration;

    /// Resolves once [`Clock::monotonic`] has reached `at`.
    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()>;

    /// Resolves after `span`.
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.monotonic().saturating_add(span))
    }
}

/// Identifiers and randomness.
pub trait Ids: fmt::Debug + Send + Sync + 'static {
    /// A new UUID of version 7.
    fn uuid_v7(&self) -> Uuid;

    /// Fills `into` with random bytes fit for keys.
    fn fill(&self, into: &mut [u8]);
}

/// Random bytes as an array: `random::<16>(ids)`.
pub fn random<const N: usize>(ids: &dyn Ids) -> [u8; N] {
    let mut bytes = [0; N];
    ids.fill(&mut bytes);
    bytes
}

fn cut_to_micros(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_microsecond(time.microsecond()).unwrap_or(time)
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the adapter of the system's clock")]
        let start = tokio::time::Instant::now();
        Self { start }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        #[expect(clippy::disallowed_methods, reason = "this is the adapter of the system's clock")]
        let now = OffsetDateTime::now_utc();
        cut_to_micros(now)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        // Beyond a month the exact end does not matter, and adding it cannot overflow.
        let span = at.saturating_sub(self.start.elapsed()).min(Duration::from_secs(30 * 24 * 3600));
        Box::pin(tokio::time::sleep(span))
    }
}

/// UUIDs timed by the system's clock, and the system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemIds;

impl Ids for SystemIds {
    fn uuid_v7(&self) -> Uuid {
        #[expect(clippy::disallowed_methods, reason = "this is the adapter of the system's ids")]
        let id = Uuid::now_v7();
        id
    }

    fn fill(&self, into: &mut [u8]) {
        rand::rng().fill_bytes(into);
    }
}

/// A clock that moves only when it is told to, for tests.
#[derive(Debug)]
pub struct ManualClock {
    origin: OffsetDateTime,
    elapsed: watch::Sender<Duration>,
}

impl ManualClock {
    /// A clock that stands at `origin`.
    pub fn new(origin: OffsetDateTime) -> Self {
        Self { origin: cut_to_micros(origin), elapsed: watch::Sender::new(Duration::ZERO) }
    }

    /// Moves the clock on and wakes the sleepers whose time has come.
    pub fn advance(&self, span: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed = elapsed.saturating_add(span));
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new(OffsetDateTime::UNIX_EPOCH + time::Duration::days(365 * 55))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        cut_to_micros(self.origin + *self.elapsed.borrow())
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.borrow()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let mut elapsed = self.elapsed.subscribe();
        Box::pin(async move {
            if elapsed.wait_for(|now| *now >= at).await.is_err() {
                // The clock is gone, so that time never comes.
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Ids that count up, for tests: the same calls give the same ids.
#[derive(Debug, Default)]
pub struct SequentialIds {
    last: Mutex<u64>,
}

impl SequentialIds {
    fn next(&self) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last += 1;
        *last
    }
}

impl Ids for SequentialIds {
    fn uuid_v7(&self) -> Uuid {
        let next = self.next();
        let mut random = [0; 10];
        random[2..].copy_from_slice(&next.to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(next, &random).into_uuid()
    }

    fn fill(&self, into: &mut [u8]) {
        let next = self.next().to_be_bytes();
        for (at, byte) in into.iter_mut().enumerate() {
            *byte = next[at % next.len()];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn manual_sleep_ends_when_the_clock_gets_there() {
        let clock = ManualClock::default();
        let start = clock.now();
        let mut sleep = clock.sleep(Duration::from_secs(5));
        clock.advance(Duration::from_secs(4));
        assert!(futures::poll!(&mut sleep).is_pending());
        clock.advance(Duration::from_secs(1));
        sleep.await;
        assert_eq!(clock.now() - start, time::Duration::seconds(5));
    }

    #[test]
    fn system_time_is_cut_to_microseconds() {
        assert_eq!(cut_to_micros(OffsetDateTime::UNIX_EPOCH + Duration::from_nanos(1_999)).nanosecond(), 1_000);
    }

    #[test]
    fn ids_are_ordered_and_distinct() {
        let ids = SequentialIds::default();
        let (first, second) = (ids.uuid_v7(), ids.uuid_v7());
        assert!(first < second);
        assert_eq!(first.get_version_num(), 7);
        assert_ne!(random::<16>(&SystemIds), random::<16>(&SystemIds));
    }
}
