//! Upstreams that speak the Model Context Protocol, over stdio or streamable HTTP, through the official SDK.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mar_proto::tool::Dispatch;
use rmcp::ErrorData;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelledNotification, CancelledNotificationParam, ClientCapabilities,
    ClientRequest, Implementation, InitializeRequestParams, JsonObject, ListToolsRequest, PaginatedRequestParams,
    ProtocolVersion, RequestId, RequestMetaObject, ServerResult, SubscriptionFilter,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt as _, NotificationContext, Peer, PeerRequestOptions, RoleClient,
    RunningServiceCancellationToken, ServiceError,
};
use rmcp::transport::IntoTransport;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::definition::Described;
use crate::outcome::{Answer, Call, Failure, Reason, Sent};
use crate::upstream::{ConnectError, Session};

mod bounded;
mod clip;
pub mod content;
pub mod egress;
pub mod http;
mod post;
mod process;
pub mod stdio;
mod wire;

/// The largest message of an upstream that is held, in bytes, after its long strings were cut (`docs/adr/0006`). A result is
/// one message: of one that is larger even so nothing is given, because its first half is no JSON.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// The key under which a call's idempotency key travels in `_meta`.
pub const IDEMPOTENCY_KEY: &str = "agentruntime/idempotency-key";

const MAX_PAGES: usize = 100;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Marks the errors that our own transport puts in the place of an answer that it could not take.
const OWN_ERROR: &str = "agentruntime/transport";
const TOO_LARGE: &str = "too-large";
const TOO_DEEP: &str = "too-deep";
const NOT_MCP: &str = "not-mcp";

/// An open MCP session.
pub struct McpSession {
    peer: Peer<RoleClient>,
    changed: Arc<Notify>,
    ended: CancellationToken,
    stop: std::sync::Mutex<Option<RunningServiceCancellationToken>>,
    tasks: TaskTracker,
    /// Cancelled when the server was found to be gone.
    lost: CancellationToken,
    probe: Option<Arc<Probe>>,
}

/// Looks after a session that the transport keeps open whatever becomes of the server: after a call without an answer
/// it asks for the tools, and ends the session when that brings no answer either.
struct Probe {
    peer: Peer<RoleClient>,
    lost: CancellationToken,
    running: AtomicBool,
}

impl Probe {
    async fn run(self: Arc<Self>) {
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "an adapter of real servers waits in real time")]
        let asked = tokio::time::timeout(PROBE_TIMEOUT, page(&self.peer, None)).await;
        if !matches!(asked, Ok(Ok(_))) {
            tracing::info!("the server does not answer any more, its session is ended");
            self.lost.cancel();
        }
        self.running.store(false, Ordering::Release);
    }
}

/// What the gateway is to a server: a client without capabilities of its own.
struct Client {
    changed: Arc<Notify>,
}

impl rmcp::ClientHandler for Client {
    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }

    fn get_info(&self) -> InitializeRequestParams {
        let own = Implementation::new("mcp-agent-runtime", env!("CARGO_PKG_VERSION"));
        InitializeRequestParams::new(ClientCapabilities::default(), own)
    }
}

