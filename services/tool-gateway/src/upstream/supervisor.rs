//! Keeps one upstream connected: starts it, lists its tools, notices its end and starts it again after a pause.

use std::sync::Arc;
use std::time::Duration;

use mar_runtime::clock::{Ids, random, within};
use mar_runtime::status::chain;
use tokio_util::sync::CancellationToken;

use super::{ConnectError, Connector, Session, Upstream};

/// A session that lived this long ends the series of failures before it.
const STABLE: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The one task that changes an upstream's state. It keeps time by the upstream's clock.
pub struct Supervisor {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// How it is reached.
    pub connector: Box<dyn Connector>,
    /// Draws the jitter of the pauses.
    pub ids: Arc<dyn Ids>,
}

enum Ended {
    Shutdown,
    ByItself(String),
}

impl Supervisor {
    /// Works until `shutdown`, then closes the session.
    pub async fn run(self, shutdown: CancellationToken) {
        let clock = Arc::clone(&self.upstream.clock);
        let mut failures = 0;
        loop {
            let started = clock.monotonic();
            let Ended::ByItself(detail) = self.attempt(&shutdown).await else {
                // The state must not keep the session, and with it a child, alive.
                return self.upstream.set_stopped();
            };
            // What it is connected to may have been told to stop with it, and have ended first.
            if shutdown.is_cancelled() {
                return self.upstream.set_stopped();
            }
            let lived = clock.monotonic().saturating_sub(started);
            let was_up = self.upstream.state().session.is_some();
            failures = if was_up && lived >= STABLE { 1 } else { failures + 1 };
            // A first end after success is restarted soon, and callers may wait for that.
            self.upstream.set_down(detail, if was_up { 1 } else { failures });
            tokio::select! {
                () = shutdown.cancelled() => return self.upstream.set_stopped(),
                () = clock.sleep(self.pause(failures)) => {}
            }
        }
    }

    async fn attempt(&self, shutdown: &CancellationToken) -> Ended {
        let limit = self.upstream.config.start_timeout;
        let opening = within(&*self.upstream.clock, limit, self.open());
        let opened = tokio::select! {
            () = shutdown.cancelled() => return Ended::Shutdown,
            opened = opening => opened,
        };
        let (session, tools) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Ended::ByItself(self.told(&error)),
            Err(_) => return Ended::ByItself(format!("did not start within {limit:?}")),
        };
        self.upstream.set_up(Arc::clone(&session), tools);
        let ended = self.watch(&*session, shutdown).await;
        let _ = within(&*self.upstream.clock, CLOSE_TIMEOUT, session.close()).await;
        ended
    }

    async fn open(&self) -> Result<(Arc<dyn Session>, Vec<crate::definition::Described>), ConnectError> {
        let session = self.connector.connect().await?;
        let tools = session.tools().await?;
        Ok((session, tools))
    }

    async fn watch(&self, session: &dyn Session, shutdown: &CancellationToken) -> Ended {
        let ended = session.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ended::Shutdown,
                detail = &mut ended => return Ended::ByItself(detail),
                () = session.changed() => {
                    let relisted = tokio::select! {
                        () = shutdown.cancelled() => return Ended::Shutdown,
                        relisted = self.relist(session) => relisted,
                    };
                    if let Err(ended) = relisted {
                        return ended;
                    }
                }
            }
        }
    }

    async fn relist(&self, session: &dyn Session) -> Result<(), Ended> {
        let limit = self.upstream.config.start_timeout;
        match within(&*self.upstream.clock, limit, session.tools()).await {
            Ok(Ok(tools)) => {
                if let Some(session) = self.upstream.state().session {
                    self.upstream.set_up(session, tools);
                }
                Ok(())
            }
            Ok(Err(error)) => Err(Ended::ByItself(self.told(&error))),
            Err(_) => Err(Ended::ByItself(format!("did not list its tools within {limit:?}"))),
        }
    }

    /// The cause goes to the log, since it may name paths and addresses that callers need not know.
    fn told(&self, error: &ConnectError) -> String {
        let detail = error.to_string();
        if !self.upstream.is_down_for(&detail) {
            tracing::info!(upstream.name = %self.upstream.name, error.chain = chain(error), "upstream cannot be reached");
        }
        detail
    }

    fn pause(&self, failures: u32) -> Duration {
        let restart = self.upstream.config.restart;
        let doubled = restart.min.0.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let pause = doubled.min(restart.max.0);
        let [byte] = random::<1>(&*self.ids);
        // Between three and five quarters of it.
        pause.mul_f64(0.75 + f64::from(byte) / 510.0)
    }
}
