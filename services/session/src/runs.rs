//! Runs in execution: admitted here, or claimed after a restart.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mar_descriptor::{SaltKey, SigningKey};
use mar_proto::session::{Run, RunState, Session};
use mar_proto::types::HaltingPolicy;
use mar_runtime::auth::Caller;
use mar_runtime::clock::Ids;
use mar_runtime::status::Resource;
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::activity::Activity;
use crate::blobs::BlobLimits;
use crate::caller;
use crate::clients::{Introduced, RunContext};
use crate::crash::CrashPoints;
use crate::error::Error;
use crate::executor::{Begin, Executor, Inbox, Shared};
use crate::feed::{Feed, View};
use crate::log;
use crate::run::Input;
use crate::signals::Signal;
use crate::store::{self, EventRow, RunRow, SessionRow, Store};
use crate::tenants::Tenants;
use crate::view;

mod admit;
mod approvals;
mod children;
mod claim;
mod command;
mod control;
mod elsewhere;
mod follow;
mod fork;
mod history;
mod pools;
mod standing;
mod submit;
mod sweep;

pub use admit::Admit;
pub use approvals::Decide;
pub(crate) use children::Birth;
pub use command::Wish;
pub use control::Target;
pub use follow::{Follow, FrameStream};
pub use fork::{Fork, Forked};
pub use submit::Submit;

/// Runs claimed at a time.
const CLAIM_BATCH: i64 = 64;
/// Pause before something that the store did not let happen is tried again.
const STORE_PAUSE: Duration = Duration::from_millis(500);
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
    /// Tokens, reckoned by the byte, that a run may see of its session's earlier runs.
    pub history_tokens: i64,
    /// What may be streamed in.
    pub blobs: BlobLimits,
}

/// All runs that this replica executes. Cheap to clone.
#[derive(Clone)]
pub struct Runs(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    ids: Arc<dyn Ids>,
    owner: Arc<str>,
    limits: Limits,
    replicas: Replicas,
    live: Mutex<HashMap<Uuid, Live>>,
    /// Runs that were claimed, each with its epoch, and whose logs are being read.
    coming: Mutex<HashSet<(Uuid, i64)>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Runs may be there to be claimed.
    claim: Notify,
    /// A run has come here or left.
    moved: watch::Sender<()>,
    activity: Activity,
    elsewhere: elsewhere::Elsewhere,
    standing: standing::Standing,
}

/// How replicas know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// How often a replica shows that it is alive, and looks for runs that nobody executes.
    pub heartbeat: Duration,
    /// Runs of a replica that has shown no sign of life for so long are taken over.
    pub patience: Duration,
}

impl Default for Replicas {
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(500), patience: Duration::from_secs(2) }
    }
}

/// A run in execution, as others reach it.
#[derive(Clone)]
struct Live {
    tenant: String,
    session: Uuid,
    epoch: i64,
    inbox: Inbox,
    feed: Feed,
}

impl Inner {
    /// Forgets an executor that has ended. Another may have begun meanwhile, in a later epoch.
    fn let_go(&self, run: Uuid, epoch: i64) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.get(&run).is_some_and(|live| live.epoch == epoch) {
            live.remove(&run);
        }
        drop(live);
        self.moved.send_replace(());
    }
}

