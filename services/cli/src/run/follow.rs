//! Following a run to its end, across dropped streams and Ctrl-C.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::StreamExt as _;
use mar_proto::session::run_frame::Frame;
use mar_proto::session::{CancelRunRequest, Event, Run, RunFrame, RunTaskRequest, Task, WatchRunRequest};
use mar_runtime::clock::{Clock as _, SystemClock};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::progress::Progress;

/// Pauses before a dropped stream is opened again: doubling between these.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// So often in a row without a frame between; about half a minute.
const TRIES: u32 = 14;

type Frames = Pin<Box<dyn Stream<Item = Result<RunFrame, Status>> + Send>>;

/// Where a run comes from.
#[derive(Debug)]
pub enum Source {
    /// It is started.
    Task {
        /// Makes repeating the call safe.
        request_id: String,
        /// In this session.
        session: String,
        /// To do this.
        task: Box<Task>,
    },
    /// It is there, and has this name.
    Run(String),
}

/// A run that has ended.
#[derive(Debug)]
pub struct Followed {
    /// In its final state.
    pub run: Run,
    /// All its events.
    pub events: Vec<Event>,
}

/// A run that is being followed.
#[derive(Debug)]
pub struct Follow<'a> {
    endpoint: &'a Endpoint,
    progress: Progress,
    source: Source,
    run: Option<String>,
    next_seq: i64,
    /// Hash of the last event that was seen.
    after_hash: Bytes,
    events: Vec<Event>,
    interrupts: Signal,
    cancelling: JoinSet<Result<(), Status>>,
    cancel_wanted: bool,
}

/// Why the stream was left.
enum Left {
    Ended(Box<Run>),
    Dropped(Option<Status>),
}

impl<'a> Follow<'a> {
    /// # Errors
    /// Ctrl-C cannot be handled.
    pub fn new(endpoint: &'a Endpoint, progress: Progress, source: Source) -> Result<Self, Failure> {
        let interrupts =
            signal(SignalKind::interrupt()).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        let run = match &source {
            Source::Task { .. } => None,
            Source::Run(name) => Some(name.clone()),
        };
        Ok(Self {
            endpoint,
            progress,
            source,
            run,
            next_seq: 0,
            after_hash: Bytes::new(),
            events: Vec::new(),
            interrupts,
            cancelling: JoinSet::new(),
            cancel_wanted: false,
        })
    }

    /// The run at its end.
    ///
    /// # Errors
    /// The run cannot be started or followed, or the second Ctrl-C came.
    pub async fn to_end(mut self) -> Result<Followed, Failure> {
        let run = self.follow().await;
        self.progress.finish();
        Ok(Followed { run: run?, events: self.events })
    }

    async fn follow(&mut self) -> Result<Run, Failure> {
        let clock = SystemClock::new();
        let (mut pause, mut tries, mut seen) = (BACKOFF.0, 0, false);
        loop {
            let before = self.next_seq;
            let left = match self.open_or_interrupt().await? {
                Ok(frames) => self.read(frames, &mut seen).await?,
                Err(status) => Left::Dropped(Some(status)),
            };
            let status = match left {
                Left::Ended(run) => return Ok(*run),
                Left::Dropped(status) => status,
            };
            if self.next_seq > before {
                (pause, tries) = (BACKOFF.0, 0);
            }
            tries += 1;
            match status {
                // Nobody has answered yet: better said at once.
                Some(status) if !seen || !is_dropped(&status) => return Err(self.endpoint.failure(status)),
                Some(status) if tries >= TRIES => return Err(self.given_up(self.endpoint.failure(status))),
                None if tries >= TRIES => {
                    return Err(self.given_up(Failure::new(Exit::Unavailable, "the stream ends without the run's end")));
                }
                _ => {}
            }
            self.progress.note("the stream was lost, resuming it");
            self.wait(&clock, pause).await?;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    fn given_up(&self, failure: Failure) -> Failure {
        match &self.run {
            Some(name) => failure.hint(format!("The run may go on. Follow it with: mar runs watch {name}")),
            None => failure,
        }
    }

    async fn wait(&mut self, clock: &SystemClock, pause: Duration) -> Result<(), Failure> {
        let waiting = clock.sleep(pause);
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                () = &mut waiting => return Ok(()),
                _ = self.interrupts.recv() => self.interrupted()?,
            }
        }
    }

    async fn open_or_interrupt(&mut self) -> Result<Result<Frames, Status>, Failure> {
        let opening = open(self.endpoint.clone(), self.call());
        tokio::pin!(opening);
        loop {
            tokio::select! {
                opened = &mut opening => return opened,
                _ = self.interrupts.recv() => self.interrupted()?,
            }
        }
    }

