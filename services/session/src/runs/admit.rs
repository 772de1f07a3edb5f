//! Admission: the run is durable before anything happens for it.

use mar_descriptor::Hash;
use mar_proto::session::{BudgetScope, EventContent, Run, RunAdmitted, Session, SessionState, Task, event_leaf::Body};
use mar_proto::types::HaltingPolicy;
use mar_runtime::auth::Caller;
use mar_runtime::status::Resource;
use prost::Message as _;
use tracing::Instrument as _;
use uuid::Uuid;

use super::fork::Forked;
use super::history::Earlier;
use super::{Runs, has_ended, session_body};
use crate::budgets::BudgetLimit;
use crate::caller;
use crate::crash::Point;
use crate::error::Error;
use crate::log::{self, Log, stamp};
use crate::run::{Event, Input, State};
use crate::sabotage::Fault;
use crate::store::{self, Admission, EventRow, RequestKey, RunRow, SessionRow};
use crate::view;

/// Tries of an admission whose outcome the store did not tell, before it goes on in the background.
const TRIES: usize = 2;

/// Looks at a store that can be reached before a doubtful admission is believed not to have happened: 30 s, well beyond
/// what a store lets one transaction take.
const LOOKS: u32 = 60;

/// A run to admit, validated.
#[derive(Debug, Clone)]
pub struct Admit {
    /// The request's id in its scope.
    pub key: RequestKey,
    /// The session.
    pub session: Uuid,
    /// What is to be done.
    pub task: Task,
    /// Effective limits, complete.
    pub limits: HaltingPolicy,
    /// Whether other root runs of the session may be open.
    pub parallel: bool,
    /// What it is forked from.
    pub fork: Option<Forked>,
}

impl Runs {
    /// Admits a run, or finds the one that the same request admitted before. Goes on when nobody waits for it any more: a run
    /// that is durable and belongs to this replica has to be executed by it.
    pub async fn admit(&self, caller: &Caller, admit: Admit) -> Result<Run, Error> {
        let (runs, caller) = (self.clone(), caller.clone());
        let admitting = async move { runs.admit_here(&caller, admit).await };
        self.spawn(admitting.in_current_span()).await.map_err(|_| Error::Draining)?
    }

    async fn admit_here(&self, caller: &Caller, mut admit: Admit) -> Result<Run, Error> {
        let name = format!("sessions/{}", admit.session);
        self.activity().note(&caller.tenant, admit.session);
        let session = self.store().session_get(&caller.tenant, admit.session).await?;
        let session = session.ok_or_else(|| Error::NotFound { kind: Resource::Session, name: name.clone() })?;
        if session.state == SessionState::Erased as i16 {
            // The key that an event is made with is gone, and so is what an earlier request was known by.
            let used = self.store().request_seen(&caller.tenant, &admit.key).await?.is_some();
            return Err(if used { Error::RequestIdReused } else { Error::SessionEnded(name) });
        }
        if let Err(error) = self.resolve_blobs(&caller.tenant, admit.session, &mut admit.task).await
            // What was admitted before needs nothing that has gone since.
            && self.store().request_seen(&caller.tenant, &admit.key).await? != Some(true)
        {
            return Err(error);
        }
        let earlier = match &admit.fork {
            // It sees what the first run saw.
            Some(forked) => forked.earlier.clone(),
            None => self.earlier(&session, &admit).await?,
        };
        let (row, first, run) = self.prepare(caller, &session, &admit, earlier)?;
        self.0.shared.crash.pass_in(Point::AdmitOffered, row.id).await;
        if self.0.shared.sabotage.is(Fault::AckBeforeCommit) {
            self.admit_later(caller, session, admit.key, row, first);
            return Ok(run);
        }
        let admission = self.settle_admission(caller, &session, &admit.key, &row, &first).await?;
        match admission {
            Admission::Admitted => {
                self.0.shared.crash.pass_in(Point::AdmitCommitted, row.id).await;
                self.execute(&session, caller.clone(), &[first], row.id, Input::Begin)?;
                Ok(run)
            }
            Admission::Repeated(row) if row.session == admit.session => {
                let name = view::run_name(row.session, row.id);
                if has_ended(row.state) {
                    self.whole_run(&row).await
                } else {
                    self.get(&row.tenant, row.session, row.id, &name).await
                }
            }
            Admission::Repeated(_) | Admission::Reused => Err(Error::RequestIdReused),
            Admission::Busy(other) => Err(Error::SessionBusy(view::run_name(session.id, other))),
            Admission::NotOpen(Some(_)) => Err(Error::SessionEnded(name)),
            Admission::NotOpen(None) => Err(Error::NotFound { kind: Resource::Session, name }),
        }
    }

    /// Admits a run after it was answered for, as [`crate::sabotage`] has it.
    fn admit_later(&self, caller: &Caller, session: SessionRow, key: RequestKey, row: RunRow, first: EventRow) {
        let (runs, caller) = (self.clone(), caller.clone());
        let task = async move {
            #[cfg(debug_assertions)]
            runs.clock().sleep(crate::sabotage::Sabotage::LAG).await;
            if let Ok(Admission::Admitted) = runs.settle_admission(&caller, &session, &key, &row, &first).await {
                let _ = runs.execute(&session, caller, &[first], row.id, Input::Begin);
            }
        };
        self.0.tasks.spawn(task.in_current_span());
    }

