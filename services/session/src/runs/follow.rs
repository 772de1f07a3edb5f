//! Following a run: every event once and in order, deltas where they come.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use futures::Stream;
use mar_proto::session::run_frame::Frame;
use mar_proto::session::{AttemptStarted, Event, Run, RunEnd, RunFrame, RunSnapshot, RunState, event_leaf::Body};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use super::{Live, READ_BYTES, READ_EVENTS, Runs, elsewhere::Heard, has_ended, stored_run};
use crate::error::Error;
use crate::feed::{Feed, View};
use crate::log;
use crate::sabotage::Fault;
use crate::view;

/// Frames of a followed run.
pub type FrameStream = Pin<Box<dyn Stream<Item = Result<RunFrame, Error>> + Send>>;

/// How often a run that waits is looked at, should another replica wake it.
const PARKED_PAUSE: Duration = Duration::from_secs(2);
/// How often a run that another replica executes is looked at.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(500);

/// Why a follower wakes.
enum Wake {
    /// A frame that no store keeps.
    Delta(Arc<RunFrame>),
    /// There may be more to see.
    Changed,
    /// The service stops.
    Lost,
}

/// The feed of a run that is executed here.
struct Here {
    feed: Feed,
    views: watch::Receiver<View>,
    deltas: broadcast::Receiver<Arc<RunFrame>>,
}

impl Here {
    fn attach(live: Live) -> Self {
        Self { views: live.feed.views(), deltas: live.feed.deltas(), feed: live.feed }
    }

    fn look(&mut self) -> View {
        self.views.borrow_and_update().clone()
    }
}

/// How much of the log a follower has.
struct Seen {
    /// The next event's `seq`.
    cursor: i64,
    /// Hash of the event before that, where it is known.
    last: Option<[u8; 32]>,
    /// The latest ownership that was seen: a run's row tells of a new one with the next change of its state only.
    epoch: i64,
}

impl Seen {
    /// Takes the next event: it follows what was seen before, or is of another log.
    fn take(&mut self, follow: &Follow, event: &Event) -> Result<(), Error> {
        if self.last.is_some_and(|last| event.prev_hash != last[..]) {
            return Err(lost_tail(follow, self.cursor));
        }
        self.last = <[u8; 32]>::try_from(&event.hash[..]).ok();
        self.cursor = event.seq + 1;
        self.epoch = event.body.as_ref().map_or(self.epoch, |leaf| leaf.epoch);
        Ok(())
    }

    /// Whether what was seen is the log that the run has ended with.
    fn check_end(&self, follow: &Follow, run: &Run) -> Result<(), Error> {
        let head = run.seal.as_ref().map(|seal| &seal.head);
        let other = self.last.zip(head).is_some_and(|(last, head)| head[..] != last[..]);
        let lost = run.next_seq < self.cursor || other;
        if lost { Err(lost_tail(follow, run.next_seq.min(self.cursor))) } else { Ok(()) }
    }
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
    /// Hash of the event before that, where the caller knows it.
    pub after: Option<[u8; 32]>,
    /// Whether deltas are sent.
    pub deltas: bool,
}

impl Runs {
    /// Follows a run from a cursor to its end, whoever executes it.
    pub async fn follow(&self, follow: Follow) -> Result<FrameStream, Error> {
        let name = view::run_name(follow.session, follow.run);
        self.activity().note(&follow.tenant, follow.session);
        // Who has seen more than the executor here knows of has seen it from the run's next owner.
        let live = self.live_of(&follow).map(|live| live.feed.views().borrow().clone());
        let opening = match live.filter(|view| follow.from_seq <= view.run.next_seq) {
            Some(view) => view,
            None => {
                let row = self.row(&follow.tenant, follow.session, follow.run, &name).await?;
                self.view_of(&row).await?
            }
        };
        self.check_cursor(&follow, opening.run.next_seq).await?;
        Ok(self.clone().frames(opening, follow))
    }

    fn live_of(&self, follow: &Follow) -> Option<Live> {
        self.shown(&follow.tenant, follow.session, follow.run)
    }