    fn call(&self) -> Call {
        let without_deltas = !self.progress.wants_deltas();
        match (&self.run, &self.source) {
            (Some(name), _) | (None, Source::Run(name)) => Call::Watch(WatchRunRequest {
                name: name.clone(),
                from_seq: self.next_seq,
                without_deltas,
                after_hash: self.after_hash.clone(),
            }),
            (None, Source::Task { request_id, session, task }) => Call::Run(Box::new(RunTaskRequest {
                request_id: request_id.clone(),
                session: session.clone(),
                task: Some(*task.clone()),
                without_deltas,
                ..RunTaskRequest::default()
            })),
        }
    }

    async fn read(&mut self, mut frames: Frames, seen: &mut bool) -> Result<Left, Failure> {
        loop {
            tokio::select! {
                frame = frames.next() => match frame {
                    None => return Ok(Left::Dropped(None)),
                    Some(Err(status)) => return Ok(Left::Dropped(Some(status))),
                    Some(Ok(frame)) => {
                        *seen = true;
                        if let Some(run) = self.take(frame) {
                            return Ok(Left::Ended(run));
                        }
                    }
                },
                _ = self.interrupts.recv() => self.interrupted()?,
                Some(cancelled) = self.cancelling.join_next() => self.cancelled(cancelled),
            }
        }
    }

    /// Shows a frame; answers the run when it was the last.
    fn take(&mut self, frame: RunFrame) -> Option<Box<Run>> {
        match frame.frame? {
            Frame::Snapshot(snapshot) => {
                if let Some(run) = snapshot.run {
                    self.run.get_or_insert(run.name);
                }
                if let Some(attempt) = snapshot.attempt {
                    self.progress.attempt(&attempt);
                }
                if std::mem::take(&mut self.cancel_wanted) {
                    self.cancel();
                }
            }
            // A resumed stream repeats nothing; a doubled event would still be shown once.
            Frame::Event(event) if event.seq >= self.next_seq => {
                self.next_seq = event.seq + 1;
                self.after_hash = event.hash.clone();
                self.progress.event(&event);
                self.events.push(event);
            }
            Frame::Event(_) => {}
            Frame::Attempt(attempt) => self.progress.attempt(&attempt),
            Frame::Delta(delta) => self.progress.delta(&delta),
            Frame::End(end) => return end.run.map(Box::new),
        }
        None
    }

    /// The first Ctrl-C cancels, the second leaves.
    fn interrupted(&mut self) -> Result<(), Failure> {
        if self.cancel_wanted || !self.cancelling.is_empty() {
            let failure = Failure::new(Exit::Left, "left; the run may still be going on");
            return Err(self.given_up(failure));
        }
        self.progress.note("cancelling the run; Ctrl-C again leaves at once");
        if self.run.is_some() {
            self.cancel();
        } else {
            self.cancel_wanted = true;
        }
        Ok(())
    }

    fn cancel(&mut self) {
        let (endpoint, name) = (self.endpoint.clone(), self.run.clone().unwrap_or_default());
        self.cancelling.spawn(async move {
            let mut client = endpoint.sessions().map_err(|_| Status::internal("no endpoint"))?;
            let request = CancelRunRequest { request_id: String::new(), name };
            client.cancel_run(endpoint.request(request)).await?;
            // Stays in flight for a second Ctrl-C to be told apart.
            std::future::pending().await
        });
    }

    fn cancelled(&mut self, outcome: Result<Result<(), Status>, tokio::task::JoinError>) {
        if let Ok(Err(status)) = outcome {
            self.progress.note(&format!("the run could not be cancelled: {}", status.message()));
        }
    }
}

enum Call {
    Run(Box<RunTaskRequest>),
    Watch(WatchRunRequest),
}

async fn open(endpoint: Endpoint, call: Call) -> Result<Result<Frames, Status>, Failure> {
    let mut client = endpoint.sessions()?;
    let without = || Status::data_loss("a frame is empty");
    Ok(match call {
        Call::Run(request) => client.run_task(endpoint.request(*request)).await.map(|stream| {
            let frames = stream.into_inner().map(move |answer| answer?.frame.ok_or_else(without));
            Box::pin(frames) as Frames
        }),
        Call::Watch(request) => client.watch_run(endpoint.request(request)).await.map(|stream| {
            let frames = stream.into_inner().map(move |answer| answer?.frame.ok_or_else(without));
            Box::pin(frames) as Frames
        }),
    })
}

/// Whether the stream was lost on the way, so that it can be resumed.
fn is_dropped(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Aborted
    )
}
