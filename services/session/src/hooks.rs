//! Hooks: what happens in sessions is told to addresses of the operator's, at least once and in order per session.
//!
//! Nothing is told from where it happens. A transaction that changes a session marks it for its tenant's hooks; what there is to
//! tell is derived from the logs, and how much was told is kept per session and hook. One replica at a time tells a session
//! to a hook, by a claim that lapses; each hook has tasks of its own, so that one that hangs delays nobody but itself.
//!
//! **Invariant:** a notice is behind the cursor only when the hook has taken it, or when it is kept as a dead one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mar_runtime::status::{Resource, chain};
mod cursor;
mod notice;
mod sign;
mod sink;

pub use notice::NoticeKind;
pub use sign::Key;
pub use sink::Address;

use crate::crash::Point;
use crate::error::Error;
use crate::guard::unwound;
use crate::runs::Runs;
use crate::store::hook::{Claim, DeadNotice, DeadPage, Due};
use cursor::Cursor;
use notice::Notice;
use sink::{Parcel, Refusal, Sink};

/// Pause between two looks for what is to be told.
const LOOK: Duration = Duration::from_millis(250);
/// Sessions that one hook is told of at a time.
const AT_A_TIME: i64 = 8;
/// Notices of one session before others have their turn.
const TURN: usize = 64;
/// The longest pause before a notice is tried again.
const MOST_PAUSE: Duration = Duration::from_secs(600);
/// The longest rest of a hook that takes nothing.
const MOST_REST: Duration = Duration::from_secs(60);

/// A hook as the operator lays it down.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Whose sessions it is told of.
    pub tenant: String,
    /// Its name, unique for the tenant.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// What notices are signed with.
    pub key: Key,
    /// What it is told of; empty for everything.
    pub kinds: BTreeSet<NoticeKind>,
    /// Attempts before a notice is dead.
    pub max_attempts: i32,
    /// Pause before the second attempt; doubled with each.
    pub retry: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// How one turn of a session went.
enum Turn {
    /// The hook took what there was.
    Taken,
    /// It did not.
    Failed,
    /// Somebody else tells this session now.
    Lost,
}

/// The hooks of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Hooks {
    runs: Runs,
    hooks: Arc<Vec<(Hook, Sink)>>,
}

impl Hooks {
    /// These hooks.
    ///
    /// # Errors
    /// The way to one cannot be made.
    pub fn try_new(runs: Runs, hooks: Vec<Hook>) -> Result<Self, String> {
        let with_sink = |hook: Hook| Sink::try_new(&hook.address, hook.timeout).map(|sink| (hook, sink));
        let hooks = hooks.into_iter().map(with_sink).collect::<Result<_, _>>()?;
        Ok(Self { runs, hooks: Arc::new(hooks) })
    }

    /// Tells, in a task for each hook, until the service stops.
    pub fn begin(&self) {
        for at in 0..self.hooks.len() {
            let hooks = self.clone();
            self.runs.spawn(async move {
                let (mut failures, mut pause) = (0, LOOK);
                while hooks.runs.pause_or_stop(pause).await {
                    failures = unwound(hooks.look(at, failures)).await.unwrap_or(failures + 1);
                    let (hook, _) = &hooks.hooks[at];
                    pause = if failures == 0 { LOOK } else { doubled(hook.retry, failures, MOST_REST).max(LOOK) };
                }
            });
        }
    }

    /// Tells a hook everything that is due. Answers how often in a row it took nothing.
    async fn look(&self, at: usize, mut failures: i32) -> i32 {
        let (hook, sink) = &self.hooks[at];
        // A hook that takes nothing is asked with one session at a time whether it is back.
        let limit = if failures == 0 { AT_A_TIME } else { 1 };
        let claims = match self.runs.store().hook_claim(&hook.tenant, &hook.name, limit).await {
            Ok(claims) => claims,
            Err(error) => {
                tracing::debug!(hook = hook.name, error = %chain(&error), "a hook waits for the store");
                return failures;
            }
        };
        for turn in join_all(claims.iter().map(|claim| self.tell(hook, sink, claim))).await {
            match turn {
                Ok(Turn::Taken) => failures = 0,
                Ok(Turn::Failed) => failures = failures.saturating_add(1),
                Ok(Turn::Lost) | Err(Error::Draining) => {}
                Err(error) => tracing::debug!(hook = hook.name, error = %chain(&error), "a session is told later"),
            }
        }
        failures
    }

