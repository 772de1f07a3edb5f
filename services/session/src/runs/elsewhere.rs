//! Runs that one replica executes and another shows: whoever has followers of a run that it does not execute says so, and
//! the replica that executes it tells it of every commit, and sends what no store keeps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mar_proto::session::{RunFrame, run_frame::Frame};
use prost::Message as _;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::Runs;
use crate::feed::Feed;
use crate::signals::Signal;

/// How often a replica says again what it has followers of.
const AGAIN: Duration = Duration::from_secs(2);
/// How long it is believed.
const BELIEVED: Duration = Duration::from_secs(5);
/// Frames kept for a follower that is slow for a moment.
const FRAMES: usize = 256;
/// Runs that are told of elsewhere at a time; the followers of more of them find out by their timers.
const MOST: usize = 1_024;

/// What is heard of a run that another replica executes.
#[derive(Debug, Clone)]
pub(super) enum Heard {
    /// There may be more of it in the store.
    Moved,
    /// A frame that no store keeps.
    Shown(Arc<RunFrame>),
}

#[derive(Debug)]
struct Followed {
    heard: broadcast::Sender<Heard>,
    /// When others were last told that it is followed here, and in which ownership of it: its next owner has not heard.
    told: Option<(Duration, i64)>,
}

/// What this replica follows elsewhere, and what it tells others of.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    followed: Mutex<HashMap<Uuid, Followed>>,
    /// By run and replica, until when.
    told: Mutex<HashMap<(Uuid, String), Duration>>,
}

impl Elsewhere {
    /// What is heard of a run from now on.
    pub(super) fn follow(&self, run: Uuid) -> broadcast::Receiver<Heard> {
        let mut followed = lock(&self.followed);
        followed.retain(|other, entry| *other == run || entry.heard.receiver_count() > 0);
        let entry =
            followed.entry(run).or_insert_with(|| Followed { heard: broadcast::Sender::new(FRAMES), told: None });
        entry.heard.subscribe()
    }

    /// Whether it is time to say that the run is followed here.
    fn is_due(&self, run: Uuid, epoch: i64, now: Duration) -> bool {
        let mut followed = lock(&self.followed);
        let Some(entry) = followed.get_mut(&run) else { return false };
        let due = entry.told.is_none_or(|(told, to)| to != epoch || now.saturating_sub(told) >= AGAIN);
        if due {
            entry.told = Some((now, epoch));
        }
        due
    }

    fn hear(&self, run: Uuid, heard: impl FnOnce() -> Option<Heard>) {
        let sender = lock(&self.followed).get(&run).map(|entry| entry.heard.clone());
        if let Some(sender) = sender.filter(|sender| sender.receiver_count() > 0)
            && let Some(heard) = heard()
        {
            // Who follows no more misses nothing.
            let _ = sender.send(heard);
        }
    }

    /// Believes a replica for a while longer; answers whether nobody tells it yet.
    fn believe(&self, run: Uuid, replica: &str, until: Duration) -> bool {
        let mut told = lock(&self.told);
        let full = told.len() >= MOST;
        match told.get_mut(&(run, replica.to_owned())) {
            Some(kept) => {
                *kept = until;
                false
            }
            None if full => false,
            None => told.insert((run, replica.to_owned()), until).is_none(),
        }
    }

    fn until(&self, run: Uuid, replica: &str) -> Duration {
        lock(&self.told).get(&(run, replica.to_owned())).copied().unwrap_or_default()
    }