    fn frames(self, opening: View, follow: Follow) -> FrameStream {
        Box::pin(try_stream! {
            let mut seen = Seen { cursor: follow.from_seq, last: follow.after, epoch: opening.run.epoch };
            let mut moved = self.0.moved.subscribe();
            let mut afar = None;
            let mut attempt = opening.attempt.clone();
            yield snapshot(&opening);
            let mut view = opening;
            loop {
                // Attached before the events are read: what comes meanwhile wakes.
                let mut here = self.live_of(&follow).map(Here::attach);
                if here.is_none() && afar.is_none() {
                    afar = Some(self.0.elsewhere.follow(follow.run));
                }
                view = self.latest(&follow, here.as_mut(), view, seen.cursor).await?;
                loop {
                    while seen.cursor < view.run.next_seq {
                        let feed = here.as_ref().map(|here| &here.feed);
                        for event in self.read(&follow, feed, seen.cursor, view.run.next_seq).await? {
                            seen.take(&follow, &event)?;
                            if event.seq % 5 == 4 && self.0.shared.sabotage.is(Fault::DropEvent) {
                                continue;
                            }
                            yield frame(Frame::Event(event));
                        }
                    }
                    if view.over {
                        seen.check_end(&follow, &view.run)?;
                        yield frame(Frame::End(RunEnd { run: Some((*view.run).clone()) }));
                        return;
                    }
                    // Its executor waits for the store, and nobody knows for how long.
                    if view.stuck {
                        Err(crate::store::Error::away())?;
                    }
                    // Its executor let go: the run is parked, or somebody else's.
                    if view.left {
                        break;
                    }
                    let Some(here) = &mut here else { break };
                    match self.wake_here(here, follow.deltas).await {
                        Wake::Delta(delta) => yield (*delta).clone(),
                        Wake::Changed => view = here.look(),
                        Wake::Lost => Err(Error::Draining)?,
                    }
                }
                let pause = if view.run.state() == RunState::Waiting { PARKED_PAUSE } else { ELSEWHERE_PAUSE };
                let until = self.clock().monotonic() + pause;
                self.say_followed(follow.run, seen.epoch.max(view.run.epoch));
                loop {
                    match self.wake_elsewhere(&mut moved, &mut afar, until).await {
                        Wake::Delta(frame) if follow.deltas && is_news(&frame, &mut attempt) => yield (*frame).clone(),
                        Wake::Delta(_) => {}
                        Wake::Changed => break,
                        Wake::Lost => Err(Error::Draining)?,
                    }
                }
            }
        })
    }

    async fn latest(&self, follow: &Follow, here: Option<&mut Here>, last: View, cursor: i64) -> Result<View, Error> {
        match here {
            Some(here) => Ok(here.look()),
            None if last.over => Ok(last),
            None => self.seen_from_here(follow, cursor).await,
        }
    }

    /// Waits for news of a run that is executed here.
    async fn wake_here(&self, here: &mut Here, wants_deltas: bool) -> Wake {
        tokio::select! {
            biased;
            // A delta that was missed is superseded by the committed turn.
            delta = here.deltas.recv(), if wants_deltas => delta.map_or(Wake::Changed, Wake::Delta),
            () = self.0.shutdown.cancelled() => Wake::Lost,
            _ = here.views.changed() => Wake::Changed,
        }
    }

    /// Waits for news of a run that is not executed here, or until it is time to look at it again.
    async fn wake_elsewhere(
        &self,
        moved: &mut watch::Receiver<()>,
        afar: &mut Option<broadcast::Receiver<Heard>>,
        until: Duration,
    ) -> Wake {
        let left = until.saturating_sub(self.clock().monotonic());
        tokio::select! {
            biased;
            () = self.0.shutdown.cancelled() => Wake::Lost,
            _ = moved.changed() => Wake::Changed,
            heard = heard(afar) => match heard {
                Some(Heard::Shown(frame)) => Wake::Delta(frame),
                Some(Heard::Moved) | None => Wake::Changed,
            },
            () = self.clock().sleep(left) => Wake::Changed,
        }
    }

