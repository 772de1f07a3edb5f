//! A followed run that is to stop when nobody follows it any more.

use futures::Stream;
use mar_proto::session::RunFrame;
use mar_runtime::auth::Caller;
use uuid::Uuid;

use crate::error::Error;
use crate::runs::{FrameStream, Runs};

/// Cancels a run when it is dropped.
pub struct CancelOnDrop {
    runs: Runs,
    caller: Caller,
    session: Uuid,
    run: Uuid,
}

impl CancelOnDrop {
    /// Cancels this run in the name of its caller. A run that has ended stays as it is.
    pub fn new(runs: Runs, caller: Caller, session: Uuid, run: Uuid) -> Self {
        Self { runs, caller, session, run }
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.runs.cancel_soon(&self.caller, self.session, self.run);
    }
}

/// The frames, with a guard that goes when they do.
pub fn guarded(
    frames: FrameStream,
    guard: Option<CancelOnDrop>,
) -> impl Stream<Item = Result<RunFrame, Error>> + Send + 'static {
    futures::stream::unfold((frames, guard), |(mut frames, guard)| async move {
        let frame = futures::StreamExt::next(&mut frames).await?;
        Some((frame, (frames, guard)))
    })
}
