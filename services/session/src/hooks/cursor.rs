//! How much of a session was told, and what comes next: derived from the session's log and its runs' logs, which are the truth.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::notice::{self, Notice};
use crate::store::session_log::kind;
use crate::store::{Error, SessionLogRow, Store};

/// Leaves read at a time.
const LEAVES: i64 = 256;

/// How much of a session was told.
///
/// The session's log is told entry by entry, and a run that it has admitted event by event before the next entry: what
/// happened to a run before the session went on is told before that, and each run's events in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The next entry of the session's log.
    log: i64,
    /// How much of each run that was admitted and not sealed by then.
    runs: BTreeMap<Uuid, Place>,
}

/// How much of a run was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The next event.
    next: i64,
    /// It has left PENDING for good.
    begun: bool,
}

impl Cursor {
    /// As it is stored; empty for a session of which nothing was told.
    ///
    /// # Errors
    /// What is stored is no cursor.
    pub fn decode(stored: &[u8]) -> Result<Self, Error> {
        if stored.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(stored).map_err(|_| Error::Corrupt("cursor of a hook"))
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Moves behind the next thing that is to be told, and answers it. `log` was read before; what happened in runs up to its
    /// last entry is there to be read by now.
    ///
    /// # Errors
    /// The store gives no answer.
    pub async fn next(
        &mut self,
        store: &dyn Store,
        tenant: &str,
        session: Uuid,
        log: &[SessionLogRow],
    ) -> Result<Option<Notice>, Error> {
        loop {
            let runs: Vec<Uuid> = self.runs.keys().copied().collect();
            for run in runs {
                if let Some(notice) = self.next_of(store, tenant, session, run).await? {
                    return Ok(Some(notice));
                }
            }
            let at = usize::try_from(self.log).unwrap_or(usize::MAX);
            let Some(entry) = log.get(at) else { return Ok(None) };
            self.log += 1;
            match (entry.kind.as_str(), entry.run) {
                (kind::RUN_ADMITTED, Some(run)) => drop(self.runs.insert(run, Place::default())),
                (kind::RUN_SEALED, Some(run)) => drop(self.runs.remove(&run)),
                _ => {}
            }
            if let Some(notice) = notice::of_entry(tenant, session, entry, &log[..at]) {
                return Ok(Some(notice));
            }
        }
    }

    async fn next_of(
        &mut self,
        store: &dyn Store,
        tenant: &str,
        session: Uuid,
        run: Uuid,
    ) -> Result<Option<Notice>, Error> {
        let mut place = self.runs.get(&run).copied().unwrap_or_default();
        loop {
            let leaves = store.event_leaves(tenant, run, place.next, LEAVES).await?;
            if leaves.is_empty() {
                self.runs.insert(run, place);
                return Ok(None);
            }
            for (seq, leaf) in leaves {
                place.next = seq.saturating_add(1);
                if let Some(notice) = notice::of_event(tenant, (session, run), seq, leaf, &mut place.begun) {
                    self.runs.insert(run, place);
                    return Ok(Some(notice));
                }
            }
        }
    }
}
