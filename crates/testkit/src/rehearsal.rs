//! The rehearsal model: an OpenAI-compatible server whose answers, tool calls, delays, stream shapes, errors and hangs
//! are scripted by a file. It is not a model: it says what its [`Script`] says, or plays a plain agent that searches once
//! and then answers from what it found. The format is described in `docs/rehearsal.md`.
//!
//! Same script and same requests in the same order give the same bytes: no clock and no randomness goes into an answer.

mod agent;
mod answer;
mod conversation;
mod journal;
mod passages;
mod rules;
mod schema;
mod script;
mod server;
mod stream;
mod template;
mod wire;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::journal::Recorded;
pub use self::passages::Passage;
pub use self::schema::{Hints, Wish, instance};
pub use self::script::{Mistake, Script, ScriptError};
use self::server::Stage;

/// How long a stopping server waits for its connections. Hangs and delays end at once; only a peer that does not read
/// its answer can use this up.
const DRAIN: Duration = Duration::from_secs(2);

/// A running rehearsal server. Dropping it stops the server.
#[derive(Debug)]
pub struct Rehearsal {
    address: SocketAddr,
    stage: Arc<Stage>,
    tasks: TaskTracker,
}

impl Rehearsal {
    /// Serves `script` on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(script: Script) -> io::Result<Self> {
        Self::start_on(TcpListener::bind(("127.0.0.1", 0)).await?, script)
    }

    /// Serves `script` on a listener that the caller has bound.
    ///
    /// # Errors
    /// When the listener has no local address.
    pub fn start_on(listener: TcpListener, script: Script) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stage = Arc::new(Stage::new(script));
        let tasks = TaskTracker::new();
        let served = Arc::clone(&stage);
        tasks.spawn(async move {
            if let Err(error) = run(listener, served).await {
                tracing::error!(%error, "rehearsal server ended");
            }
        });
        tasks.close();
        Ok(Self { address, stage, tasks })
    }

    /// Serves `script` until `shutdown` completes; then hangs and delays end, and open connections get two seconds.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        listener: TcpListener,
        script: Script,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let stage = Arc::new(Stage::new(script));
        let closing = stage.closing().clone();
        let served = run(listener, stage);
        tokio::pin!(served);
        tokio::select! {
            ended = &mut served => return ended,
            () = shutdown => closing.cancel(),
        }
        served.await
    }

    /// The server's root, as in `http://127.0.0.1:4000`, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL that OpenAI clients want: [`Self::url`] with `/v1`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("{}/v1", self.url())
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The chat requests received, oldest first; at most the script's `journal` newest (1,000 by default).
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.stage.requests()
    }

    /// How many chat requests arrived since the start, forgotten ones included.
    #[must_use]
    pub fn request_count(&self) -> u64 {
        self.stage.request_count()
    }

    /// How many answers are being given now, hanging ones included.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.stage.in_flight()
    }

    /// How many answers were left unfinished because the client went away (or the server stopped).
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.stage.abandoned()
    }

    /// Stops the server and waits until its port is free again.
    pub async fn shutdown(self) {
        self.stage.closing().cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        self.stage.closing().cancel();
    }
}

async fn run(listener: TcpListener, stage: Arc<Stage>) -> io::Result<()> {
    let closing: CancellationToken = stage.closing().clone();
    let stopped = closing.clone().cancelled_owned();
    let serving = std::future::IntoFuture::into_future(
        axum::serve(listener, server::routes(stage)).with_graceful_shutdown(stopped),
    );
    let overdue = async {
        closing.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving => ended,
        () = overdue => Ok(()),
    }
}
