//! What the cases are made of.

use std::{
    any::Any,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use mar_session::store::hook::Hooked;
use mar_session::store::{Admission, Append, EventRow, RequestKey, RunChange, RunRow, SessionRow, Store};
use sqlx::{PgPool, SqlitePool};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

pub const TENANT: &str = "acme";
pub const OWNER: &str = "replica-1";
/// The hook of the tenant.
pub const HOOK: &str = "audit";

/// The hooks of all tenants.
pub fn hooked() -> Hooked {
    Hooked::new([(TENANT.to_owned(), vec![HOOK.to_owned()])].into())
}

/// A store under test, with a look behind it.
pub struct Subject {
    pub store: Arc<dyn Store>,
    pub behind: Behind,
    /// Lives as long as the store: a directory, a server.
    pub _keep: Box<dyn Any + Send + Sync>,
}

pub enum Behind {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl Subject {
    pub async fn blobs(&self) -> i64 {
        match &self.behind {
            Behind::Postgres(pool) => {
                sqlx::query_scalar("SELECT count(*) FROM session.blobs").fetch_one(pool).await.unwrap()
            }
            Behind::Sqlite(pool) => sqlx::query_scalar("SELECT count(*) FROM blobs").fetch_one(pool).await.unwrap(),
        }
    }

    /// Bytes of the tables, indexes included.
    pub async fn bytes(&self) -> i64 {
        match &self.behind {
            Behind::Postgres(pool) => sqlx::query_scalar(
                "SELECT (sum(pg_total_relation_size(relid)) + pg_total_relation_size('session.blobs'))::bigint \
                 FROM pg_partition_tree('session.events')",
            )
            .fetch_one(pool)
            .await
            .unwrap(),
            Behind::Sqlite(pool) => {
                sqlx::query_scalar("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
                    .fetch_one(pool)
                    .await
                    .unwrap()
            }
        }
    }

    pub async fn started(&self) -> SessionRow {
        let session = session();
        self.store.session_start(&key(), &session).await.unwrap();
        session
    }

    /// A new run in a new session.
    pub async fn admitted(&self) -> (RunRow, Log) {
        let run = run(&self.started().await, Concurrency::Serial);
        let mut log = Log::default();
        self.admit(&run, &log.next(b"first")).await;
        (run, log)
    }

    pub async fn admit(&self, run: &RunRow, first: &EventRow) {
        let admission = self.store.run_admit(&key(), run, first, OWNER).await.unwrap();
        assert_eq!(admission, Admission::Admitted);
    }

    pub async fn append(&self, run: &RunRow, events: &[EventRow]) -> Append {
        self.store.event_append(&run.tenant, run.session, run.id, events).await.unwrap()
    }

    pub async fn read(&self, run: &RunRow) -> Vec<EventRow> {
        self.store.event_read(&run.tenant, run.id, 0, 1_000, usize::MAX).await.unwrap()
    }
}

/// A chain of events as a writer makes it.
#[derive(Debug, Clone, Default)]
pub struct Log {
    seq: i64,
    head: [u8; 32],
}

impl Log {
    /// One that goes on where another chain was.
    pub fn after(head: [u8; 32]) -> Self {
        Self { seq: 0, head }
    }

    pub fn next(&mut self, leaf: &[u8]) -> EventRow {
        self.next_with(leaf, None)
    }

    pub fn next_with(&mut self, leaf: &[u8], content: Option<Bytes>) -> EventRow {
        let head = mar_descriptor::chain::event_hash(&mar_descriptor::hash::Hash::from_bytes(self.head), leaf);
        let event = EventRow {
            seq: self.seq,
            prev_hash: self.head,
            hash: *head.as_bytes(),
            leaf: Bytes::copy_from_slice(leaf),
            content,
        };
        self.seq += 1;
        self.head = event.hash;
        event
    }

    pub const fn head(&self) -> [u8; 32] {
        self.head
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    Serial,
    Parallel,
}

/// A number that no other case has, rising.
pub fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// An id above all before it, made in this month, as a UUIDv7 is.
pub fn id() -> Uuid {
    static BEGAN: LazyLock<u128> = LazyLock::new(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_millis()).unwrap_or_default()
    });
    Uuid::from_u128((*BEGAN << 80) + (0x7000_8000 << 48) + u128::from(number()))
}

pub fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
        + Duration::microseconds(i64::try_from(number()).unwrap())
}

pub fn key() -> RequestKey {
    RequestKey {
        principal: "backend".to_owned(),
        method: "/agentruntime.session.v1.SessionService/StartRun",
        request_id: format!("request-{}", number()),
        digest: [7; 32],
    }
}

pub fn session() -> SessionRow {
    let time = now();
    SessionRow {
        tenant: TENANT.to_owned(),
        id: id(),
        state: 1,
        principal: "backend".to_owned(),
        body: Bytes::from_static(b"\x00session\xff"),
        salt_key: Bytes::from_static(&[9; 32]),
        version: 1,
        create_time: time,
        update_time: time,
        idle_timeout: None,
    }
}

pub fn run(session: &SessionRow, concurrency: Concurrency) -> RunRow {
    let time = now();
    RunRow {
        tenant: session.tenant.clone(),
        session: session.id,
        id: id(),
        state: 1,
        parallel: concurrency == Concurrency::Parallel,
        log_version: 1,
        caller: Bytes::from_static(b"caller\x00"),
        summary: Bytes::from_static(b"summary\xfe"),
        create_time: time,
        update_time: time,
        expire_time: time + Duration::hours(24),
    }
}

pub fn change(state: i16, head: Option<[u8; 32]>) -> RunChange {
    RunChange { state, summary: Bytes::from(format!("state {state}")), time: now(), head }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        })
        .collect()
}
