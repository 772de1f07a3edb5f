//! The one place where a run's effects happen.
//!
//! An executor drives one run: it gathers inputs, asks the machine what they settle and reserve, the counters whether they
//! consent, and the machine what to append; it commits, shows the events, and then performs the effects, whose results
//! come back as inputs. Nothing is trusted before it is committed, and nothing is issued before its intent is.
//!
//! When the store is away an executor keeps the commit in its hand and repeats it; when the counters are away the run
//! waits with nothing in flight; when another owner has written the run's next event it stops without a trace.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use mar_descriptor::SigningKey;
use mar_proto::session::{EventLeaf, RunSeal};
use mar_runtime::clock::Clock;
use prost::Message as _;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Span;

use crate::clients::{Peers, RunContext};
use crate::counters::{self, Advance, Counters};
use crate::crash::{CrashPoints, Point};
use crate::feed::{Feed, View};
use crate::guard::unwound;
use crate::log::{Log, commitment};
use crate::run::{self, Charge, Counted, Effect, Event, Input, State, Timed};
use crate::runs::Runs;
use crate::sabotage::Sabotage;
use crate::signals::Signals;
use crate::store::{Append, EventRow, RunChange, Store};
use crate::tenants::Tenants;
use crate::view;

use approvals::Approvals;
use commands::Commands;
use store_wait::StoreWait;

mod approvals;
mod blobs;
mod call;
mod children;
mod commands;
mod effects;
mod generation;
mod hand_over;
mod lost_tail;
mod park;
mod pool;
mod probe;
mod recall;
mod refill;
mod sabotaged;
mod seal;
mod store_wait;
mod submission;

/// Pause before a commit, or a state change, is tried again: doubling between these.
const STORE_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// From this pause on followers are told that the store is away, and after so long the log: what passes sooner is not worth a
/// broken stream, nor an event.
const STUCK: Duration = Duration::from_millis(400);
/// Pause before counters that are away are asked again.
const COUNTERS_BACKOFF: Duration = Duration::from_millis(500);

/// How long a run that broke its executor is left alone, so that one that does it each time keeps nobody busy.
const BROKEN_PAUSE: Duration = Duration::from_secs(1);
/// The clock is looked at again after this at the latest, should it have jumped.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What every executor of the service shares.
pub struct Shared {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The halting counters.
    pub counters: Arc<dyn Counters>,
    /// The other services.
    pub peers: Arc<dyn Peers>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Signs run seals.
    pub seal_key: SigningKey,
    /// Where a test build dies.
    pub crash: CrashPoints,
    /// What holds for each tenant.
    pub tenants: Tenants,
    /// What a test build leaves out.
    pub sabotage: Sabotage,
    /// What replicas tell each other.
    pub signals: Arc<dyn Signals>,
}

/// What an executor begins with.
pub struct Begin {
    /// The run's caller and ids.
    pub context: RunContext,
    /// The session's purpose.
    pub purpose: String,
    /// What the log says.
    pub state: State,
    /// Its write end.
    pub log: Log,
    /// The leaf of the first event, whose commitments the seal binds.
    pub first_leaf: Bytes,
    /// What the log said before its last event, where that is the end of a run that is not sealed yet: nobody sees an ended
    /// run without its seal.
    pub before_end: Option<State>,
    /// The first input: admitted here, or claimed.
    pub input: Input,
    /// The replica.
    pub owner: Arc<str>,
    /// The way to the other runs of the tree.
    pub kin: Runs,
}

/// The way in for inputs from outside.
#[derive(Debug, Clone)]
pub struct Inbox {
    sender: mpsc::UnboundedSender<Timed>,
    mail: Arc<Notify>,
    fenced: CancellationToken,
    clock: Arc<dyn Clock>,
}

impl Inbox {
    /// Tells that the run has another owner.
    pub fn fence(&self) {
        self.fenced.cancel();
    }

    /// Tells that commands wait in the store.
    pub fn mail(&self) {
        self.mail.notify_one();
    }

    /// Hands an input over with the time of its arrival. An executor that is gone needs none.
    pub fn send(&self, input: Input) {
        let _ = self.sender.send(Timed { at: self.clock.now(), input });
    }
}

