//! The run as a pure state machine.
//!
//! [`State`] is what the log says; [`State::apply`] is the only way to change it. [`charge`] says what inputs settle and
//! what comes next would reserve; [`decide`] turns inputs and the counters' answer into events and effects. None of the
//! three does I/O, reads a clock or draws a random number, so a live run, a takeover and a replay take the same path.
//!
//! **Invariant:** effects are only emitted together with the events that record their intent and reservation.
//! **Invariant:** after [`Body::StopRequested`] no effect but [`Effect::Stop`] and
//! [`Effect::StopChildren`] is emitted.
//! **Invariant:** a run ends after its child runs.
//! **Invariant:** late and doubled inputs change nothing: an input counts only while what it closes is open.

use mar_proto::session::{EventContent, event_leaf::Body};
use time::OffsetDateTime;

mod absorb;
mod amounts;
pub mod answer;
mod apply;
mod command;
mod cut;
mod decide;
mod delegation;
mod doubt;
mod event;
mod fork;
mod gathering;
mod history;
mod input;
pub mod loop_detector;
mod next;
mod quotes;
mod slices;
mod state;
mod summary;
#[cfg(test)]
mod tests;

pub use absorb::LOG_TAIL_LOST;
pub use apply::timestamp;
pub use cut::Cut;
pub use decide::{Charge, Charged, Decision, charge, decide, halt_reason, ripe};
pub use delegation::{Child, ChildEnd, Delegated, Parent};
pub use event::{error_result, idempotency_key};
pub use fork::{CallDigest, Fork, Recalled, Recollection, Shared, call_digest};
pub use history::History;
pub use input::{
    ApprovalWanted, CallReturn, Command, Delay, FinishedTurn, Input, Probed, Reply, Resolution, Retry, Submission,
    Timed,
};
pub use quotes::Source;
pub use slices::{Granted, Lack, Purse, threshold};
pub use state::{Approval, Call, CallState, Decided, Ending, Generation, Phase, State, Stop};
pub use summary::{Aim, SUMMARISE};

/// Attempts of one generation that reach a provider before the run fails.
pub const MAX_ATTEMPTS: i64 = 3;
/// Attempts of one idempotent tool call.
pub const MAX_CALL_ATTEMPTS: i64 = 3;
/// How long effects in flight are waited for after a stop.
pub const CANCEL_GRACE: time::Duration = time::Duration::seconds(2);
/// How long the child runs of a run that stops are waited for, for each level that may be below it. Longer than a takeover.
pub const CHILDREN_GRACE: time::Duration = time::Duration::seconds(30);

/// Something that happened, before it has a place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When it was decided.
    pub time: OffsetDateTime,
    /// What happened, as the leaf will have it.
    pub body: Body,
    /// Payloads, kept outside the leaf.
    pub content: EventContent,
    /// The `seq` of the counter change made before the commit that this event belongs to.
    pub counted_seq: Option<i64>,
    /// The caller's command that brought it about.
    pub command: Option<uuid::Uuid>,
}

/// What the executor has to do after the events are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read what a fork goes on from; answered by [`Input::Recalled`] or [`Input::SynthesisFailed`].
    Recall,
    /// Have an agent synthesised; answered by [`Input::Synthesised`] or [`Input::SynthesisFailed`].
    Synthesise,
    /// Issue the open generation; answered by [`Input::Turn`] or [`Input::GenerationFailed`].
    Generate {
        /// Step of the generation.
        step: i64,
        /// Session's number of the attempt.
        attempt: i64,
    },
    /// Issue an open call; answered by [`Input::Returned`].
    Invoke {
        /// `{run}/{step}/{index}`
        call_id: String,
        /// Session's number of the attempt.
        attempt: i64,
    },
    /// Ask a budget for a slice; answered by [`Input::Granted`] or [`Input::Exhausted`]. Asked for again with every
    /// transition until then: it is for the executor to ask once.
    Refill(Lack),
    /// See to it that the children of a call are admitted; each is answered by [`Command::ChildEnded`].
    Delegate {
        /// `{run}/{step}/{index}`
        call_id: String,
    },
    /// Ask the probe of a call in doubt; answered by [`Input::Probed`].
    Probe {
        /// `{run}/{step}/{index}`
        call_id: String,
        /// The attempt in doubt.
        attempt: i64,
    },
    /// Signal everything in flight to stop.
    Stop,
    /// Have the children of a call stop, for the run's own reason.
    StopChildren {
        /// `{run}/{step}/{index}`
        call_id: String,
    },
    /// The run has ended: seal it.
    Seal,
}

/// What the counters said, as the machine needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// No counter change was needed.
    Nothing,
    /// The change was made.
    Answer(crate::counters::Answer),
    /// They cannot be reached.
    Unavailable,
}
