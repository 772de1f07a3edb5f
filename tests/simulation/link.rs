//! A replica's connection to everything else: its health, its clock, and what becomes of its calls.

use std::fmt;
use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use mar_runtime::clock::{Clock, Ids};
use mar_tests::dice::Dice;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::time::Time;

/// The world's chance. Everything draws from it, in an order that the seed determines.
#[derive(Debug, Clone)]
pub struct Chance(Arc<Mutex<Dice>>);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Dice::new(seed))))
    }

    pub fn below(&self, end: u64) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).below(end)
    }

    pub fn index(&self, len: usize) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).index(len)
    }

    /// Chance of its own sequence.
    pub fn fork(&self) -> Self {
        Self::new(self.below(u64::MAX))
    }

    pub fn once_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Between two numbers of microseconds.
    pub fn span(&self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from + self.below(to - from))
    }
}

/// Something that a replica depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Store,
    Counters,
    Generator,
    Router,
    Gateway,
}

/// What is away, and how bad the network is.
#[derive(Debug, Default)]
pub struct Weather {
    away: [AtomicBool; 5],
    calm: AtomicBool,
}

impl Weather {
    pub fn set(&self, part: Part, away: bool) {
        self.away[part as usize].store(away, Ordering::Relaxed);
    }

    fn is_away(&self, part: Part) -> bool {
        self.away[part as usize].load(Ordering::Relaxed)
    }

    /// From here on nothing is lost.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.away.iter().for_each(|away| away.store(false, Ordering::Relaxed));
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }
}

/// How a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Alive,
    /// Stopped, as by SIGSTOP: what it sent arrives, what it is sent waits.
    Frozen,
    /// Nothing of it ever happens again.
    Dead,
}

/// What became of a call that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It did not happen.
    NeverSent,
    /// It may have happened.
    Unknown,
}

/// A replica's connection.
#[derive(Debug, Clone)]
pub struct Link {
    pub time: Arc<Time>,
    pub chance: Chance,
    pub weather: Arc<Weather>,
    health: Arc<Mutex<(Health, Vec<Waker>)>>,
    /// By how much its clock is off.
    skew: time::Duration,
}

impl Link {
    pub fn new(time: Arc<Time>, chance: Chance, weather: Arc<Weather>) -> Self {
        let skew = time::Duration::milliseconds(chance.below(4_000).cast_signed() - 2_000);
        Self { time, chance, weather, health: Arc::new(Mutex::new((Health::Alive, Vec::new()))), skew }
    }

    pub fn health(&self) -> Health {
        self.gate().0
    }

    fn gate(&self) -> MutexGuard<'_, (Health, Vec<Waker>)> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes its health; the dead stay dead.
    pub fn become_so(&self, health: Health) {
        let mut gate = self.gate();
        if gate.0 == Health::Dead {
            return;
        }
        gate.0 = health;
        let waiting = std::mem::take(&mut gate.1);
        drop(gate);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Resolves as soon as the replica does anything.
    pub async fn alive(&self) {
        poll_fn(|context| {
            let mut gate = self.gate();
            if gate.0 == Health::Alive {
                return Poll::Ready(());
            }
            gate.1.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// A call of a part for a run, and its answer.
    pub async fn trip<T>(&self, part: Part, run: Uuid, act: impl FnOnce() -> T) -> Result<T, Lost> {
        self.alive().await;
        self.time.turn(run.as_u128()).await;
        let slow = self.chance.once_in(60) && !self.weather.is_calm();
        self.time.sleep(if slow { self.chance.span(50_000, 600_000) } else { self.chance.span(100, 4_000) }).await;
        if self.health() == Health::Dead && self.chance.once_in(2) {
            pending::<()>().await;
        }
        if self.weather.is_away(part) {
            self.time.sleep(self.chance.span(1_000, 200_000)).await;
            self.alive().await;
            return Err(Lost::NeverSent);
        }
        let done = act();
        self.time.sleep(self.chance.span(100, 4_000)).await;
        self.alive().await;
        if !self.weather.is_calm() && self.chance.once_in(120) {
            return Err(Lost::Unknown);
        }
        Ok(done)
    }
}

/// When the world begins.
const ORIGIN: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
/// Its place on the calendar.
const YEARS: time::Duration = time::Duration::days(365 * 55);

/// The time of day without any skew.
pub fn day(time: &Time) -> OffsetDateTime {
    ORIGIN + YEARS + time::Duration::microseconds(i64::try_from(time.now().as_micros()).unwrap_or(i64::MAX))
}

impl Clock for Link {
    fn now(&self) -> OffsetDateTime {
        day(&self.time) + self.skew
    }

    fn monotonic(&self) -> Duration {
        self.time.now()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let link = self.clone();
        Box::pin(async move {
            link.time.sleep_until(at).await;
            link.alive().await;
        })
    }
}

/// Ids from the world's time and chance.
#[derive(Clone)]
pub struct SimIds(pub Arc<Time>, pub Chance);

impl fmt::Debug for SimIds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SimIds")
    }
}

impl Ids for SimIds {
    fn uuid_v7(&self) -> Uuid {
        let millis = u64::try_from((day(&self.0) - ORIGIN).whole_milliseconds()).unwrap_or(0);
        let mut random = [0; 10];
        self.fill(&mut random);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            let bytes = self.1.below(u64::MAX).to_be_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
