//! Stopping, pausing and listing runs.

use std::time::Duration;

use mar_proto::session::{Run, RunState, WaitReason};
use mar_runtime::auth::Caller;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Runs, Wish, has_ended, stored_run};
use crate::error::Error;
use crate::run::Command;
use crate::store::{Page, RequestKey};
use crate::view;

/// How long an answer to a cancel waits for the run to know of it.
const STOPPING: Duration = Duration::from_secs(5);
/// Pause between looks at runs that others end.
const LOOK: Duration = Duration::from_millis(100);

/// Open runs of one state that are looked at at a time.
const OPEN_RUNS: i64 = 100;
/// The states in which a run is open, in the order in which it goes through them.
const OPEN: [RunState; 3] = [RunState::Pending, RunState::Running, RunState::Waiting];

/// A run, and who wants something of it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The request's id in its scope, where it has one.
    pub key: Option<RequestKey>,
    /// The session.
    pub session: Uuid,
    /// The run.
    pub run: Uuid,
}

impl Runs {
    /// Asks a run to stop, and answers when the demand is durable. A run that has ended stays as it is.
    pub async fn cancel(&self, caller: &Caller, target: Target) -> Result<Run, Error> {
        let Target { key, session, run } = target;
        let (tenant, name) = (&caller.tenant, view::run_name(session, run));
        self.activity().note(tenant, session);
        let row = self.row(tenant, session, run, &name).await?;
        if let Some(key) = &key
            && self.store().request_seen(tenant, key).await? == Some(false)
        {
            return Err(Error::RequestIdReused);
        }
        if has_ended(row.state) {
            return self.whole_run(&row).await;
        }
        let cancel = Command::Cancel { reason: "CANCELLED_BY_CALLER".into(), principal: caller.principal.clone() };
        self.post(tenant, run, key.as_ref(), &cancel).await?;
        if let Some(live) = self.live(tenant, run) {
            let mut views = live.feed.views();
            // Where it is slow the demand is durable all the same.
            let stopping = views.wait_for(|view| view.stopping);
            let _ = mar_runtime::clock::within(self.clock(), STOPPING, stopping).await;
        }
        self.get(tenant, session, run, &name).await
    }

    /// Asks a run to park when nothing of it is in flight. One that is paused stays so.
    pub async fn pause(&self, caller: &Caller, target: Target) -> Result<Run, Error> {
        let name = view::run_name(target.session, target.run);
        let now = self.get(&caller.tenant, target.session, target.run, &name).await?;
        if let Some(key) = &target.key
            && self.store().request_seen(&caller.tenant, key).await? == Some(false)
        {
            return Err(Error::RequestIdReused);
        }
        if is_paused(&now) {
            return Ok(now);
        }
        let open = |run: &Run| i16::try_from(run.state).is_ok_and(|state| !has_ended(state));
        let command = Command::Pause { principal: caller.principal.clone() };
        self.command(wish(caller, target, command), open, is_paused).await
    }

    /// Lets a paused run go on.
    pub async fn resume_paused(&self, caller: &Caller, target: Target) -> Result<Run, Error> {
        self.command(wish(caller, target, Command::Resume), is_paused, |run| !is_paused(run)).await
    }

    /// Stops every run of a session and waits until each is sealed.
    pub async fn end_session(&self, tenant: &str, session: Uuid, principal: &str) -> Result<(), Error> {
        let cancel = Command::Cancel { reason: "SESSION_ENDED".into(), principal: principal.to_owned() };
        let mut asked = Vec::new();
        loop {
            // Those beyond these have their turn when these have ended.
            let mut open = Vec::new();
            for state in OPEN {
                open.extend(self.open_runs(tenant, session, state, None).await?);
            }
            if open.is_empty() {
                return Ok(());
            }
            for run in open {
                if !asked.contains(&run) {
                    self.post(tenant, run, None, &cancel).await?;
                    asked.push(run);
                }
            }
            let mut moved = self.0.moved.subscribe();
            tokio::select! {
                biased;
                () = self.0.shutdown.cancelled() => return Err(Error::Draining),
                _ = moved.changed() => {}
                () = self.clock().sleep(LOOK) => {}
            }
        }
    }

    /// Has the runs of a session that wait for a budget ask it again, whether or not somebody waits for it.
    pub async fn renew(&self, tenant: &str, session: Uuid) -> Result<(), Error> {
        let (runs, tenant) = (self.clone(), tenant.to_owned());
        let renewing = async move { runs.renew_all(&tenant, session).await };
        self.spawn(renewing.in_current_span()).await.unwrap_or(Err(Error::Draining))
    }

    /// State by state: a run that goes on to another one meanwhile was told in the one before, or is told in the next.
    async fn renew_all(&self, tenant: &str, session: Uuid) -> Result<(), Error> {
        for state in OPEN {
            let mut before = None;
            loop {
                if self.is_stopping() {
                    return Err(Error::Draining);
                }
                let open = self.open_runs(tenant, session, state, before).await?;
                for run in &open {
                    self.post(tenant, *run, None, &Command::Renew).await?;
                }
                before = open.last().copied();
                if before.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Open runs of a session in one state, newest first.
    async fn open_runs(
        &self,
        tenant: &str,
        session: Uuid,
        state: RunState,
        before: Option<Uuid>,
    ) -> Result<Vec<Uuid>, Error> {
        let page = Page { before, state: Some(state as i16), limit: OPEN_RUNS };
        Ok(self.store().run_list(tenant, Some(session), page).await?.iter().map(|row| row.id).collect())
    }

    /// A run as a list shows it: what is live is fresher than its row.
    fn freshest(&self, tenant: &str, run: Uuid) -> Option<Run> {
        let live = self.live(tenant, run)?;
        let run = (*live.feed.views().borrow().run).clone();
        Some(view::summary(run))
    }

    /// Asks a run to stop, without waiting for the answer.
    pub fn cancel_soon(&self, caller: &Caller, session: Uuid, run: Uuid) {
        let (runs, caller) = (self.clone(), caller.clone());
        let task = async move {
            let target = Target { key: None, session, run };
            if let Err(error) = runs.cancel(&caller, target).await {
                tracing::warn!(run.id = %run, error = %error, "run that nobody follows any more is not cancelled");
            }
        };
        self.0.tasks.spawn(task.in_current_span());
    }

    /// Lists runs, newest first; what is executed here is shown as it is now.
    pub async fn list(&self, tenant: &str, session: Option<Uuid>, page: Page) -> Result<Vec<(Uuid, Run)>, Error> {
        if let Some(session) = session {
            self.activity().note(tenant, session);
        }
        let rows = self.store().run_list(tenant, session, page).await?;
        let fresh = |row: &crate::store::RunRow| match self.freshest(tenant, row.id) {
            Some(run) => Ok((row.id, run)),
            None => Ok((row.id, stored_run(row)?)),
        };
        rows.iter().map(fresh).collect()
    }
}

fn is_paused(run: &Run) -> bool {
    run.pausing || run.wait_reason() == WaitReason::Paused
}

fn wish(caller: &Caller, target: Target, command: Command) -> Wish {
    let Target { key, session, run } = target;
    Wish { tenant: caller.tenant.clone(), key, session, run, command }
}
