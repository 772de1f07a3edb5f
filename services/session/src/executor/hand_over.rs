//! Leaving a run to the next owner when the service stops.

use super::generation::DRAINING;
use super::{Executor, Halt};
use crate::run::{Input, Timed};

/// How long what was stopped may take to say so.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);

impl Executor {
    /// Closes the generation in flight at what it used, so that it is not taken for one that died: the next owner tries it
    /// again at once. Calls stay open; what became of them is for the next owner to find out. What cannot be committed at
    /// the first try is left as a crash would leave it.
    pub(super) async fn hand_over(&mut self) {
        if self.state.ended() || self.state.generation.is_none() {
            return;
        }
        self.effects.close();
        let _ = mar_runtime::clock::within(&*self.shared.clock, GRACE, self.effects.wait()).await;
        self.pending.clear();
        while let Ok(timed) = self.receiver.try_recv() {
            if is_given_up(&timed) {
                self.pending.push(timed);
            }
        }
        if self.pending.is_empty() {
            return;
        }
        if let Err(Halt::Fenced) = self.transition().await {
            tracing::warn!(run.id = %self.state.run, "run has another owner");
        }
    }
}

fn is_given_up(timed: &Timed) -> bool {
    matches!(&timed.input, Input::GenerationFailed { reason, .. } if reason == DRAINING)
}
