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
use tokio::task::coop::unconstrained;
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

/// Work took longer than it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("was not done within {span:?}")]
pub struct Overdue {
    /// What it was given.
    pub span: Duration,
}

/// Gives `work` the time `span`, counted from this call by `clock`. Work that is done when the time is up counts as done,
/// so even a span of zero leaves it one look.
///
/// # Errors
/// [`Overdue`] when the time passed first. The work has been dropped then, wherever it stood.
pub fn within<T, W>(clock: &dyn Clock, span: Duration, work: W) -> impl Future<Output = Result<T, Overdue>> + use<T, W>
where
    W: Future<Output = T>,
{
    // Work that uses up its task's budget at each look must not keep the end from being seen.
    let over = unconstrained(clock.sleep(span));
    async move {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = over => Err(Overdue { span }),
        }
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
    skew: time::Duration,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the adapter of the system's clock")]
        let start = tokio::time::Instant::now();
        Self { start, skew: time::Duration::ZERO }
    }

    /// A clock whose time of day is off by `skew`, for tests of machines that do not agree.
    pub fn skewed(skew: time::Duration) -> Self {
        Self { skew, ..Self::new() }
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
        cut_to_micros(now + self.skew)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        // Beyond a month the exact end does not matter, and adding it cannot overflow.
        let span = at.saturating_sub(self.start.elapsed()).min(Duration::from_secs(30 * 24 * 3600));
        #[expect(clippy::disallowed_methods, reason = "this is the adapter of the system's clock")]
        let sleep = tokio::time::sleep(span);
        Box::pin(sleep)
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
        #[expect(clippy::disallowed_methods, reason = "this is the adapter of the system's randomness")]
        let mut random = rand::rng();
        random.fill_bytes(into);
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

    #[tokio::test]
    async fn work_that_takes_too_long_is_dropped() {
        let clock = ManualClock::default();
        let span = Duration::from_secs(5);
        let held = std::sync::Arc::new(());
        let holder = std::sync::Arc::clone(&held);
        let mut bounded = Box::pin(within(&clock, span, async move {
            std::future::pending::<()>().await;
            drop(holder);
        }));
        clock.advance(Duration::from_secs(4));
        assert!(futures::poll!(&mut bounded).is_pending());
        clock.advance(Duration::from_secs(1));
        assert_eq!(bounded.await, Err(Overdue { span }));
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn work_that_is_done_when_its_time_is_up_counts() {
        let clock = ManualClock::default();
        assert_eq!(within(&clock, Duration::ZERO, std::future::ready(1)).await, Ok(1));
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut bounded = Box::pin(within(&clock, Duration::from_secs(5), told));
        assert!(futures::poll!(&mut bounded).is_pending());
        clock.advance(Duration::from_secs(6));
        tell.send(2).unwrap();
        assert_eq!(bounded.await, Ok(Ok(2)));
    }

    #[tokio::test]
    async fn time_is_counted_from_the_call() {
        let clock = ManualClock::default();
        let span = Duration::from_secs(5);
        let bounded = within(&clock, span, std::future::pending::<()>());
        clock.advance(span);
        assert_eq!(bounded.await, Err(Overdue { span }));
    }

    #[tokio::test]
    async fn busy_work_does_not_hide_the_end() {
        let clock = ManualClock::default();
        let span = Duration::from_secs(5);
        let busy = async {
            clock.advance(span);
            for _ in 0..100_000 {
                tokio::task::coop::consume_budget().await;
            }
        };
        assert_eq!(within(&clock, span, busy).await, Err(Overdue { span }));
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
