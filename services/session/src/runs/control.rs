//! Stopping runs from outside.

use mar_proto::session::Run;
use uuid::Uuid;

use super::{Live, Runs, has_ended, stored_run};
use crate::error::Error;
use crate::feed::View;
use crate::run::Input;
use crate::store::Page;
use crate::view;

impl Runs {
    /// Asks a run to stop, and answers when the demand is durable. A run that has ended stays as it is.
    pub async fn cancel(
        &self,
        tenant: &str,
        session: Uuid,
        run: Uuid,
        principal: &str,
        name: &str,
    ) -> Result<Run, Error> {
        let Some(live) = self.live(tenant, run).filter(|live| live.session == session) else {
            let row = self.row(tenant, session, run, name).await?;
            return if has_ended(row.state) { self.whole_run(&row).await } else { Err(Error::RunUnowned) };
        };
        live.inbox.send(Input::Cancel { reason: "CANCELLED_BY_CALLER", principal: principal.to_owned() });
        let view = wait_until(self, &live, |view| view.stopping).await?;
        Ok((*view.run).clone())
    }

    /// Stops every run of a session and waits until each is sealed.
    pub async fn end_session(&self, tenant: &str, session: Uuid, principal: &str) -> Result<(), Error> {
        loop {
            let live = self.live_of_session(tenant, session);
            for live in &live {
                live.inbox.send(Input::Cancel { reason: "SESSION_ENDED", principal: principal.to_owned() });
            }
            for live in &live {
                wait_until(self, live, |view| view.over).await?;
            }
            if live.is_empty() {
                return if self.has_open(tenant, session).await? { Err(Error::StillEnding) } else { Ok(()) };
            }
            tokio::task::yield_now().await;
        }
    }

    async fn has_open(&self, tenant: &str, session: Uuid) -> Result<bool, Error> {
        for state in [1, 2, 3] {
            let page = Page { state: Some(state), limit: 1, ..Page::default() };
            if !self.store().run_list(tenant, Some(session), page).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A run as a list shows it: what is live is fresher than its row.
    fn freshest(&self, tenant: &str, run: Uuid) -> Option<Run> {
        let live = self.live(tenant, run)?;
        let run = (*live.feed.views().borrow().run).clone();
        Some(view::summary(run))
    }
}

/// Waits for a view; a service that stops waits for nothing.
async fn wait_until(runs: &Runs, live: &Live, holds: impl FnMut(&View) -> bool) -> Result<View, Error> {
    let mut views = live.feed.views();
    tokio::select! {
        biased;
        found = views.wait_for(holds) => found.map(|view| view.clone()).map_err(|_| Error::RunUnowned),
        () = runs.0.shutdown.cancelled() => Err(Error::Draining),
    }
}

impl Runs {
    /// Asks a run to stop, without waiting for the answer.
    pub fn cancel_soon(&self, caller: &mar_runtime::auth::Caller, session: Uuid, run: Uuid) {
        if let Some(live) = self.live(&caller.tenant, run).filter(|live| live.session == session) {
            live.inbox.send(Input::Cancel { reason: "CANCELLED_BY_CALLER", principal: caller.principal.clone() });
        }
    }

    /// Lists runs, newest first; what is executed here is shown as it is now.
    pub async fn list(&self, tenant: &str, session: Option<Uuid>, page: Page) -> Result<Vec<(Uuid, Run)>, Error> {
        let rows = self.store().run_list(tenant, session, page).await?;
        let fresh = |row: &crate::store::RunRow| match self.freshest(tenant, row.id) {
            Some(run) => Ok((row.id, run)),
            None => Ok((row.id, stored_run(row)?)),
        };
        rows.iter().map(fresh).collect()
    }
}