impl McpSession {
    /// Negotiates a revision over `transport`: the newest that both know, with the older handshake as the fallback.
    ///
    /// # Errors
    /// The server broke off, or speaks no revision that the gateway knows.
    pub async fn open<T, E, A>(transport: T, tasks: TaskTracker) -> Result<Self, ConnectError>
    where
        T: IntoTransport<RoleClient, E, A>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let changed = Arc::new(Notify::new());
        let lifecycle = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        };
        let client = Client { changed: Arc::clone(&changed) };
        let running = client
            .serve_with_lifecycle(transport, lifecycle)
            .await
            .map_err(|error| ConnectError::new("the server did not answer as an MCP server", error))?;
        let peer = running.peer().clone();
        let stop = std::sync::Mutex::new(Some(running.cancellation_token()));
        let ended = CancellationToken::new();
        let done = ended.clone().drop_guard();
        tasks.spawn(async move {
            let _ = running.waiting().await;
            drop(done);
        });
        let lost = CancellationToken::new();
        let session = Self { peer, changed, ended, stop, tasks, lost, probe: None };
        session.subscribe();
        Ok(session)
    }

    /// Ends the session when a call brings no answer and the server does not list its tools either. For transports that
    /// do not notice by themselves that a server is gone, or has forgotten the session.
    #[must_use]
    pub fn with_probe(mut self) -> Self {
        let (peer, lost) = (self.peer.clone(), self.lost.clone());
        self.probe = Some(Arc::new(Probe { peer, lost, running: AtomicBool::new(false) }));
        self
    }

    /// Newer revisions tell of changes only to those who subscribe.
    fn subscribe(&self) {
        let Some(server) = self.peer.peer_info() else { return };
        let tells = server.capabilities.tools.as_ref().and_then(|tools| tools.list_changed) == Some(true);
        if server.protocol_version.has_initialize() || !tells {
            return;
        }
        let (peer, changed, ended) = (self.peer.clone(), Arc::clone(&self.changed), self.ended.clone());
        self.tasks.spawn(ended.run_until_cancelled_owned(async move {
            let wanted = SubscriptionFilter::builder().tools_list_changed().build();
            match peer.listen(wanted).await {
                Ok(mut subscription) => {
                    while let Ok(Some(_)) = subscription.next().await {
                        changed.notify_one();
                    }
                }
                Err(error) => tracing::debug!(%error, "the server takes no subscription"),
            }
        }));
    }

    fn probe(&self) {
        if let Some(probe) = &self.probe {
            self.tasks.spawn(self.ended.clone().run_until_cancelled_owned(Arc::clone(probe).run()));
        }
    }

    async fn invoke(&self, call: Call) -> Result<ServerResult, ServiceError> {
        let mut meta = RequestMetaObject::new();
        for (key, value) in call.trace {
            meta.0.0.insert(key.to_owned(), Value::String(value));
        }
        if !call.idempotency_key.is_empty() {
            meta.0.0.insert(IDEMPOTENCY_KEY.to_owned(), Value::String(call.idempotency_key));
        }
        let params = CallToolRequestParams::new(call.tool).with_arguments(call.arguments);
        let mut request = CallToolRequest::new(params);
        request.extensions.insert(call.sent);
        let options = PeerRequestOptions::no_options().with_meta(meta);
        let handle = self.peer.send_cancellable_request(ClientRequest::CallToolRequest(request), options).await?;
        let mut guard = CancelOnDrop { session: self, id: Some(handle.id.clone()) };
        let result = handle.await_response().await;
        guard.id = None;
        if matches!(&result, Err(error) if !matches!(error, ServiceError::McpError(_))) {
            self.probe();
        }
        result
    }
}

async fn page(peer: &Peer<RoleClient>, cursor: Option<String>) -> Result<rmcp::model::ListToolsResult, ConnectError> {
    let broken = |error: ServiceError| ConnectError::new("the server did not list its tools", error);
    let request = ListToolsRequest {
        method: rmcp::model::ListToolsRequestMethod,
        params: Some(PaginatedRequestParams::default().with_cursor(cursor)),
        extensions: rmcp::model::Extensions::default(),
    };
    // Not `list_tools`: its cache may answer with what the notification has just made old.
    match peer.send_request(ClientRequest::ListToolsRequest(request)).await.map_err(broken)? {
        ServerResult::ListToolsResult(page) => Ok(page),
        _ => Err(ConnectError::bare("the server did not list its tools")),
    }
}

/// Tells the server that nobody waits for a call any more.
struct CancelOnDrop<'a> {
    session: &'a McpSession,
    id: Option<RequestId>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let peer = self.session.peer.clone();
        let told = async move {
            let param = CancelledNotificationParam::new(Some(id), Some("the caller went away".to_owned()));
            let _ = peer.send_notification(CancelledNotification::new(param).into()).await;
        };
        self.session.tasks.spawn(self.session.ended.clone().run_until_cancelled_owned(told));
        self.session.probe();
    }
}

