//! Runs in execution: admitted here, or claimed after a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mar_descriptor::{SaltKey, SigningKey};
use mar_proto::session::{Run, RunState, Session};
use mar_proto::types::HaltingPolicy;
use mar_runtime::auth::Caller;
use mar_runtime::clock::Ids;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::caller;
use crate::clients::{Introduced, RunContext};
use crate::error::Error;
use crate::executor::{Begin, Executor, Inbox, Shared};
use crate::feed::Feed;
use crate::log;
use crate::run::Input;
use crate::store::{self, EventRow, RunRow, SessionRow, Store};

mod admit;
mod claim;
mod control;
mod follow;

pub use admit::Admit;
pub use follow::{Follow, FrameStream};

/// Runs claimed at a time.
const CLAIM_BATCH: i64 = 64;
/// How often runs that nobody executes are looked for: a claim that failed is made up for.
const CLAIM_INTERVAL: Duration = Duration::from_secs(5);
/// Events read at a time when a log is replayed or followed.
const READ_EVENTS: i64 = 256;
/// Payload read at a time.
const READ_BYTES: usize = 1 << 20;

/// Limits as the operator sets them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Where a task says nothing.
    pub default: HaltingPolicy,
    /// What a task may ask for at the most.
    pub max: HaltingPolicy,
}

/// All runs that this replica executes. Cheap to clone.
#[derive(Clone)]
pub struct Runs(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    ids: Arc<dyn Ids>,
    owner: String,
    limits: Limits,
    live: Mutex<HashMap<Uuid, Live>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A run in execution, as others reach it.
#[derive(Clone)]
struct Live {
    tenant: String,
    session: Uuid,
    inbox: Inbox,
    feed: Feed,
}

impl Runs {
    /// No runs yet. `ids` also names this replica as an owner: a restart is a new one.
    pub fn new(shared: Shared, ids: Arc<dyn Ids>, limits: Limits) -> Self {
        let owner = format!("session-{}", ids.uuid_v7());
        Self(Arc::new(Inner {
            shared: Arc::new(shared),
            ids,
            owner,
            limits,
            live: Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        }))
    }

    /// The limits that bind here.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        &*self.0.shared.store
    }

    /// The clock.
    pub fn clock(&self) -> &dyn mar_runtime::clock::Clock {
        &*self.0.shared.clock
    }

    /// Signs run seals and session seals.
    pub fn seal_key(&self) -> &SigningKey {
        &self.0.shared.seal_key
    }

    /// Ids.
    pub fn ids(&self) -> &dyn Ids {
        &*self.0.ids
    }

    /// Stops executing, where each run stands; the log has everything. Waits until no executor is left.
    pub async fn close(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn live(&self, tenant: &str, run: Uuid) -> Option<Live> {
        let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(&run).filter(|live| live.tenant == tenant).cloned()
    }

    fn live_of_session(&self, tenant: &str, session: Uuid) -> Vec<Live> {
        let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.values().filter(|live| live.tenant == tenant && live.session == session).cloned().collect()
    }

    /// Executes a run from its log on.
    fn execute(
        &self,
        session: &SessionRow,
        caller: Caller,
        rows: &[EventRow],
        run: Uuid,
        input: Input,
    ) -> Result<(), Error> {
        let (state, log) = log::replay(run, session.id, salt_key(session)?, rows)?;
        let context = RunContext {
            caller: Arc::new(caller),
            session: session.id,
            run,
            epoch: state.epoch,
            descriptor: None,
            introduced: Arc::new(Introduced::default()),
        };
        let begin = Begin {
            purpose: session_body(session)?.purpose,
            first_leaf: rows.first().map(|row| row.leaf.clone()).unwrap_or_default(),
            context,
            state,
            log,
            input,
        };
        let span = tracing::info_span!(
            "invoke_agent",
            otel.kind = "internal",
            gen_ai.operation.name = "invoke_agent",
            gen_ai.conversation.id = %session.id,
            run.id = %run,
        );
        let (executor, inbox, feed) =
            Executor::new(Arc::clone(&self.0.shared), begin, self.0.shutdown.clone(), span.clone());
        let live = Live { tenant: session.tenant.clone(), session: session.id, inbox, feed };
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner).insert(run, live);
        let inner = Arc::clone(&self.0);
        let task = async move {
            executor.drive().await;
            inner.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
        };
        self.0.tasks.spawn(task.instrument(span));
        Ok(())
    }

    /// A run of the tenant, as it is now.
    pub async fn get(&self, tenant: &str, session: Uuid, run: Uuid, name: &str) -> Result<Run, Error> {
        if let Some(live) = self.live(tenant, run).filter(|live| live.session == session) {
            return Ok((*live.feed.views().borrow().run).clone());
        }
        let row = self.row(tenant, session, run, name).await?;
        self.whole_run(&row).await
    }

    /// A run as its row says, with the whole task: summaries leave the input out.
    async fn whole_run(&self, row: &RunRow) -> Result<Run, Error> {
        let mut found = stored_run(row)?;
        let first = self.store().event_read(&row.tenant, row.id, 0, 1, READ_BYTES).await?;
        if let Some(first) = first.first() {
            found.task = log::decode(first)?.1.content.task.or(found.task);
        }
        Ok(found)
    }

    /// A run's row; one of another session or tenant is not there.
    async fn row(&self, tenant: &str, session: Uuid, run: Uuid, name: &str) -> Result<RunRow, Error> {
        let row = self.store().run_get(tenant, run).await?;
        row.filter(|row| row.session == session).ok_or_else(|| Error::NotFound { kind: "run", name: name.to_owned() })
    }
}

/// The key of a session's commitments.
fn salt_key(session: &SessionRow) -> Result<SaltKey, Error> {
    let key = <[u8; 32]>::try_from(session.salt_key.as_ref()).map_err(|_| store::Error::Corrupt("salt key"))?;
    Ok(SaltKey::from_bytes(key))
}

/// A session as it is encoded in its row.
pub fn session_body(row: &SessionRow) -> Result<Session, Error> {
    Ok(Session::decode(row.body.clone()).map_err(|_| store::Error::Corrupt("session"))?)
}

/// A run as its row says.
pub fn stored_run(row: &RunRow) -> Result<Run, Error> {
    Ok(Run::decode(row.summary.clone()).map_err(|_| store::Error::Corrupt("run summary"))?)
}

/// Whether a stored state is final.
pub fn has_ended(state: i16) -> bool {
    state >= RunState::Succeeded as i16
}

fn stored_caller(row: &RunRow) -> Result<Caller, Error> {
    Ok(caller::decode(&row.tenant, &row.caller)?)
}
