//! A parent's pool as the logs of its tree have it.

use uuid::Uuid;

use super::{Runs, salt_key};
use crate::clients::RunContext;
use crate::counters::{Held, PoolRebuild};
use crate::error::Error;
use crate::log;
use crate::run::State;
use crate::store::{self, SessionRow};

impl Runs {
    /// What a rebuild of the pool that a child draws from needs; `None` where its parent keeps it no more. The token has to be
    /// older than this reading.
    pub(crate) async fn pool_rebuild(
        &self,
        context: &RunContext,
        child: &State,
        token: i64,
    ) -> Result<Option<PoolRebuild>, Error> {
        let Some(link) = child.parent.as_ref() else { return Ok(None) };
        let tenant = &context.caller.tenant;
        let session = self.store().session_get(tenant, child.session).await?;
        let session = session.ok_or(store::Error::Corrupt("run without its session"))?;
        let parent = self.logged(&session, link.run).await?.ok_or(store::Error::Corrupt("parent of a run"))?;
        let Some((_, family)) = parent.delegations().find(|(_, family)| family.pool == link.pool) else {
            return Ok(None);
        };
        let mut held = Vec::with_capacity(family.children.len());
        for sibling in &family.children {
            // One that is not admitted yet has drawn nothing, and draws from the new pool.
            if let Some(state) = self.logged(&session, sibling.run).await? {
                held.push(state.held());
            }
        }
        Ok(Some(PoolRebuild { root: child.root(), pool: family.pool, token, size: family.pool_size, held }))
    }

    /// A run of the session as its log says; `None` for one that has none.
    async fn logged(&self, session: &SessionRow, run: Uuid) -> Result<Option<State>, Error> {
        let events = self.events(&session.tenant, run).await?;
        if events.is_empty() {
            return Ok(None);
        }
        Ok(Some(log::replay(run, session.id, salt_key(session)?, &events)?.0))
    }
}

impl State {
    /// What the run, a child, holds of its parent's pool at the most: what it has left of neither allotment nor draws when it
    /// has ended, else what it has drawn and what a change on its way may draw.
    pub fn held(&self) -> Held {
        let amounts = if self.ended() {
            self.used - self.allotment()
        } else {
            self.drawn + self.draw().map(|draw| draw.want).unwrap_or_default()
        };
        Held { run: self.run, epoch: self.epoch, seq: self.next_seq - 1, amounts }
    }
}