/// Drives one run.
pub struct Executor {
    shared: Arc<Shared>,
    context: RunContext,
    purpose: String,
    state: State,
    log: Log,
    first_leaf: Bytes,
    pending: Vec<Timed>,
    receiver: mpsc::UnboundedReceiver<Timed>,
    inbox: Inbox,
    feed: Feed,
    effects: TaskTracker,
    /// Cancelled to stop effects in flight.
    stop: CancellationToken,
    /// Cancelled by an effect that panicked.
    broken: CancellationToken,
    shutdown: CancellationToken,
    /// Counters that did not answer are not asked again before this.
    counters_after: Option<OffsetDateTime>,
    stored_state: i32,
    /// The events of the commit that ended the run, until they are shown with its seal.
    last_rows: Vec<EventRow>,
    owner: Arc<str>,
    kin: Runs,
    /// Number of the ownership that this executor has, which the log may not know of yet.
    held: i64,
    commands: Commands,
    approvals: Approvals,
    /// Whether a slice is being asked for.
    refilling: Arc<AtomicBool>,
    span: Span,
}

/// Why an executor goes no further.
enum Halt {
    /// The run has another owner.
    Fenced,
    /// The service stops; the log has everything.
    Shutdown,
    /// The run waits for somebody, and needs no executor until then.
    Parked,
    /// The store has lost events of the run.
    TailLost,
    /// The executor or an effect of it panicked: what is in memory may be half changed.
    Broken,
}

