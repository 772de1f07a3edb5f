//! MCP over the standard streams of a child process.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use rmcp::model::{ClientRequest, GetExtensions as _, JsonRpcMessage};
use rmcp::service::{RoleClient, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use super::process::{self, Process};
use super::wire::{Incoming, Lines};
use super::{MAX_MESSAGE_BYTES, McpSession};
use crate::config::UpstreamConfig;
use crate::outcome::Sent;
use crate::upstream::{ConnectError, Connector, Session};

/// Starts the configured server.
#[derive(Debug)]
pub struct StdioServer {
    upstream: String,
    config: UpstreamConfig,
    tasks: TaskTracker,
}

impl StdioServer {
    /// The server of the upstream with this name; its work runs in `tasks`.
    pub fn new(upstream: impl Into<String>, config: UpstreamConfig, tasks: TaskTracker) -> Self {
        Self { upstream: upstream.into(), config, tasks }
    }
}

#[async_trait]
impl Connector for StdioServer {
    async fn connect(&self) -> Result<Arc<dyn Session>, ConnectError> {
        let (process, streams) = Process::spawn(&self.config)?;
        self.tasks.spawn(process::log(streams.stderr, self.upstream.clone()));
        let pipe = Pipe {
            lines: Lines::new(BufReader::with_capacity(64 << 10, streams.stdout), MAX_MESSAGE_BYTES),
            stdin: Arc::new(Mutex::new(Some(streams.stdin))),
            process,
        };
        Ok(Arc::new(McpSession::open(pipe, self.tasks.clone()).await?))
    }
}

/// The transport: one JSON-RPC message a line. It owns the child, which ends with it.
struct Pipe {
    lines: Lines<BufReader<ChildStdout>>,
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    process: Process,
}

impl Transport<RoleClient> for Pipe {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        let stdin = Arc::clone(&self.stdin);
        async move {
            let mut line = serde_json::to_vec(&message).map_err(io::Error::other)?;
            line.push(b'\n');
            let mut stdin = stdin.lock().await;
            let stdin = stdin.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            if let Some(sent) = sent_mark(&message) {
                sent.mark();
            }
            stdin.write_all(&line).await?;
            stdin.flush().await
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            match self.lines.next().await {
                Incoming::Message(message) => return Some(*message),
                Incoming::Noise => tracing::debug!("the server wrote a line that is no message"),
                Incoming::Lost => {
                    tracing::warn!("the server wrote a line that is too long and answers no call");
                    return None;
                }
                Incoming::End => return None,
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        // A server that does not read could hold the lock for ever; the kill ends it then.
        if let Ok(mut stdin) = self.stdin.try_lock() {
            stdin.take();
        }
        self.process.end().await;
        Ok(())
    }
}

/// Where the call behind a message remembers that it has left.
pub(super) fn sent_mark(message: &TxJsonRpcMessage<RoleClient>) -> Option<&Sent> {
    match message {
        JsonRpcMessage::Request(request) => match &request.request {
            ClientRequest::CallToolRequest(call) => call.extensions().get::<Sent>(),
            _ => None,
        },
        _ => None,
    }
}