    /// A run that is not executed here, by its stored state; how far its log goes is found by reading it.
    async fn seen_from_here(&self, follow: &Follow, cursor: i64) -> Result<View, Error> {
        let name = view::run_name(follow.session, follow.run);
        let row = self.row(&follow.tenant, follow.session, follow.run, &name).await?;
        let over = has_ended(row.state);
        let mut run = if over { self.whole_run(&row).await? } else { stored_run(&row)? };
        if !over {
            run.next_seq = self.shown_up_to(follow, cursor).await?;
        }
        if run.next_seq < cursor {
            return Err(lost_tail(follow, run.next_seq));
        }
        Ok(View::of(run, over))
    }

    /// Whether the log has what the caller says it has seen.
    async fn check_cursor(&self, follow: &Follow, next_seq: i64) -> Result<(), Error> {
        let from_seq = follow.from_seq;
        let Some(after) = follow.after else {
            let beyond = from_seq > next_seq;
            return if beyond { Err(Error::CursorOutOfRange { from_seq, next_seq }) } else { Ok(()) };
        };
        let live = self.live_of(follow).and_then(|live| live.feed.recent(from_seq - 1));
        let rows = match live.filter(|rows| !rows.is_empty()) {
            Some(rows) => rows,
            None => self.store().event_read(&follow.tenant, follow.run, from_seq - 1, 1, READ_BYTES).await?,
        };
        let seen = rows.first().is_some_and(|row| row.seq == from_seq - 1 && row.hash == after);
        if seen { Ok(()) } else { Err(lost_tail(follow, next_seq.min(from_seq))) }
    }

    /// How far the log of an open run is shown: its end is not before its seal is stored.
    async fn shown_up_to(&self, follow: &Follow, cursor: i64) -> Result<i64, Error> {
        let next = self.store().event_next(&follow.tenant, follow.run).await?;
        if next <= cursor {
            return Ok(next);
        }
        let last = self.store().event_read(&follow.tenant, follow.run, next - 1, 1, READ_BYTES).await?;
        let ends = last.first().map(|last| log::decode(follow.run, last)).transpose()?;
        let ends = ends.is_some_and(|(_, event)| matches!(event.body, Body::RunEnded(_)));
        Ok(if ends { next - 1 } else { next })
    }

    /// Events from `cursor` to below `end`, from the feed or the store.
    async fn read(&self, follow: &Follow, feed: Option<&Feed>, cursor: i64, end: i64) -> Result<Vec<Event>, Error> {
        let rows = match feed.and_then(|feed| feed.recent(cursor)) {
            Some(rows) => rows,
            None => self.store().event_read(&follow.tenant, follow.run, cursor, READ_EVENTS, READ_BYTES).await?,
        };
        let wanted = rows.iter().filter(|row| row.seq < end);
        let events =
            wanted.map(|row| log::present(follow.session, follow.run, row, false)).collect::<Result<Vec<_>, _>>()?;
        if events.is_empty() {
            // They were committed, and its executor has not noticed yet.
            let next = self.store().event_next(&follow.tenant, follow.run).await?;
            let lost = next < end;
            return Err(if lost { lost_tail(follow, next) } else { crate::store::Error::Corrupt("event log").into() });
        }
        Ok(events)
    }
}

/// What is heard of a run that another replica executes; none where something was missed.
async fn heard(afar: &mut Option<broadcast::Receiver<Heard>>) -> Option<Heard> {
    match afar {
        Some(afar) => afar.recv().await.ok(),
        None => std::future::pending().await,
    }
}

/// Whether a frame from elsewhere says more than the attempt that is known to be open: that is told more than once.
fn is_news(frame: &RunFrame, open: &mut Option<AttemptStarted>) -> bool {
    let Some(Frame::Attempt(attempt)) = &frame.frame else { return true };
    let place = |attempt: &AttemptStarted| (attempt.step, attempt.epoch, attempt.attempt);
    open.replace(attempt.clone()).is_none_or(|before| place(&before) != place(attempt))
}

fn lost_tail(follow: &Follow, next_seq: i64) -> Error {
    Error::LogTailLost { name: view::run_name(follow.session, follow.run), next_seq }
}

fn snapshot(view: &View) -> RunFrame {
    let snapshot = RunSnapshot { run: Some((*view.run).clone()), attempt: view.attempt.clone() };
    frame(Frame::Snapshot(snapshot))
}

fn frame(frame: Frame) -> RunFrame {
    RunFrame { frame: Some(frame) }
}
