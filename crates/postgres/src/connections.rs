//! The connections, and who has them.
//!
//! The pool tests each connection that comes back to it, with a trip and a task of its own, and hands out the one that
//! rested longest, whose server process is the coldest. That costs about as much as an append. So who has ended a statement
//! well hands its connection on here, and the pool gets it back only now and then, to test it and to let it age.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::time::Instant;

/// How long a connection goes from hand to hand before the pool has it again. What lies between may drop one that rests for
/// minutes, and a connection has an age at which the pool replaces it.
const OUT: Duration = Duration::from_secs(30);

/// A connection that somebody uses.
#[derive(Debug)]
pub(crate) struct Taken {
    connection: PoolConnection<Postgres>,
    since: Instant,
}

impl Taken {
    /// For one statement or transaction.
    pub(crate) fn get(&self) -> &PgConnection {
        &self.connection
    }

    /// For one statement or transaction.
    pub(crate) fn get_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Closes it: nobody knows what state it is in.
    pub(crate) fn forsake(self) {
        drop(self.connection.detach());
    }
}

#[derive(Debug, Default)]
struct Hands {
    /// The one that was used last is at the end.
    warm: Vec<Taken>,
    /// Who waits for the pool, which knows of nothing that is handed on here.
    waiting: usize,
    closed: bool,
}

impl Hands {
    /// Those whose time here is over: whoever drops them gives them to the pool.
    fn expired(&mut self, now: Instant) -> Vec<Taken> {
        self.warm.extract_if(.., |warm| now - warm.since > OUT).collect()
    }
}

/// Connections that the pool has, and those that go from hand to hand.
#[derive(Debug)]
pub(crate) struct Connections {
    pool: PgPool,
    hands: Mutex<Hands>,
}

impl Connections {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, hands: Mutex::default() }
    }

    /// The connection that was used last, or one of the pool's.
    pub(crate) async fn take(&self) -> Result<Taken, sqlx::Error> {
        let _waits = {
            let mut hands = self.lock();
            // After a pause all of them have rested, and nobody has looked since. The pool has them before it is asked.
            drop(hands.expired(now()));
            if let Some(warm) = hands.warm.pop() {
                return Ok(warm);
            }
            hands.waiting += 1;
            Waits(self)
        };
        let connection = self.pool.acquire().await?;
        Ok(Taken { connection, since: now() })
    }

    /// Hands on a connection on which nothing is open. One that is dropped instead goes back to the pool.
    pub(crate) fn hand_on(&self, taken: Taken) {
        let now = now();
        let mut hands = self.lock();
        let mut back = hands.expired(now);
        if hands.waiting > 0 || hands.closed || now - taken.since > OUT {
            back.push(taken);
        } else {
            hands.warm.push(taken);
        }
        drop(hands);
        drop(back);
    }

    /// Gives the pool everything back that nobody uses, for instance to be tested.
    pub(crate) fn give_back(&self) {
        let warm = std::mem::take(&mut self.lock().warm);
        drop(warm);
    }

    /// Closes every connection once its statement has ended.
    pub(crate) async fn close(&self) {
        self.lock().closed = true;
        self.give_back();
        self.pool.close().await;
    }

    fn lock(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connections {
    /// The pool would start a task for each, and there may be nothing to start it on.
    fn drop(&mut self) {
        for warm in self.lock().warm.drain(..) {
            warm.forsake();
        }
    }
}

/// Somebody who waits for the pool.
struct Waits<'a>(&'a Connections);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an adapter of a real server measures in real time")]
    Instant::now()
}
