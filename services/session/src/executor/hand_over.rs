//! Leaving a run to the next owner when the service stops.

use mar_proto::session::ToolOutcome;
use mar_proto::tool::ProbeAnswer;

use super::{Executor, Halt};
use crate::run::{Input, Timed};

/// How long what was stopped may take to say so.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);

impl Executor {
    /// Records what has come back and what was given up, so that neither is taken for something that died: a turn or a
    /// result that arrives as the service stops counts, a generation in flight is closed at what it used, and the next owner
    /// tries it again at once. Calls without a result stay open; what became of them is for the next owner to find out. What
    /// cannot be committed at the first try is left as a crash would leave it.
    pub(super) async fn hand_over(&mut self) {
        if self.state.ended() {
            return;
        }
        if self.state.generation.is_some() {
            self.effects.close();
            let _ = mar_runtime::clock::within(&*self.shared.clock, GRACE, self.effects.wait()).await;
        }
        while let Ok(timed) = self.receiver.try_recv() {
            self.pending.push(timed);
        }
        self.pending.retain(closes_something);
        if self.pending.is_empty() {
            return;
        }
        self.pending.push(Timed { at: self.shared.clock.now(), input: Input::Draining });
        if let Err(Halt::Fenced) = self.transition().await {
            tracing::warn!(run.id = %self.state.run, "run has another owner");
        }
    }
}

fn closes_something(timed: &Timed) -> bool {
    match &timed.input {
        Input::Turn(_) | Input::GenerationFailed { .. } => true,
        Input::Returned(back) => back.outcome != ToolOutcome::Unknown,
        Input::Probed(probed) => probed.answer == ProbeAnswer::Happened,
        _ => false,
    }
}