impl Executor {
    /// An executor with its inbox and feed.
    pub fn new(shared: Arc<Shared>, begin: Begin, shutdown: CancellationToken, span: Span) -> (Self, Inbox, Feed) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mail = Arc::new(Notify::new());
        let inbox = Inbox { sender, mail, fenced: CancellationToken::new(), clock: Arc::clone(&shared.clock) };
        let now = shared.clock.now();
        let view = View {
            run: Arc::new(view::run(begin.before_end.as_ref().unwrap_or(&begin.state), now, None)),
            attempt: None,
            stopping: false,
            over: false,
            left: false,
            stuck: false,
        };
        let feed = Feed::new(view);
        // Before a run was admitted nobody knew its name.
        let commands = if begin.input == Input::Begin { Commands::none() } else { Commands::perhaps() };
        let held = match &begin.input {
            Input::Claimed { epoch, .. } => *epoch,
            _ => begin.state.epoch,
        };
        let executor = Self {
            stored_state: view::run_state(begin.state.phase).into(),
            pending: vec![Timed { at: now, input: begin.input }],
            context: begin.context,
            purpose: begin.purpose,
            state: begin.state,
            log: begin.log,
            first_leaf: begin.first_leaf,
            receiver,
            inbox: inbox.clone(),
            feed: feed.clone(),
            effects: TaskTracker::new(),
            stop: shutdown.child_token(),
            broken: CancellationToken::new(),
            shutdown,
            counters_after: None,
            last_rows: Vec::new(),
            owner: begin.owner,
            kin: begin.kin,
            held,
            commands,
            approvals: Approvals::default(),
            refilling: Arc::default(),
            shared,
            span,
        };
        (executor, inbox, feed)
    }

    /// Drives the run until it has ended and is sealed, another owner has it, or the service stops. A panic, here or in an
    /// effect, is to the run what the death of this process would be, and to nothing else: it goes on from its log.
    pub async fn drive(mut self) {
        let halt = unwound(self.drive_on()).await.unwrap_or(Halt::Broken);
        self.stop.cancel();
        if !self.feed.views().borrow().over {
            self.feed.leave();
        }
        if matches!(halt, Halt::Fenced) {
            tracing::warn!(run.id = %self.state.run, run.epoch = self.state.epoch, "run has another owner");
        }
        self.effects.close();
        self.effects.wait().await;
        match halt {
            Halt::Fenced | Halt::TailLost => self.give_up(Duration::ZERO).await,
            Halt::Broken => {
                tracing::error!(run.id = %self.state.run, "run is let go of after a panic");
                self.give_up(BROKEN_PAUSE).await;
            }
            Halt::Shutdown | Halt::Parked => {}
        }
    }

    async fn drive_on(&mut self) -> Halt {
        if self.is_outrun() {
            return Halt::Fenced;
        }
        loop {
            let halt = match self.turn().await {
                Ok(()) if self.state.ended() => match self.seal().await {
                    Ok(()) => Halt::Shutdown,
                    Err(halt) => halt,
                },
                Ok(()) => match self.park().await {
                    Ok(true) => Halt::Parked,
                    Ok(false) => continue,
                    Err(halt) => halt,
                },
                Err(halt) => halt,
            };
            self.stop.cancel();
            if matches!(halt, Halt::Shutdown) {
                self.hand_over().await;
            }
            return halt;
        }
    }

    /// Whether the log knows of this ownership, or of later ones: a store that has gone back in time gives them out again.
    fn is_outrun(&self) -> bool {
        let claims = |timed: &Timed| matches!(timed.input, Input::Claimed { epoch, .. } if epoch <= self.state.epoch);
        self.pending.first().is_some_and(claims)
    }

    /// One transition, as soon as there is something worth one.
    async fn turn(&mut self) -> Result<(), Halt> {
        self.gather().await?;
        self.transition().await
    }

    /// Inputs, counters, commit, effects.
    async fn transition(&mut self) -> Result<(), Halt> {
        let charged = run::charge(&self.state, &self.pending);
        let counted = self.count(charged.charge).await?;
        let decision = run::decide(&self.state, &self.pending, charged, counted);
        let mut delayed = None;
        if !decision.events.is_empty() {
            let (events, unwritten) = self.written(decision.events);
            let rows = self.log.encode(&events);
            self.shared.crash.pass_in(Point::CommitBefore, self.state.run).await;
            let acknowledged = self.acknowledged(&events, &rows).await;
            delayed = self.commit(&rows).await?;
            if !acknowledged {
                self.accept(&events, &rows);
            }
            self.remember(&unwritten);
            // Who sees the run wait for a decision finds what to decide.
            self.note_approvals().await;
            if self.state.ended() {
                // Shown when it is sealed: nobody sees an ended run without its seal.
                self.last_rows = rows;
            } else if !acknowledged {
                self.show(&rows);
            }
            self.shared.crash.pass_in(Point::CommitDone, self.state.run).await;
            self.note_state().await;
        }
        self.commands.taken(&self.pending);
        self.pending.clear();
        self.pending.extend(delayed);
        for effect in decision.effects {
            match effect {
                Effect::Delegate { call_id } => self.delegate(&call_id).await?,
                Effect::StopChildren { call_id } => self.stop_children(&call_id).await?,
                effect => self.perform(effect),
            }
        }
        Ok(())
    }

    /// Takes in what is durable.
    fn accept(&mut self, events: &[Event], rows: &[EventRow]) {
        for (event, row) in events.iter().zip(rows) {
            self.state.apply(event);
            self.log.advance(row, self.state.epoch);
        }
        self.context.epoch = self.state.epoch;
    }

    /// Waits until there is something worth a commit.
    async fn gather(&mut self) -> Result<(), Halt> {
        loop {
            while let Ok(timed) = self.receiver.try_recv() {
                self.pending.push(timed);
            }
            if self.broken.is_cancelled() {
                return Err(Halt::Broken);
            }
            if self.inbox.fenced.is_cancelled() {
                return Err(Halt::Fenced);
            }
            if self.shutdown.is_cancelled() {
                return Err(Halt::Shutdown);
            }
            let fetched = self.fetch_commands().await;
            if run::ripe(&self.state, &self.pending) {
                return Ok(());
            }
            let clock = Arc::clone(&self.shared.clock);
            let mut wait = self.wake_at().map_or(LONGEST_SLEEP, |wake| {
                Duration::try_from(wake - clock.now()).unwrap_or(Duration::ZERO).min(LONGEST_SLEEP)
            });
            if !fetched {
                wait = wait.min(STORE_BACKOFF.1);
            }
            let mail = Arc::clone(&self.inbox.mail);
            tokio::select! {
                biased;
                () = self.broken.cancelled() => return Err(Halt::Broken),
                () = self.inbox.fenced.cancelled() => return Err(Halt::Fenced),
                () = self.shutdown.cancelled() => return Err(Halt::Shutdown),
                timed = self.receiver.recv() => self.pending.extend(timed),
                () = mail.notified() => self.commands.due(),
                () = clock.sleep(wait) => self.pending.push(Timed { at: clock.now(), input: Input::Timer }),
            }
        }
    }

    fn wake_at(&self) -> Option<OffsetDateTime> {
        let wake = self.state.wake_at()?;
        Some(self.counters_after.map_or(wake, |after| wake.max(after)))
    }

    /// Asks the counters, where the inputs settle something or what follows reserves something.
    async fn count(&mut self, charge: Charge) -> Result<Counted, Halt> {
        if charge.is_zero() {
            return Ok(Counted::Nothing);
        }
        self.shared.crash.pass_in(Point::AdvanceBefore, self.state.run).await;
        let advance = Advance {
            root: self.state.root(),
            run: self.state.run,
            epoch: charge.epoch,
            seq: self.state.next_seq,
            last_seq: self.state.counted_seq,
            // What somebody else reported may be anything.
            totals: self.state.used.bounded(),
            settle: charge.settle.bounded(),
            reserve: charge.reserve,
            limits: self.state.limit_amounts(),
            carve: charge.carve,
            draw: charge.draw,
        };
        match self.advance_in_tree(advance).await {
            Ok(answer) => {
                self.counters_after = None;
                self.shared.crash.pass_in(Point::AdvanceDone, self.state.run).await;
                Ok(Counted::Answer(answer))
            }
            Err(counters::Error::Unavailable(source)) => {
                tracing::warn!(run.id = %self.state.run, error = %source, "halting counters are unavailable");
                self.counters_after = Some(self.shared.clock.now() + COUNTERS_BACKOFF);
                Ok(Counted::Unavailable)
            }
            Err(counters::Error::Stale(..)) => Err(Halt::Fenced),
            Err(error) => {
                // Limits and reservations are bounded at admission, and a pool that is lost is rebuilt: a fault of ours
                // must not let the call through.
                tracing::error!(run.id = %self.state.run, error = %error, "counters refuse the change");
                self.counters_after = Some(self.shared.clock.now() + COUNTERS_BACKOFF);
                Ok(Counted::Unavailable)
            }
        }
    }

    /// Appends until it is durable; says what the log is to be told of the wait. The rows stay the same: repeating an append
    /// that had happened is told apart by its hash.
    async fn commit(&mut self, rows: &[EventRow]) -> Result<Option<Timed>, Halt> {
        let mut wait = self.store_wait();
        loop {
            let tenant = &self.context.caller.tenant;
            match self.shared.store.event_append(tenant, self.state.session, self.state.run, rows).await {
                Ok(Append::Done) => {
                    self.feed.unstuck();
                    return Ok(wait.over(self.shared.clock.now()));
                }
                Ok(Append::Fenced) => return self.fenced().map(|()| None),
                Err(error) if self.tail_is_lost(&error).await => return Err(self.stop_for_lost_tail().await),
                Err(error) => self.rest(&mut wait, &error).await?,
            }
        }
    }

    /// A wait for the store that begins now.
    fn store_wait(&self) -> StoreWait {
        StoreWait::new(self.shared.clock.now())
    }

    /// Pauses after a failure of the store.
    async fn rest(&self, wait: &mut StoreWait, error: &crate::store::Error) -> Result<(), Halt> {
        tracing::warn!(run.id = %self.state.run, error = %mar_runtime::status::chain(error), "commit waits for the store");
        let pause = wait.failed();
        if pause >= STUCK {
            self.feed.stuck();
        }
        let clock = Arc::clone(&self.shared.clock);
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(Halt::Shutdown),
            () = clock.sleep(pause) => Ok(()),
        }
    }

    /// Shows followers what was committed.
    fn show(&self, rows: &[EventRow]) {
        let view = View {
            run: Arc::new(view::run(&self.state, self.shared.clock.now(), None)),
            attempt: view::open_attempt(&self.state),
            stopping: self.state.stop.is_some(),
            over: false,
            left: false,
            stuck: false,
        };
        self.feed.publish(rows, view);
    }

    /// Records a change of state beside the log. The log is the truth: a change that cannot be noted now is noted with the
    /// next.
    async fn note_state(&mut self) {
        if let Err(error) = self.try_note_state().await {
            tracing::warn!(run.id = %self.state.run, error = %mar_runtime::status::chain(&error), "state not noted");
        }
    }

    async fn try_note_state(&mut self) -> Result<(), crate::store::Error> {
        let now = view::run_state(self.state.phase).into();
        if now != self.stored_state && !self.state.ended() {
            let change = self.change(now, None);
            self.shared.store.run_change(&self.context.caller.tenant, self.state.run, &change).await?;
            self.stored_state = now;
        }
        Ok(())
    }

    fn change(&self, state: i32, seal: Option<RunSeal>) -> RunChange {
        let sealed = seal.is_some();
        let run = view::summary(view::run(&self.state, self.shared.clock.now(), seal));
        RunChange {
            state: i16::try_from(state).unwrap_or_default(),
            summary: run.encode_to_vec().into(),
            time: self.state.changed_at,
            head: sealed.then(|| *self.log.head().hash.as_bytes()),
        }
    }

    /// A commitment of the first event.
    fn first_commitment(&self, field: &str) -> Bytes {
        EventLeaf::decode(self.first_leaf.clone()).map(|leaf| commitment(&leaf, field)).unwrap_or_default()
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Recall => self.recall(),
            Effect::Synthesise => self.synthesise(),
            Effect::Refill(lack) => self.refill(lack),
            Effect::Generate { step, attempt } => self.generate(step, attempt),
            Effect::Invoke { call_id, attempt } => self.invoke(&call_id, attempt),
            Effect::Probe { call_id, attempt } => self.probe(&call_id, attempt),
            Effect::Stop => self.stop.cancel(),
            // The loop seals when the state says that the run has ended; children are seen to before the next transition.
            Effect::Seal | Effect::Delegate { .. } | Effect::StopChildren { .. } => {}
        }
    }
}
