//! What a run in execution shows to those who follow it.
//!
//! Events are not sent through the feed: it only tells that there are more, and followers read them from the store by
//! cursor (or from the few that are kept here). A slow follower costs nothing and misses nothing. Deltas are sent through a
//! bounded channel and may be missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use mar_proto::session::{AttemptStarted, Run, RunFrame};
use tokio::sync::{broadcast, watch};

use crate::store::EventRow;

/// Committed events kept for followers that are close behind.
const RECENT: usize = 64;
/// Deltas kept for a follower that is slow for a moment.
const DELTAS: usize = 256;

/// A run at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// The run.
    pub run: Arc<Run>,
    /// The attempt that is open.
    pub attempt: Option<AttemptStarted>,
    /// Whether a demand to stop is durable.
    pub stopping: bool,
    /// Whether the run has ended, is sealed, and nothing more will come.
    pub over: bool,
    /// Whether nothing more comes from here: its executor has let go of the run.
    pub left: bool,
    /// Whether a commit has waited for the store for so long that followers are better told.
    pub stuck: bool,
}

impl View {
    /// A run that nobody executes here, as the store has it.
    pub fn of(run: Run, over: bool) -> Self {
        Self { run: run.into(), attempt: None, stopping: over, over, left: false, stuck: false }
    }
}

/// The executor's end.
#[derive(Debug, Clone)]
pub struct Feed {
    view: watch::Sender<View>,
    deltas: broadcast::Sender<Arc<RunFrame>>,
    recent: Arc<Mutex<VecDeque<EventRow>>>,
}

impl Feed {
    /// A feed that begins with this view.
    pub fn new(view: View) -> Self {
        Self { view: watch::Sender::new(view), deltas: broadcast::Sender::new(DELTAS), recent: Arc::default() }
    }

    /// Shows committed events and the view after them.
    pub fn publish(&self, rows: &[EventRow], view: View) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.extend(rows.iter().cloned());
        let surplus = recent.len().saturating_sub(RECENT);
        recent.drain(..surplus);
        drop(recent);
        self.view.send_replace(view);
    }

    /// Tells followers to look elsewhere.
    pub fn leave(&self) {
        self.view.send_modify(|view| view.left = true);
    }

    /// Tells followers that a commit waits for the store, until the next view is shown or [`Feed::unstuck`].
    pub fn stuck(&self) {
        self.view.send_if_modified(|view| !std::mem::replace(&mut view.stuck, true));
    }

    /// The store is back.
    pub fn unstuck(&self) {
        self.view.send_if_modified(|view| std::mem::replace(&mut view.stuck, false));
    }

    /// Shows a delta or an attempt to whoever listens.
    pub fn delta(&self, frame: RunFrame) {
        if self.deltas.receiver_count() > 0 {
            // Nobody listening any more is no fault.
            let _ = self.deltas.send(Arc::new(frame));
        }
    }

    /// Committed events from `from_seq` on, where they are still kept here.
    pub fn recent(&self, from_seq: i64) -> Option<Vec<EventRow>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let first = recent.front()?.seq;
        (first <= from_seq).then(|| recent.iter().filter(|row| row.seq >= from_seq).cloned().collect())
    }

    /// The view now, and later ones.
    pub fn views(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Deltas from now on.
    pub fn deltas(&self) -> broadcast::Receiver<Arc<RunFrame>> {
        self.deltas.subscribe()
    }
}