    /// Tells a hook what it does not know of a session.
    async fn tell(&self, hook: &Hook, sink: &Sink, claim: &Claim) -> Result<Turn, Error> {
        let store = self.runs.store();
        let log = store.session_log(&claim.tenant, claim.session).await?;
        let mut told = Cursor::decode(&claim.cursor)?;
        let mut attempts = claim.attempts;
        for _ in 0..TURN {
            let mut ahead = told.clone();
            let Some(notice) = ahead.next(store, &claim.tenant, claim.session, &log).await? else {
                let saved = store.hook_save(claim, &ahead.encode(), 0, Due::Told).await?;
                return Ok(if saved { Turn::Taken } else { Turn::Lost });
            };
            let wanted = hook.kinds.is_empty() || hook.kinds.contains(&notice.kind);
            if wanted && let Err(refusal) = self.send(hook, sink, &notice.id, encode(&notice)).await? {
                attempts = attempts.saturating_add(1);
                if !refusal.for_good && attempts < hook.max_attempts {
                    let pause = doubled(hook.retry, attempts, MOST_PAUSE);
                    let saved = store.hook_save(claim, &told.encode(), attempts, Due::In(pause)).await?;
                    return Ok(if saved { Turn::Failed } else { Turn::Lost });
                }
                if !self.bury(claim, &ahead, &notice, &refusal, attempts).await? {
                    return Ok(Turn::Lost);
                }
            } else if wanted {
                self.runs.crash().pass(Point::HookTaken).await;
                if !store.hook_save(claim, &ahead.encode(), 0, Due::Held).await? {
                    return Ok(Turn::Lost);
                }
            }
            (told, attempts) = (ahead, 0);
        }
        let saved = store.hook_save(claim, &told.encode(), 0, Due::In(Duration::ZERO)).await?;
        Ok(if saved { Turn::Taken } else { Turn::Lost })
    }

    async fn bury(
        &self,
        claim: &Claim,
        cursor: &Cursor,
        notice: &Notice,
        refusal: &Refusal,
        attempts: i32,
    ) -> Result<bool, Error> {
        let dead = DeadNotice {
            hook: claim.hook.clone(),
            id: notice.id.clone(),
            session: claim.session,
            notice: encode(notice).into(),
            failure: refusal.text.clone(),
            attempts,
            time: self.runs.clock().now(),
        };
        tracing::warn!(hook = claim.hook, session.id = %claim.session, failure = refusal.text, "a notice is dead");
        Ok(self.runs.store().hook_bury(claim, &cursor.encode(), &dead).await?)
    }

    /// Sends a notice, unless the service stops meanwhile.
    async fn send(&self, hook: &Hook, sink: &Sink, id: &str, body: Vec<u8>) -> Result<Result<(), Refusal>, Error> {
        let timestamp = self.runs.clock().now().unix_timestamp();
        let signature = hook.key.sign(id, timestamp, &body);
        let parcel = Parcel { id: id.to_owned(), timestamp, body: body.into(), signature };
        tokio::select! {
            () = self.runs.stopped() => Err(Error::Draining),
            sent = sink.deliver(&parcel) => Ok(sent),
        }
    }

    /// Dead notices of a tenant.
    pub async fn dead(&self, tenant: &str, page: &DeadPage) -> Result<Vec<DeadNotice>, Error> {
        Ok(self.runs.store().dead_list(tenant, page).await?)
    }

    /// Sends a dead notice once more, and drops it when the hook takes it.
    pub async fn retry(&self, tenant: &str, hook: &str, id: &str) -> Result<(), Error> {
        let name = format!("hooks/{hook}/notices/{id}");
        let none = |kind| Error::NotFound { kind, name: name.clone() };
        let dead = self.runs.store().dead_get(tenant, hook, id).await?.ok_or_else(|| none(Resource::DeadNotice))?;
        let known = self.hooks.iter().find(|(known, _)| known.tenant == tenant && known.name == hook);
        let (hook, sink) = known.ok_or_else(|| none(Resource::Hook))?;
        if let Err(refusal) = self.send(hook, sink, id, dead.notice.to_vec()).await? {
            return Err(Error::HookUnavailable { hook: hook.name.clone(), why: refusal.text });
        }
        Ok(self.runs.store().dead_drop(tenant, &hook.name, id).await?)
    }
}

fn encode(notice: &Notice) -> Vec<u8> {
    serde_json::to_vec(notice).unwrap_or_default()
}

/// A pause, doubled with each failure behind the first.
fn doubled(first: Duration, failures: i32, most: Duration) -> Duration {
    let times = u32::try_from(failures.saturating_sub(1).clamp(0, 20)).unwrap_or(0);
    first.saturating_mul(1 << times).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let second = Duration::from_secs(1);
        let pauses: Vec<_> = [1, 2, 3, 11, i32::MAX].map(|failures| doubled(second, failures, MOST_PAUSE)).into();
        assert_eq!(pauses, [second, 2 * second, 4 * second, MOST_PAUSE, MOST_PAUSE]);
    }
}
