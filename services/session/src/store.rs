//! Where sessions, runs and events are kept: the truth of the service.
//!
//! The contract is written once and kept by two implementations; one suite runs over both. Every method takes the tenant
//! and never answers a row of another. Times come from the caller's clock and are kept to the microsecond.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use erasure::{Begun, Extent};
use hook::{Claim, DeadNotice, DeadPage, Due};
use timer::{Expiry, Timer};

pub mod blobs;
pub mod budgets;
pub mod erasure;
pub mod hook;
pub mod postgres;
pub mod session_log;
pub mod sqlite;
pub mod timer;

mod append;
mod error;
mod fault;
mod row;

pub use blobs::{BlobRow, BlobStore, Finished, Opening, UploadRow};
pub use budgets::{BudgetKey, BudgetLedger, BudgetStore, SliceRow};
pub use error::{Error, OpenError};
pub use row::{ApprovalRow, CommandRow, EventRow, RequestKey, RunRow, SessionLogRow, SessionRow};

/// What became of a mutation that carries a `request_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It happened now.
    Done(T),
    /// It had happened before with the same body; this is the resource as it is now.
    Repeated(T),
    /// The id was used with another body.
    Reused,
}

/// What became of an admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The run, its first event and the session log's entry are durable.
    Admitted,
    /// The same request was admitted before; this is its run.
    Repeated(RunRow),
    /// The `request_id` was used with another body.
    Reused,
    /// Another root run of the session is open.
    Busy(Uuid),
    /// The session is ending, has ended, or is not there (for this tenant).
    NotOpen(Option<i16>),
}

/// An ownership of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold<'a> {
    /// The replica.
    pub owner: &'a str,
    /// Number of the ownership.
    pub epoch: i64,
}

/// A run whose lease was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The run.
    pub run: RunRow,
    /// Number of the new ownership.
    pub epoch: i64,
    /// For how long nobody is known to have executed it, by the store's clock: since its owner let go of it, since it was to
    /// be woken, or since the last sign of life of an owner that is gone. `None` where nobody knows.
    pub unattended: Option<Duration>,
}

/// Another server that has taken the store's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promotion {
    /// Number of its history.
    pub timeline: i64,
    /// Bytes of the former one's log that were seen written and are not in it: more may be gone that nobody has seen, and they
    /// need not be commits. `None` where it does not say.
    pub missing_bytes: Option<u64>,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Append {
    /// The events are durable. Also when a lost connection hid an append that had happened: the stored hashes are equal.
    Done,
    /// Another writer holds one of these positions: this one has to stop.
    Fenced,
}

/// A state change of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunChange {
    /// The new state.
    pub state: i16,
    /// The new summary.
    pub summary: Bytes,
    /// When.
    pub time: OffsetDateTime,
    /// `Some(hash of the last event)` exactly when the run has ended: the lease is dropped and the session log gets `run sealed`.
    pub head: Option<[u8; 32]>,
}

impl RunChange {
    /// The head when the run has ended.
    ///
    /// # Errors
    /// When there is a head without an end or an end without a head.
    fn ends(&self) -> Result<Option<[u8; 32]>, Error> {
        match (self.state >= FIRST_ENDED, self.head) {
            (true, Some(head)) => Ok(Some(head)),
            (false, None) => Ok(None),
            _ => Err(Error::Invalid("a run has a head exactly when it has ended")),
        }
    }

    /// Refuses an end that met the run still open: its last event is not the head.
    fn end_is_stored(&self, stored: Option<&RunRow>) -> Result<(), Error> {
        match stored {
            Some(run) if self.head.is_some() && run.state < FIRST_ENDED => {
                Err(Error::Invalid("the log of the run does not end with its head"))
            }
            _ => Ok(()),
        }
    }
}

/// The first of the run states that have ended.
const FIRST_ENDED: i16 = 4;

/// The session state in which runs are admitted.
const SESSION_OPEN: i16 = 1;

/// The session state in which its runs are cancelled and sealed.
const SESSION_ENDING: i16 = 2;

/// The session state that the session log records.
const SESSION_ENDED: i16 = 3;

/// The session state after which nothing of it is left but its chains.
const SESSION_ERASED: i16 = 4;