#[async_trait]
impl Session for McpSession {
    async fn tools(&self) -> Result<Vec<Described>, ConnectError> {
        let mut found = Vec::new();
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            let page = page(&self.peer, cursor).await?;
            found.extend(page.tools.into_iter().map(described));
            cursor = page.next_cursor.filter(|next| !next.is_empty());
            if cursor.is_none() {
                return Ok(found);
            }
        }
        tracing::warn!(pages = MAX_PAGES, "the server lists more pages than are read");
        Ok(found)
    }

    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let sent = call.sent.clone();
        match self.invoke(call).await {
            Ok(ServerResult::CallToolResult(result)) => Ok(content::answer(result)),
            Ok(ServerResult::InputRequiredResult(_)) => Err(Failure::new(
                Reason::Broken,
                Dispatch::Sent,
                "the tool asks for further input, which is not supported",
            )),
            Ok(ServerResult::CreateTaskResult(_)) => Err(Failure::new(
                Reason::Broken,
                Dispatch::Unknown,
                "the tool went on in the background, which is not supported",
            )),
            Ok(_) => Err(not_mcp()),
            Err(error) => refused(error, &sent),
        }
    }

    async fn ended(&self) -> String {
        tokio::select! {
            () = self.ended.cancelled() => "the connection to the server ended".to_owned(),
            () = self.lost.cancelled() => "the server does not answer".to_owned(),
        }
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn close(&self) {
        self.stop();
        #[expect(clippy::disallowed_methods, reason = "an adapter of real servers waits in real time")]
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.ended.cancelled()).await;
    }
}

impl McpSession {
    fn stop(&self) {
        let stop = self.stop.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(stop) = stop {
            stop.cancel();
        }
    }
}

impl Drop for McpSession {
    fn drop(&mut self) {
        self.stop();
    }
}

fn described(tool: rmcp::model::Tool) -> Described {
    let own = |schema: Arc<JsonObject>| Arc::unwrap_or_clone(schema);
    Described {
        tool: tool.name.into_owned(),
        description: tool.description.map(std::borrow::Cow::into_owned).unwrap_or_default(),
        input_schema: own(tool.input_schema),
        output_schema: tool.output_schema.map(own),
    }
}

fn not_mcp() -> Failure {
    Failure::new(Reason::Broken, Dispatch::Sent, "the upstream answered with something that is not MCP")
}

const NESTED: &str = "the upstream's answer is nested deeper than is read";

fn too_large() -> Failure {
    let message = format!(
        "the result is larger than {} MiB in too many pieces to be cut, so that none of it can be given; ask for less, or for a part of it",
        MAX_MESSAGE_BYTES >> 20
    );
    Failure::new(Reason::TooLarge, Dispatch::Sent, message)
}

/// An error that the server reports is an answer; one of the way to it is a failure.
fn refused(error: ServiceError, sent: &Sent) -> Result<Answer, Failure> {
    if sent.is_too_large() {
        return Err(too_large());
    }
    match error {
        ServiceError::McpError(error) => match own_error(&error) {
            Some(TOO_LARGE) => Err(too_large()),
            Some(TOO_DEEP) => Err(Failure::new(Reason::Broken, Dispatch::Sent, NESTED)),
            Some(_) => Err(not_mcp()),
            None => Ok(content::error(&error)),
        },
        ServiceError::TransportSend(error) => Err(http::failure(&error, sent)),
        ServiceError::UnexpectedResponse => Err(not_mcp()),
        _ => Err(Failure::new(Reason::Broken, sent.dispatch(), "the connection to the upstream broke")),
    }
}

fn own_error(error: &ErrorData) -> Option<&str> {
    error.data.as_ref()?.get(OWN_ERROR)?.as_str()
}
