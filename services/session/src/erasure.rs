//! Erasing sessions, and pruning what is past retention: recorded in the session's log first, then carried out piece by piece.
//!
//! **Invariant:** no payload is destroyed before the session's log says that it goes.
//!
//! Every piece may be repeated, and a timer of the store brings an erasure back whose replica died in the middle: whoever
//! claims it begins at the first piece.

use mar_proto::session::{Run, RunFailure, Session, SessionState, Task};
use mar_runtime::auth::Caller;
use mar_runtime::status::Resource;
use prost::Message as _;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::crash::Point;
use crate::error::{Error, Kept};
use crate::runs::{session_body, stored_run};
use crate::sessions::{Sessions, name};
use crate::store::erasure::{Begun, Extent};
use crate::store::{self, Page, RequestKey, SessionRow};

/// Runs read at a time.
const READ_RUNS: i64 = 50;
/// Blobs removed at a time.
const BLOBS: i32 = 64;

impl Sessions {
    /// Erases an ended session. Answers when nothing is left of it but its chains; once it is recorded that it goes it is carried
    /// out, whether or not somebody waits for it.
    pub async fn erase(&self, caller: &Caller, key: Option<&RequestKey>, id: Uuid) -> Result<Session, Error> {
        let tenant = &caller.tenant;
        let kept = |why| Error::SessionKept { session: name(id), why };
        if let Some(key) = key
            && self.store().request_seen(tenant, key).await? == Some(false)
        {
            return Err(Error::RequestIdReused);
        }
        let before = self.row(tenant, id).await?;
        if before.state < SessionState::Erased as i16 && self.terms(tenant).legal_hold {
            return Err(kept(Kept::LegalHold));
        }
        match self.store().erasure_begin(key, tenant, id, Extent::Everything).await? {
            Begun::Going => self.carry_out(tenant, id, Extent::Everything).await?,
            Begun::Gone => {}
            Begun::NotEnded(_) => return Err(kept(Kept::Open)),
            Begun::Absent => return Err(Error::NotFound { kind: Resource::Session, name: name(id) }),
            Begun::Reused => return Err(Error::RequestIdReused),
        }
        self.get(tenant, id).await
    }

    /// Carries an erasure out in a task of the service, and waits for it.
    async fn carry_out(&self, tenant: &str, id: Uuid, extent: Extent) -> Result<(), Error> {
        let (sessions, tenant) = (self.clone(), tenant.to_owned());
        let task = async move { sessions.destroy(&tenant, id, extent).await };
        // A service that stops leaves the rest to whoever claims the timer.
        let done = self.runs().spawn(task.in_current_span()).await;
        done.unwrap_or(Err(Error::Draining))
    }

    /// Destroys what the session's log says that goes.
    pub(crate) async fn destroy(&self, tenant: &str, id: Uuid, extent: Extent) -> Result<(), Error> {
        let (store, crash) = (self.store(), self.runs().crash());
        crash.pass(Point::ErasureRecorded).await;
        let row = self.row(tenant, id).await?;
        let mut page = Page { limit: READ_RUNS, ..Page::default() };
        loop {
            let runs = store.run_list(tenant, Some(id), page).await?;
            for run in &runs {
                if self.runs().is_stopping() {
                    return Err(Error::Draining);
                }
                let rest = remains(stored_run(run)?).encode_to_vec().into();
                store.erasure_run(tenant, run.id, &rest).await?;
                crash.pass(Point::ErasureRun).await;
            }
            page.before = runs.last().map(|run| run.id);
            if page.before.is_none() {
                break;
            }
        }
        while store.erasure_blobs(tenant, id, BLOBS).await? > 0 {
            crash.pass(Point::ErasureBlobs).await;
        }
        let rest = nameless(session_body(&row)?).encode_to_vec().into();
        let rest = SessionRow { body: rest, update_time: self.runs().clock().now(), ..row };
        store.erasure_finish(&rest, extent).await?;
        crash.pass(Point::ErasureDone).await;
        tracing::info!(session.id = %id, erasure.everything = extent == Extent::Everything, "payloads of a session are destroyed");
        Ok(())
    }

    /// Goes on with an erasure that nobody has carried out so far.
    pub(crate) async fn go_on(&self, tenant: &str, id: Uuid, extent: Extent) -> Result<(), Error> {
        if self.terms(tenant).legal_hold {
            tracing::warn!(session.id = %id, "an erasure that had begun waits: its tenant is under legal hold");
            return Err(Error::SessionKept { session: name(id), why: Kept::LegalHold });
        }
        self.destroy(tenant, id, extent).await
    }

    /// Removes what was streamed into a session and named by no run, when its time has come.
    pub(crate) async fn expire_blobs(&self, tenant: &str, id: Uuid) -> Result<(), Error> {
        if self.terms(tenant).legal_hold {
            return Err(Error::SessionKept { session: name(id), why: Kept::LegalHold });
        }
        Ok(self.store().blob_expire(tenant, id).await?)
    }

    fn store(&self) -> &dyn store::Store {
        self.runs().store()
    }
}

/// What is left of a run's summary: what its events' leaves say too.
fn remains(run: Run) -> Run {
    let kind = run.task.map(|task| Task { r#type: task.r#type, ..Task::default() });
    let failure = run.failure.map(|failure| RunFailure { message: String::new(), ..failure });
    Run { task: kind, answer: None, failure, held_calls: Vec::new(), ..run }
}

/// What is left of a session: nothing that says who or what it was for. Who started it is no secret of its contents, and stays.
fn nameless(session: Session) -> Session {
    Session { end_user: String::new(), purpose: String::new(), labels: Default::default(), ..session }
}
