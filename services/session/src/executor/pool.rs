//! Drawing on a parent's pool, and putting together again one that is lost.

use super::Executor;
use crate::counters::{Advance, Answer, Error};

/// Losses of the pool within one change that are healed; more are for the next try.
const HEALED: usize = 2;

impl Executor {
    /// Asks the counters. A pool that is lost is put together from the logs of the tree first; where the parent keeps it no
    /// more, the run goes on with what it has. A run whose own log has gone on meanwhile has another owner.
    pub(super) async fn advance_in_tree(&self, mut change: Advance) -> Result<Answer, Error> {
        let mut healed = 0;
        loop {
            let token = match self.advance(change).await {
                Err(Error::PoolLost(_)) if healed == HEALED => {
                    return Err(Error::Unavailable("the parent's pool is lost again and again".into()));
                }
                Err(Error::PoolLost(token)) => token,
                answer => return answer,
            };
            healed += 1;
            tracing::info!(run.id = %self.state.run, "pool of the parent is rebuilt");
            match self.kin.pool_rebuild(&self.context, &self.state, token).await {
                Ok(Some(rebuild)) => {
                    self.shared.counters.rebuild_pool(&rebuild).await?;
                    let own = rebuild.held.iter().find(|held| held.run == self.state.run);
                    if let Some(own) = own.filter(|own| own.seq >= self.state.next_seq) {
                        return Err(Error::Stale(change.epoch, own.epoch));
                    }
                }
                Ok(None) => change.draw = None,
                Err(source) => return Err(Error::Unavailable(Box::new(source))),
            }
        }
    }
}
