//! How a service stops: it refuses new calls, lets those in flight finish, and ends what is left.

use std::sync::Arc;
use std::time::Duration;

use mar_proto::types::ErrorReason;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Code, Status};

use crate::clock::Clock;
use crate::status::Fault;

/// The state of one service's stop. Cheap to clone; it latches.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    stopped: CancellationToken,
    calls: Arc<TaskTracker>,
}

impl Drain {
    /// Whether new calls are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// The calls in flight.
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Cancelled when the service begins to drain. Long streams end themselves then.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled when what is left is ended.
    pub(crate) fn stopped(&self) -> &CancellationToken {
        &self.stopped
    }

    /// Counts a call as long as the token lives.
    pub(crate) fn enter(&self) -> TaskTrackerToken {
        self.calls.token()
    }

    /// Refuses new calls from now on, and returns when none is in flight or `patience` is over and the rest is ended.
    pub async fn run(&self, clock: &dyn Clock, patience: Duration) {
        self.draining.cancel();
        self.calls.close();
        let in_time = tokio::select! {
            biased;
            () = self.calls.wait() => true,
            () = clock.sleep(patience) => false,
        };
        if !in_time {
            tracing::warn!(calls = self.calls.len(), "ending the calls that did not finish while draining");
        }
        self.stopped.cancel();
    }
}

/// The status of a call that the drain refuses or ends.
pub(crate) fn refusal() -> Status {
    Fault::new(Code::Unavailable, ErrorReason::Draining, "the service is draining").retry_after(Duration::ZERO).into()
}