/// Which approvals a list wants: newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApprovalPage {
    /// Only those of this session.
    pub session: Option<Uuid>,
    /// Only those of this run.
    pub run: Option<Uuid>,
    /// Only those in this state.
    pub state: Option<i16>,
    /// Only those older than this one: run and id.
    pub before: Option<(Uuid, String)>,
    /// At most so many.
    pub limit: i64,
}

/// Which rows a list wants: newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Page {
    /// Only ids below this one.
    pub before: Option<Uuid>,
    /// Only rows in this state.
    pub state: Option<i16>,
    /// At most so many.
    pub limit: i64,
}

/// The store's contract.
#[async_trait]
pub trait Store: BlobStore + BudgetStore + Send + Sync + 'static {
    /// Answers when the store can be reached and its schema is current.
    async fn ping(&self) -> Result<(), Error>;

    /// Stores a new session, its log's first entry, the timer that ends it when it is idle, and the request key in one
    /// transaction.
    async fn session_start(&self, key: &RequestKey, session: &SessionRow) -> Result<Outcome<SessionRow>, Error>;
    /// Reads a session.
    async fn session_get(&self, tenant: &str, id: Uuid) -> Result<Option<SessionRow>, Error>;
    /// Lists sessions, newest first.
    async fn session_list(&self, tenant: &str, page: Page) -> Result<Vec<SessionRow>, Error>;
    /// Replaces state, body, update time and idle timeout where `version` is still `session.version - 1`; `None` when it is not.
    /// Reaching state 2 sets the timer that completes the end, should nobody else; reaching state 3 adds `ended` to the session
    /// log. The request key, where given, joins the transaction.
    async fn session_change(
        &self,
        key: Option<&RequestKey>,
        session: &SessionRow,
    ) -> Result<Option<Outcome<SessionRow>>, Error>;
    /// Reads a session's log, oldest first.
    async fn session_log(&self, tenant: &str, id: Uuid) -> Result<Vec<SessionLogRow>, Error>;

    /// Stores a run as PENDING with its first event, a lease at epoch 1 for `owner`, the session log's entry and the request
    /// key in one transaction; serialised per session. `Busy` unless the run and every open one of the session are parallel.
    ///
    /// After [`Error::Unavailable`] the run may be there, leased to `owner`: repeat the call with the same row, which then
    /// answers `Admitted` (a `Repeated` always names another id), before the run is forgotten.
    async fn run_admit(
        &self,
        key: &RequestKey,
        run: &RunRow,
        first: &EventRow,
        owner: &str,
    ) -> Result<Admission, Error>;
    /// Stores a child run as PENDING with its first event, a lease at epoch 1 that anybody may claim at once, and the
    /// session log's entry in one transaction, beside whatever is open in the session. Repeating it changes nothing: the
    /// first to admit a run of this id has, whatever the others bring.
    async fn child_admit(&self, run: &RunRow, first: &EventRow) -> Result<Admission, Error>;
    /// Reads a run.
    async fn run_get(&self, tenant: &str, id: Uuid) -> Result<Option<RunRow>, Error>;
    /// Lists runs, newest first; of one session or of the whole tenant.
    async fn run_list(&self, tenant: &str, session: Option<Uuid>, page: Page) -> Result<Vec<RunRow>, Error>;
    /// Records a state change and answers whether it did: a run that has ended stays as it is, and one that is not there
    /// (for this tenant) cannot change. The end of a run is something that happens in its session.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the end of an open run whose log does not end with that head: a store that has lost it seals
    /// nothing that is not there.
    async fn run_change(&self, tenant: &str, id: Uuid, change: &RunChange) -> Result<bool, Error>;
    /// Claims open runs of any tenant for `owner`, oldest first: raises each lease's epoch by one. Only
    /// runs whose log version is at most `log_version`, and none that `owner` holds already: parked ones whose wake time has
    /// come, and those of an owner whose last [`Store::beat`] is older than `patience`, unless `owner`'s own beats have a gap
    /// in that time: after a stall of the store all look dead. (One that shares nothing with other processes knows that any
    /// other owner is gone.)
    async fn run_claim(
        &self,
        owner: &str,
        log_version: i32,
        limit: i64,
        patience: Duration,
    ) -> Result<Vec<Claimed>, Error>;
    /// Says that `owner` is alive, by the store's clock. One that was not heard of for `patience` begins anew.
    async fn beat(&self, owner: &str, patience: Duration) -> Result<(), Error>;
    /// Lets go of everything that `owner` holds: others may claim it at once.
    async fn leave(&self, owner: &str) -> Result<(), Error>;
    /// Lets go of a run that waits, until `wake` or its next command. Answers whether it did: not when a command is on its way,
    /// and not when `owner` does not hold the run in this epoch.
    async fn run_park(&self, tenant: &str, run: Uuid, hold: Hold<'_>, wake: OffsetDateTime) -> Result<bool, Error>;
    /// Lets go of a run that `owner` holds in this epoch and does not execute: any replica may claim it when `rest` has passed,
    /// in an epoch above `past`, and reads its commands. Answers whether it did.
    async fn run_leave(&self, run: Uuid, hold: Hold<'_>, past: i64, rest: Duration) -> Result<bool, Error>;
    /// Whether another server has taken the store's place since this was asked last. A store that has no such server, or does
    /// not say, answers `None`.
    async fn promotion(&self) -> Result<Option<Promotion>, Error> {
        Ok(None)
    }
    /// The runs of all tenants that `owner` holds, each with its epoch.
    async fn run_held(&self, owner: &str) -> Result<Vec<(Uuid, i64)>, Error>;

    /// Whether a request id was used: with this body (`true`) or with another one.
    async fn request_seen(&self, tenant: &str, key: &RequestKey) -> Result<Option<bool>, Error>;
    /// Stores a command for an open run and wakes the run, in one transaction with the request key where one is given.
    /// `None` when the run has ended or is not there (for this tenant); else the command's id, which is that of the first
    /// request when the key is repeated.
    async fn command_put(
        &self,
        tenant: &str,
        run: Uuid,
        key: Option<&RequestKey>,
        command: &CommandRow,
    ) -> Result<Option<Outcome<Uuid>>, Error>;
    /// The commands on their way to a run, oldest first. Read under the present ownership they count as heard of: a command
    /// that comes later shows in [`Store::command_runs`] again. Who has lost the run reads them without a trace, so that its
    /// new owner hears of each.
    async fn command_read(&self, tenant: &str, run: Uuid, hold: Hold<'_>) -> Result<Vec<CommandRow>, Error>;
    /// Drops commands that their run has taken.
    async fn command_drop(&self, tenant: &str, run: Uuid, ids: &[Uuid]) -> Result<(), Error>;
    /// Runs that `owner` holds and whose commands it has not read.
    async fn command_runs(&self, owner: &str) -> Result<Vec<Uuid>, Error>;

    /// Stores approvals as they stand now. Repeating it is safe.
    async fn approval_put(&self, tenant: &str, approvals: &[ApprovalRow]) -> Result<(), Error>;
    /// Reads an approval.
    async fn approval_get(&self, tenant: &str, run: Uuid, id: &str) -> Result<Option<ApprovalRow>, Error>;
    /// Lists approvals, newest run first.
    async fn approval_list(&self, tenant: &str, page: &ApprovalPage) -> Result<Vec<ApprovalRow>, Error>;

    /// Appends events in one statement. All or nothing. They continue the run's log: positions without gaps, each
    /// `prev_hash` the hash of the event before (the first one's: of the last stored event). A gap is [`Error::Invalid`],
    /// another event in a position, or before the first, is [`Append::Fenced`]. Large contents go to `session`, which has to be
    /// the run's. Repeating an append is safe.
    async fn event_append(&self, tenant: &str, session: Uuid, run: Uuid, events: &[EventRow]) -> Result<Append, Error>;
    /// The position of a run's next event.
    async fn event_next(&self, tenant: &str, run: Uuid) -> Result<i64, Error>;
    /// Reads events from a position on, oldest first, until `limit` rows or about `max_bytes` of payload.
    async fn event_read(
        &self,
        tenant: &str,
        run: Uuid,
        from_seq: i64,
        limit: i64,
        max_bytes: usize,
    ) -> Result<Vec<EventRow>, Error>;

    /// Records in the log of an ended session that so much of it goes, and sets the timer that has it carried out, due
    /// after [`timer::HOLD`]; once recorded it changes nothing. One transaction with the request key, where one is given. The
    /// session's version rises with the record, so that who reads its rows one after the other knows.
    async fn erasure_begin(
        &self,
        key: Option<&RequestKey>,
        tenant: &str,
        session: Uuid,
        extent: Extent,
    ) -> Result<Begun, Error>;
    /// Destroys the payloads of a run whose session's log says that they go: contents of its events, approvals, commands;
    /// `summary` takes the place of its summary. Of an erased session also what its caller was known by. Any other session's
    /// run is refused.
    async fn erasure_run(&self, tenant: &str, run: Uuid, summary: &Bytes) -> Result<(), Error>;
    /// Destroys up to `limit` blobs, or pieces of what was streamed in, of a session whose log says that they go; answers how
    /// many. At 0 nothing is left of either.
    async fn erasure_blobs(&self, tenant: &str, session: Uuid, limit: i32) -> Result<u64, Error>;
    /// Ends an erasure: drops its timer. Where everything goes, the key of the commitments goes too, the session becomes
    /// ERASED with `session`'s body and update time, and of all requests in it, those to its runs included, what their bodies
    /// could be found by: their ids stay used.
    async fn erasure_finish(&self, session: &SessionRow, extent: Extent) -> Result<(), Error>;

    /// Ends a session that is idle, as `session` says (state 2, the next version): adds `expired` to its log. Only where
    /// nothing has happened in it for its idle timeout and [`timer::GRACE`], by the store's clock, and no run of it is open.
    async fn session_expire(&self, session: &SessionRow) -> Result<Expiry, Error>;
    /// Says that calls have named these sessions, by tenant and id; what is not there is passed over.
    async fn sessions_seen(&self, seen: &[(String, Uuid)]) -> Result<(), Error>;
    /// Sessions of a tenant that ended so long ago and have not been pruned or erased, longest ended first.
    async fn sessions_past(&self, tenant: &str, retention: Duration, limit: i64) -> Result<Vec<Uuid>, Error>;

    /// Claims timers that are due, of any tenant, longest due first, and puts them off for [`timer::HOLD`]: who sees to one
    /// drops it, and one that nothing came of is due again.
    async fn timer_claim(&self, limit: i64) -> Result<Vec<Timer>, Error>;
    /// Puts a timer off: it is due so long from now.
    async fn timer_put_off(&self, timer: &Timer, span: Duration) -> Result<(), Error>;

    /// Claims sessions that a hook is to be told of, longest due first.
    async fn hook_claim(&self, tenant: &str, hook: &str, limit: i64) -> Result<Vec<Claim>, Error>;
    /// Records what was told of a claimed session, how often the next notice was tried, and when to go on; `false` when
    /// somebody else has claimed it since, and nothing is recorded.
    async fn hook_save(&self, claim: &Claim, cursor: &[u8], attempts: i32, due: Due) -> Result<bool, Error>;
    /// Gives a notice up: keeps it as a dead one, and what was told with it, in one transaction; the claim is held. `false` like
    /// [`Store::hook_save`].
    async fn hook_bury(&self, claim: &Claim, cursor: &[u8], dead: &DeadNotice) -> Result<bool, Error>;
    /// Lists dead notices of a tenant by hook and id.
    async fn dead_list(&self, tenant: &str, page: &DeadPage) -> Result<Vec<DeadNotice>, Error>;
    /// Reads a dead notice.
    async fn dead_get(&self, tenant: &str, hook: &str, id: &str) -> Result<Option<DeadNotice>, Error>;
    /// Drops a dead notice that was told after all.
    async fn dead_drop(&self, tenant: &str, hook: &str, id: &str) -> Result<(), Error>;
    /// Reads positions and leaves of a run's events from a position on, without payloads.
    async fn event_leaves(
        &self,
        tenant: &str,
        run: Uuid,
        from_seq: i64,
        limit: i64,
    ) -> Result<Vec<(i64, Bytes)>, Error>;
}