impl Runs {
    /// No runs yet. `ids` also names this replica as an owner: a restart is a new one.
    pub fn new(shared: Shared, ids: Arc<dyn Ids>, limits: Limits, replicas: Replicas) -> Self {
        let owner = format!("session-{}", ids.uuid_v7()).into();
        let standing = standing::Standing::new(shared.clock.monotonic());
        Self(Arc::new(Inner {
            standing,
            shared: Arc::new(shared),
            ids,
            owner,
            limits,
            replicas,
            claim: Notify::new(),
            moved: watch::Sender::new(()),
            activity: Activity::default(),
            elsewhere: elsewhere::Elsewhere::default(),
            live: Mutex::default(),
            coming: Mutex::default(),
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

    /// What holds for each tenant.
    pub fn tenants(&self) -> &Tenants {
        &self.0.shared.tenants
    }

    /// Which sessions calls have named.
    pub fn activity(&self) -> &Activity {
        &self.0.activity
    }

    /// Whether the service stops: what can be taken up again later is left.
    pub fn is_stopping(&self) -> bool {
        self.0.shutdown.is_cancelled()
    }

    /// Waits until the service stops.
    pub async fn stopped(&self) {
        self.0.shutdown.cancelled().await;
    }

    /// Where a test build dies.
    pub fn crash(&self) -> &CrashPoints {
        &self.0.shared.crash
    }

    /// Has a task of the service finish even if nobody waits for it any more; the service waits for it when it stops.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.tasks.spawn(task)
    }

    /// Ids.
    pub fn ids(&self) -> &dyn Ids {
        &*self.0.ids
    }

    /// Stops executing, where each run stands; the log has everything. Waits until no executor is left, lets others take the
    /// runs over, and tells them so.
    pub async fn close(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        if let Err(error) = self.store().leave(&self.0.owner).await {
            let error = mar_runtime::status::chain(&error);
            tracing::warn!(error = %error, "runs are not handed over; others wait for them to be missed");
        }
        self.0.shared.signals.tell(None, &Signal::Wanted(Uuid::nil())).await;
    }

    fn live(&self, tenant: &str, run: Uuid) -> Option<Live> {
        let live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(&run).filter(|live| live.tenant == tenant).cloned()
    }

    fn live_in(&self, tenant: &str, session: Uuid, run: Uuid) -> Option<Live> {
        self.live(tenant, run).filter(|live| live.session == session)
    }

    /// Whoever's it is: for what comes from other replicas, and shows nothing of it to a caller.
    fn live_anyones(&self, run: Uuid) -> Option<Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner).get(&run).cloned()
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
        let before_end = match rows.split_last() {
            Some((_, before)) if state.ended() => Some(log::replay(run, session.id, salt_key(session)?, before)?.0),
            _ => None,
        };
        let context = RunContext {
            caller: Arc::new(caller),
            session: session.id,
            run,
            epoch: state.epoch,
            agent: None,
            introduced: Arc::new(Introduced::default()),
        };
        let epoch = match &input {
            Input::Claimed { epoch, .. } => *epoch,
            _ => state.epoch,
        };
        let begin = Begin {
            owner: Arc::clone(&self.0.owner),
            kin: self.clone(),
            purpose: session_body(session)?.purpose,
            first_leaf: rows.first().map(|row| row.leaf.clone()).unwrap_or_default(),
            context,
            state,
            log,
            before_end,
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
        let live = Live { tenant: session.tenant.clone(), session: session.id, epoch, inbox, feed };
        if !self.show(run, live) {
            return Ok(());
        }
        let inner = Arc::clone(&self.0);
        let task = async move {
            executor.drive().await;
            inner.let_go(run, epoch);
        };
        self.0.tasks.spawn(task.instrument(span));
        Ok(())
    }

    /// Has a run found by those who look for it, unless its ownership came to light late and has a successor here already.
    fn show(&self, run: Uuid, live: Live) -> bool {
        let mut lives = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        if lives.get(&run).is_some_and(|known| known.epoch > live.epoch) {
            return false;
        }
        lives.insert(run, live);
        drop(lives);
        self.0.moved.send_replace(());
        true
    }

    /// A run of the tenant, as it is now.
    pub async fn get(&self, tenant: &str, session: Uuid, run: Uuid, name: &str) -> Result<Run, Error> {
        self.activity().note(tenant, session);
        if let Some(live) = self.shown(tenant, session, run) {
            return Ok((*live.feed.views().borrow().run).clone());
        }
        match self.stored(tenant, session, run, name).await {
            // What cannot be asked has not gone on either, unless it is away from here alone.
            Err(Error::Store(source)) if source.is_unavailable() => match self.live_in(tenant, session, run) {
                Some(live) => Ok((*live.feed.views().borrow().run).clone()),
                None => Err(source.into()),
            },
            stored => stored,
        }
    }

    async fn stored(&self, tenant: &str, session: Uuid, run: Uuid, name: &str) -> Result<Run, Error> {
        let row = self.row(tenant, session, run, name).await?;
        Ok(Arc::unwrap_or_clone(self.view_of(&row).await?.run))
    }

    /// A run that is not executed here: as its row says when it has ended, else as its log says.
    async fn view_of(&self, row: &RunRow) -> Result<View, Error> {
        if has_ended(row.state) {
            return Ok(View::of(self.whole_run(row).await?, true));
        }
        let session = self.store().session_get(&row.tenant, row.session).await?;
        let session = session.ok_or(store::Error::Corrupt("run without its session"))?;
        let events = self.events(&row.tenant, row.id).await?;
        if events.is_empty() {
            // A run is admitted with its first event: the store has lost both since the row was read.
            return Err(Error::NotFound { kind: Resource::Run, name: view::run_name(row.session, row.id) });
        }
        let (state, _) = log::replay(row.id, row.session, salt_key(&session)?, &events)?;
        if state.ended() {
            // Nobody sees an ended run without its seal, which is about to be stored; what came before its end can be read.
            let mut run = self.whole_run(row).await?;
            run.next_seq = state.next_seq - 1;
            return Ok(View::of(run, false));
        }
        Ok(View { attempt: view::open_attempt(&state), ..View::of(view::run(&state, self.clock().now(), None), false) })
    }

    /// A run as its row says, with the whole task: summaries leave the input out.
    async fn whole_run(&self, row: &RunRow) -> Result<Run, Error> {
        let mut found = stored_run(row)?;
        let first = self.store().event_read(&row.tenant, row.id, 0, 1, READ_BYTES).await?;
        if let Some(first) = first.first() {
            found.task = log::decode(row.id, first)?.1.content.task.or(found.task);
        }
        Ok(found)
    }

    /// A run's row; one of another session or tenant is not there.
    async fn row(&self, tenant: &str, session: Uuid, run: Uuid, name: &str) -> Result<RunRow, Error> {
        let row = self.store().run_get(tenant, run).await?;
        row.filter(|row| row.session == session)
            .ok_or_else(|| Error::NotFound { kind: Resource::Run, name: name.to_owned() })
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