    fn forget(&self, run: Uuid, replica: &str) {
        lock(&self.told).remove(&(run, replica.to_owned()));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runs {
    /// Hears what other replicas tell, until the service stops.
    pub(super) fn keep_listening(&self) {
        let runs = self.clone();
        self.0.tasks.spawn(async move {
            let heard = |signal| runs.hear(signal);
            tokio::select! {
                biased;
                () = runs.0.shutdown.cancelled() => {}
                () = runs.0.shared.signals.listen(&runs.0.owner, &heard) => {}
            }
        });
    }

    /// Tells other replicas, without waiting for it.
    pub(super) fn signal(&self, signal: Signal) {
        let signals = Arc::clone(&self.0.shared.signals);
        self.0.tasks.spawn(async move { signals.tell(None, &signal).await });
    }

    /// Says from time to time that a run is followed here, to whoever executes it.
    pub(super) fn say_followed(&self, run: Uuid, epoch: i64) {
        if self.0.elsewhere.is_due(run, epoch, self.clock().monotonic()) {
            self.signal(Signal::Followed(run, self.0.owner.to_string()));
        }
    }

    fn hear(&self, signal: Signal) {
        match signal {
            Signal::Wanted(run) => {
                match self.live_anyones(run) {
                    Some(live) => live.inbox.mail(),
                    None => self.0.claim.notify_one(),
                }
                self.0.elsewhere.hear(run, || Some(Heard::Moved));
            }
            Signal::Followed(run, replica) => {
                if let Some(live) = self.live_anyones(run).filter(|_| *replica != *self.0.owner) {
                    self.tell_of(run, replica, live.feed);
                }
            }
            Signal::Moved(run) => self.0.elsewhere.hear(run, || Some(Heard::Moved)),
            Signal::Shown(run, frame) => {
                let shown = || Some(Heard::Shown(Arc::new(RunFrame::decode(frame).ok()?)));
                self.0.elsewhere.hear(run, shown);
            }
        }
    }

    /// Tells a replica of a run for as long as it has followers of it.
    fn tell_of(&self, run: Uuid, replica: String, feed: Feed) {
        if !self.0.elsewhere.believe(run, &replica, self.clock().monotonic() + BELIEVED) {
            return;
        }
        let runs = self.clone();
        self.0.tasks.spawn(async move {
            runs.relay(run, &replica, &feed).await;
            runs.0.elsewhere.forget(run, &replica);
        });
    }

    async fn relay(&self, run: Uuid, replica: &str, feed: &Feed) {
        let signals = &self.0.shared.signals;
        let (mut views, mut deltas) = (feed.views(), feed.deltas());
        // It may have begun since the followers read the log.
        let open = views.borrow_and_update().attempt.clone();
        if let Some(attempt) = open {
            let frame = RunFrame { frame: Some(Frame::Attempt(attempt)) };
            signals.tell(Some(replica), &Signal::Shown(run, frame.encode_to_vec().into())).await;
        }
        loop {
            let left = self.0.elsewhere.until(run, replica).saturating_sub(self.clock().monotonic());
            if left.is_zero() {
                return;
            }
            let over = views.borrow().over || views.borrow().left;
            if over {
                signals.tell(Some(replica), &Signal::Moved(run)).await;
                return;
            }
            let signal = tokio::select! {
                biased;
                () = self.0.shutdown.cancelled() => return,
                delta = deltas.recv() => match delta {
                    Ok(frame) => Signal::Shown(run, frame.encode_to_vec().into()),
                    // What was missed is superseded by the committed turn.
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => Signal::Moved(run),
                },
                changed = views.changed() => match changed {
                    Ok(()) => Signal::Moved(run),
                    Err(_) => return,
                },
                () = self.clock().sleep(left) => continue,
            };
            signals.tell(Some(replica), &signal).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_owner_is_told_at_once_and_again_from_time_to_time() {
        let (elsewhere, run) = (Elsewhere::default(), Uuid::from_u128(7));
        let later = Duration::from_secs(100);
        assert!(!elsewhere.is_due(run, 1, later), "nobody follows it here");
        let _following = elsewhere.follow(run);
        assert!(elsewhere.is_due(run, 1, later));
        assert!(!elsewhere.is_due(run, 1, later + AGAIN / 2), "its owner has been told");
        assert!(elsewhere.is_due(run, 2, later + AGAIN / 2), "the next owner has not");
        assert!(!elsewhere.is_due(run, 2, later + AGAIN));
        assert!(elsewhere.is_due(run, 2, later + AGAIN / 2 + AGAIN), "it forgets");
    }
}
