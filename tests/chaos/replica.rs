//! A place where a replica of session lives, dies and is started again.

use std::sync::Arc;
use std::time::Duration;

use mar_testkit::process::{Process, Signal};
use mar_tests::Launcher;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::arms::Arms;
use mar_tests::dice::Dice;

/// What happens to a replica from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP for so long: beyond its heartbeat's patience it is taken for dead.
    Freeze(Duration),
}

/// Who has waited so long for its death dies by SIGKILL.
const LIFE: Duration = Duration::from_secs(6);
/// The most that a replica's clock is off, in milliseconds.
const SKEW: u64 = 1_500;

/// Where a replica lives.
pub struct Place {
    pub launcher: Launcher,
    pub arms: Arc<Arms>,
    pub port: u16,
    /// Its arguments.
    pub args: Vec<String>,
    pub dice: Dice,
    pub blows: mpsc::UnboundedReceiver<Blow>,
    /// From here on it lives unharmed.
    pub calm: CancellationToken,
}

impl Place {
    /// Starts one replica after another until the calm, then a last one that lives on; answers that.
    pub async fn live(mut self) -> anyhow::Result<Process> {
        while !self.calm.is_cancelled() {
            let (point, nth) = self.arms.arm(&mut self.dice);
            let skew = i64::try_from(self.dice.below(2 * SKEW + 1))? - i64::try_from(SKEW)?;
            let env = [
                ("MAR_CRASH_AT", format!("{point}@{nth}")),
                ("MAR_CRASH_JOURNAL", self.arms.journal()),
                ("MAR_CLOCK_SKEW_MS", skew.to_string()),
            ];
            // It may die before it serves, because runs are taken over before that; and its store may be away.
            if let Ok(mut replica) = self.launcher.start(self.port, &self.args, &env).await {
                self.suffer(&mut replica.process).await?;
            }
            self.arms.disarm(point);
            let pause = Duration::from_millis(self.dice.below(400));
            tokio::time::sleep(pause).await;
        }
        loop {
            match self.launcher.start(self.port, &self.args, &[]).await {
                Ok(replica) => return Ok(replica.process),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Until its death, whatever that is.
    async fn suffer(&mut self, process: &mut Process) -> anyhow::Result<()> {
        let life = tokio::time::sleep(LIFE);
        tokio::pin!(life);
        loop {
            tokio::select! {
                died = process.wait(LIFE * 4) => {
                    died?;
                    return Ok(());
                }
                () = &mut life => return process.kill().await,
                () = self.calm.cancelled() => return process.kill().await,
                blow = self.blows.recv() => match blow {
                    Some(Blow::Freeze(span)) => {
                        if process.signal(Signal::Stop).is_ok() {
                            tokio::time::sleep(span).await;
                            let _ = process.signal(Signal::Cont);
                        }
                    }
                    Some(Blow::Kill) | None => return process.kill().await,
                }
            }
        }
    }
}
