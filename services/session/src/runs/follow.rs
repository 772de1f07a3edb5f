//! Following a run: every event once and in order, deltas where they come.

use std::pin::Pin;
use std::sync::Arc;

use async_stream::try_stream;
use futures::Stream;
use mar_proto::session::run_frame::Frame;
use mar_proto::session::{Event, Run, RunEnd, RunFrame, RunSnapshot};
use uuid::Uuid;

use super::{Live, READ_BYTES, READ_EVENTS, Runs, has_ended};
use crate::error::Error;
use crate::feed::{Feed, View};
use crate::log;
use crate::view;

/// Frames of a followed run.
pub type FrameStream = Pin<Box<dyn Stream<Item = Result<RunFrame, Error>> + Send>>;

/// Why a follower wakes.
enum Wake {
    Delta(Option<Arc<RunFrame>>),
    Changed,
    Lost(Error),
}

/// What is followed, and how.
#[derive(Debug, Clone)]
pub struct Follow {
    /// Isolation boundary.
    pub tenant: String,
    /// The session.
    pub session: Uuid,
    /// The run.
    pub run: Uuid,
    /// First event to send.
    pub from_seq: i64,
    /// Whether deltas are sent.
    pub deltas: bool,
}

impl Runs {
    /// Follows a run from a cursor to its end.
    pub async fn follow(&self, follow: Follow) -> Result<FrameStream, Error> {
        let name = view::run_name(follow.session, follow.run);
        match self.live(&follow.tenant, follow.run).filter(|live| live.session == follow.session) {
            Some(live) => {
                let next_seq = live.feed.views().borrow().run.next_seq;
                check_cursor(follow.from_seq, next_seq)?;
                Ok(self.clone().follow_live(live, follow))
            }
            None => {
                let row = self.row(&follow.tenant, follow.session, follow.run, &name).await?;
                if !has_ended(row.state) {
                    return Err(Error::RunUnowned);
                }
                let run = self.whole_run(&row).await?;
                check_cursor(follow.from_seq, run.next_seq)?;
                Ok(self.clone().follow_ended(run, follow))
            }
        }
    }

    fn follow_ended(self, run: Run, follow: Follow) -> FrameStream {
        Box::pin(try_stream! {
            let end = run.next_seq;
            yield snapshot(&View { run: run.clone().into(), attempt: None, stopping: true, over: true });
            let mut cursor = follow.from_seq;
            while cursor < end {
                for event in self.read(&follow, None, cursor, end).await? {
                    cursor = event.seq + 1;
                    yield frame(Frame::Event(event));
                }
            }
            yield frame(Frame::End(RunEnd { run: Some(run) }));
        })
    }

    fn follow_live(self, live: Live, follow: Follow) -> FrameStream {
        Box::pin(try_stream! {
            let mut views = live.feed.views();
            let mut deltas = live.feed.deltas();
            let feed = live.feed.clone();
            let mut cursor = follow.from_seq;
            let opening = views.borrow_and_update().clone();
            yield snapshot(&opening);
            loop {
                let view = views.borrow_and_update().clone();
                while cursor < view.run.next_seq {
                    for event in self.read(&follow, Some(&feed), cursor, view.run.next_seq).await? {
                        cursor = event.seq + 1;
                        yield frame(Frame::Event(event));
                    }
                }
                if view.over {
                    yield frame(Frame::End(RunEnd { run: Some((*view.run).clone()) }));
                    break;
                }
                let wake = tokio::select! {
                    biased;
                    delta = deltas.recv(), if follow.deltas => Wake::Delta(delta.ok()),
                    () = self.0.shutdown.cancelled() => Wake::Lost(Error::Draining),
                    changed = views.changed() => changed.map_or(Wake::Lost(Error::RunUnowned), |()| Wake::Changed),
                    // An executor that was fenced leaves without a last view.
                    () = self.gone(&follow) => Wake::Lost(Error::RunUnowned),
                };
                match wake {
                    Wake::Delta(Some(delta)) => yield (*delta).clone(),
                    // A delta that was missed is superseded by the committed turn.
                    Wake::Delta(None) | Wake::Changed => {}
                    Wake::Lost(error) => Err(error)?,
                }
            }
        })
    }

    /// Resolves when the run is no longer executed here and its last view was not the end.
    async fn gone(&self, follow: &Follow) {
        loop {
            self.clock().sleep(std::time::Duration::from_secs(1)).await;
            let over = |live: &Live| live.feed.views().borrow().over;
            if self.live(&follow.tenant, follow.run).is_none_or(|live| over(&live)) {
                // The end may have come between; the loop sees it first on its next turn.
                self.clock().sleep(std::time::Duration::from_millis(100)).await;
                return;
            }
        }
    }

    /// Events from `cursor` to below `end`, from the feed or the store.
    async fn read(&self, follow: &Follow, feed: Option<&Feed>, cursor: i64, end: i64) -> Result<Vec<Event>, Error> {
        let rows = match feed.and_then(|feed| feed.recent(cursor)) {
            Some(rows) => rows,
            None => self.store().event_read(&follow.tenant, follow.run, cursor, READ_EVENTS, READ_BYTES).await?,
        };
        let name = view::run_name(follow.session, follow.run);
        let wanted = rows.iter().filter(|row| row.seq < end);
        let events = wanted.map(|row| log::present(&name, row, false)).collect::<Result<Vec<_>, _>>()?;
        if events.is_empty() {
            return Err(crate::store::Error::Corrupt("event log").into());
        }
        Ok(events)
    }
}

fn check_cursor(from_seq: i64, next_seq: i64) -> Result<(), Error> {
    if from_seq > next_seq { Err(Error::CursorOutOfRange { from_seq, next_seq }) } else { Ok(()) }
}

fn snapshot(view: &View) -> RunFrame {
    let snapshot = RunSnapshot { run: Some((*view.run).clone()), attempt: view.attempt.clone() };
    frame(Frame::Snapshot(snapshot))
}

fn frame(frame: Frame) -> RunFrame {
    RunFrame { frame: Some(frame) }
}