    /// The budgets that bind a root run.
    fn budgets(&self, caller: &Caller, session: &SessionRow) -> Result<Vec<i32>, Error> {
        let of_tenant = self.0.shared.tenants.of(&caller.tenant).budget;
        let of_session = BudgetLimit::of_session(&session_body(session)?.budget.unwrap_or_default());
        let both = [(BudgetScope::Tenant, of_tenant), (BudgetScope::Session, of_session)];
        Ok(both.into_iter().filter(|(_, limit)| limit.binds()).map(|(scope, _)| scope.into()).collect())
    }

    /// Row, first event and view of a new run.
    fn prepare(
        &self,
        caller: &Caller,
        session: &SessionRow,
        admit: &Admit,
        earlier: Earlier,
    ) -> Result<(RunRow, EventRow, Run), Error> {
        let now = self.clock().now();
        let id = self.ids().uuid_v7();
        let expire_after = admit.limits.expire_after.as_ref();
        let expires_at =
            now + expire_after.map_or(time::Duration::DAY, |span| time::Duration::new(span.seconds, span.nanos));
        let event = Event {
            time: now,
            body: Body::RunAdmitted(RunAdmitted {
                session: format!("sessions/{}", session.id),
                task_type: admit.task.r#type.clone(),
                environment: caller.environment.clone(),
                limits: Some(admit.limits),
                expire_time: Some(stamp(expires_at)),
                history_through: earlier.through,
                budgets: self.budgets(caller, session)?,
                parent: None,
                fork: admit.fork.as_ref().map(|forked| forked.origin.clone()),
            }),
            content: EventContent {
                task: Some(admit.task.clone()),
                principal: caller.principal.clone(),
                session_json: session_json(&session_body(session)?),
                history: earlier.history,
                ..EventContent::default()
            },
            counted_seq: None,
            command: None,
        };
        let genesis = admit.fork.as_ref().map_or(Hash::ZERO, |forked| forked.genesis);
        let log = Log::of_child(id, super::salt_key(session)?, genesis);
        let first = log.encode(std::slice::from_ref(&event)).swap_remove(0);
        let state = State::admitted(id, session.id, &event).ok_or(store::Error::Corrupt("first event"))?;
        let run = view::run(&state, now, None);
        let row = RunRow {
            tenant: caller.tenant.clone(),
            session: session.id,
            id,
            state: i16::try_from(run.state).unwrap_or_default(),
            parallel: admit.parallel,
            log_version: log::VERSION,
            caller: caller::encode(caller),
            summary: view::summary(run.clone()).encode_to_vec().into(),
            create_time: now,
            update_time: now,
            expire_time: expires_at,
        };
        Ok((row, first, run))
    }

    /// Admits. When the store does not tell whether it did, the same row is offered again: in the end in the background,
    /// because a run that was admitted must not stay without an executor.
    async fn settle_admission(
        &self,
        caller: &Caller,
        session: &SessionRow,
        key: &RequestKey,
        row: &RunRow,
        first: &EventRow,
    ) -> Result<Admission, Error> {
        let mut last = None;
        for _ in 0..TRIES {
            match self.store().run_admit(key, row, first, &self.0.owner).await {
                Ok(admission) => return Ok(admission),
                Err(error) if error.is_unavailable() => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        let (runs, caller, session) = (self.clone(), caller.clone(), session.clone());
        let (key, row, first) = (key.clone(), row.clone(), first.clone());
        let task = async move { runs.find_out(&caller, &session, &key, &row, &first).await };
        self.0.tasks.spawn(task.in_current_span());
        Err(Error::Store(last.unwrap_or(store::Error::Corrupt("admission"))))
    }

    /// Finds out whether a doubtful admission happened, and executes its run if it did.
    async fn find_out(&self, caller: &Caller, session: &SessionRow, key: &RequestKey, row: &RunRow, first: &EventRow) {
        let mut absent = 0;
        loop {
            tokio::select! {
                biased;
                () = self.0.shutdown.cancelled() => return,
                () = self.clock().sleep(super::STORE_PAUSE) => {}
            }
            // Only what is there is looked for: offering the row again would admit a run that its caller may have given up.
            match self.store().run_get(&row.tenant, row.id).await {
                Ok(None) if absent >= LOOKS => return,
                // A commit that was on its way when the call was given up may still land.
                Ok(None) => absent += 1,
                Ok(Some(_)) => break,
                Err(_) => {}
            }
        }
        tracing::info!(run.id = %row.id, request.id = %key.request_id, "doubtful admission had happened");
        if let Err(error) = self.execute(session, caller.clone(), std::slice::from_ref(first), row.id, Input::Begin) {
            tracing::error!(run.id = %row.id, error = %error, "admitted run cannot be executed");
        }
    }
}

/// What the session commitment opens to: the session as of admission.
pub(super) fn session_json(session: &Session) -> String {
    let value = serde_json::json!({
        "name": session.name, "purpose": session.purpose, "labels": session.labels, "environment": session.environment,
    });
    value.to_string()
}
