//! Calling another service: over TCP, or in the same process with no HTTP/2 between.
//!
//! A [`Peer`] goes where a generated client expects its channel: `RouterServiceClient::new(peer)`. It never fails as a
//! service; what goes wrong on the way is a status with details, like any other.

mod body;
mod mesh;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use mar_proto::types::ErrorReason;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::{Service, ServiceExt as _};
use tracing::{Instrument as _, Span};

use crate::ServiceName;
use crate::clock::{Clock, SystemClock};
use crate::config::{LimitsConfig, RuntimeConfig};
use crate::server::{Routed, TIMEOUT_HEADER, deadline_passed, encode_timeout, is_unary, read_timeout};
use crate::status::{Fault, chain, complete, metadata};
use crate::telemetry::propagation;
use crate::tls::{self, Connector, Tls, TlsConfig};

pub use mesh::LocalMesh;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// In the metadata of `ErrorInfo`, where a call is known not to have left.
const NOT_SENT: (&str, &str) = ("sent", "no");
const RETRY: Duration = Duration::from_millis(500);
/// The peer ends a call at its deadline itself; only one that says nothing is given up by our own timer.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);

/// Why there is no peer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No address is configured.
    #[error("runtime.peers.{0} is not set")]
    NotConfigured(&'static str),
    /// A certificate, its key or an authority cannot be used.
    #[error("runtime.tls.{}", .0.field())]
    Tls(#[source] tls::Error),
    /// The address is no URL.
    #[error("the URL of the peer {peer} is not valid")]
    Url {
        /// Which peer.
        peer: ServiceName,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Another service of the runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    name: ServiceName,
    transport: Transport,
    settings: Arc<Settings>,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp(Channel),
    Local(Routed),
    Mesh(LocalMesh),
}

#[derive(Debug)]
struct Settings {
    default_deadline: Duration,
    max_message: usize,
    clock: Arc<dyn Clock>,
}

impl Settings {
    fn new(name: ServiceName, limits: &LimitsConfig, clock: Arc<dyn Clock>) -> Arc<Self> {
        let max_message = limits.message_to(name).as_len();
        Arc::new(Self { default_deadline: limits.default_deadline, max_message, clock })
    }
}

impl Peer {
    /// A peer at `url`: `http://host:port`, or `https://host:port`, which one of the system's authorities has to vouch
    /// for. It connects at the first call and again when the connection was lost.
    ///
    /// # Errors
    /// [`Error::Url`]. Must be called inside a tokio runtime.
    pub fn tcp(name: ServiceName, url: &str, limits: &LimitsConfig) -> Result<Self, Error> {
        Self::with_tls(name, url, limits, &TlsConfig::default())
    }

    /// A peer at `url`, with the certificates and authorities of `tls` where it is `https://`.
    ///
    /// # Errors
    /// [`Error::Url`] and [`Error::Tls`]. Must be called inside a tokio runtime.
    pub fn with_tls(name: ServiceName, url: &str, limits: &LimitsConfig, tls: &TlsConfig) -> Result<Self, Error> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let wrong = |source| Error::Url { peer: name, source };
        // The transport refuses this scheme where TLS is not its own business.
        let secured = url.strip_prefix("https://").map(|rest| format!("http://{rest}"));
        let endpoint = Endpoint::from_shared(secured.clone().unwrap_or_else(|| url.to_owned())).map_err(wrong)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let channel = match secured {
            None => endpoint.connect_lazy(),
            Some(_) => {
                let origin = Endpoint::from_shared(url.to_owned()).map_err(wrong)?.uri().clone();
                let tls = Tls::try_new(tls, Arc::clone(&clock)).map_err(Error::Tls)?;
                endpoint.origin(origin).connect_with_connector_lazy(Connector::new(tls))
            }
        };
        let settings = Settings::new(name, limits, clock);
        Ok(Self { name, transport: Transport::Tcp(channel), settings })
    }

    /// The peer that `[runtime.peers]` names.
    ///
    /// # Errors
    /// [`Error::NotConfigured`], [`Error::Url`] and [`Error::Tls`].
    pub fn configured(name: ServiceName, runtime: &RuntimeConfig) -> Result<Self, Error> {
        let url = runtime.peers.url(name).ok_or(Error::NotConfigured(name.table()))?;
        Self::with_tls(name, url, &runtime.limits, &runtime.tls)
    }

    /// A peer in this process. Dropping a call or its stream drops the handler, as it does over TCP.
    pub fn local(routed: Routed) -> Self {
        let stack = routed.stack();
        let settings = Settings::new(stack.service(), stack.limits(), Arc::new(SystemClock::new()));
        Self { name: stack.service(), transport: Transport::Local(routed), settings }
    }

    /// Which service it is.
    pub fn name(&self) -> ServiceName {
        self.name
    }

    /// The largest message, in bytes, that is accepted from it: give it to the generated client's
    /// `max_decoding_message_size`, whose default is lower.
    pub fn max_message(&self) -> usize {
        self.settings.max_message
    }

    async fn send(self, mut request: Request<Body>) -> Response<Body> {
        let span = client_span(self.name, &request);
        // What was put into the extensions on this side would pass to the handler in process, and vanish over TCP.
        request.extensions_mut().clear();
        propagation::inject(&span, request.headers_mut());
        let deadline = match self.set_deadline(&mut request) {
            Ok(deadline) => deadline,
            Err(status) => {
                return body::Ending::new(span, self.settings.clone(), None).respond(&status);
            }
        };
        let mut ending = body::Ending::new(span.clone(), self.settings.clone(), deadline);
        let call = self.transport.call(self.name, request).instrument(span);
        let outcome = tokio::select! {
            biased;
            outcome = call => outcome,
            () = ending.expired() => Err(deadline_passed()),
        };
        match outcome {
            Ok(response) => ending.pass(response),
            Err(status) => ending.respond(&status),
        }
    }

    /// The end of the call, in monotonic time; a unary call always has one.
    fn set_deadline(&self, request: &mut Request<Body>) -> Result<Option<Duration>, Status> {
        let mut timeout = read_timeout(request.headers())?;
        if timeout.is_none() && is_unary(request.uri().path()) {
            let default = self.settings.default_deadline;
            if let Ok(value) = HeaderValue::try_from(encode_timeout(default)) {
                request.headers_mut().insert(TIMEOUT_HEADER, value);
            }
            timeout = Some(default);
        }
        Ok(timeout.map(|span| self.settings.clock.monotonic().saturating_add(span).saturating_add(DEADLINE_GRACE)))
    }
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request).map(Ok))
    }
}

impl Transport {
    async fn call(self, peer: ServiceName, request: Request<Body>) -> Result<Response<Body>, Status> {
        let local = match self {
            Self::Tcp(channel) => {
                return channel.oneshot(request).await.map_err(|error| unreachable(peer, error));
            }
            Self::Local(routed) => routed,
            Self::Mesh(mesh) => mesh.find(peer).ok_or_else(|| unavailable(peer, Sent::No, None))?,
        };
        local.oneshot(request).await.map_err(|never| match never {})
    }
}

/// A status that our side makes of a failing transport.
fn unreachable(peer: ServiceName, error: tonic::transport::Error) -> Status {
    let text = chain(&error);
    let sent = if connected(&error) { Sent::Perhaps } else { Sent::No };
    // tonic's own timer, which reads the same header. A connection that breaks off is told as cancelled, too.
    if causes(&error).any(|cause| cause.is::<tonic::TimeoutExpired>()) {
        return deadline_passed();
    }
    let insecure = causes(&error).find_map(agreed_on_nothing);
    match Status::from_error(Box::new(error)).code() {
        Code::DeadlineExceeded => deadline_passed(),
        Code::ResourceExhausted => complete(Status::resource_exhausted(text), ""),
        _ => {
            tracing::info!(peer = peer.as_str(), error = text, "peer cannot be reached");
            unavailable(peer, sent, insecure.as_deref())
        }
    }
}

/// Whether there was a connection at all on which the call may have gone out.
fn connected(error: &tonic::transport::Error) -> bool {
    !causes(error).any(|cause| cause.is::<tonic::ConnectError>())
}

/// What an error comes from, the nearest first.
fn causes(error: &tonic::transport::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

/// Why there is no TLS connection, for whoever has to mend it. An I/O error hides what it is made of from its sources.
fn agreed_on_nothing(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    let within = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let tls = cause.downcast_ref::<rustls::Error>().or_else(|| within?.downcast_ref());
    tls.map(ToString::to_string)
}

/// Whether a call that got no answer may have reached the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    No,
    Perhaps,
}

fn unavailable(peer: ServiceName, sent: Sent, insecure: Option<&str>) -> Status {
    let why = insecure.map(|why| format!(" over TLS: {why}")).unwrap_or_default();
    let fault = Fault::new(
        Code::Unavailable,
        ErrorReason::PeerUnavailable,
        format!("the service {peer} cannot be reached{why}"),
    )
    .metadata("peer", peer.as_str())
    .retry_after(RETRY);
    match sent {
        Sent::No => fault.metadata(NOT_SENT.0, NOT_SENT.1).into(),
        Sent::Perhaps => fault.into(),
    }
}

/// Whether the status says that the call never left: there was no connection, or no such service in this process.
pub fn never_sent(status: &Status) -> bool {
    metadata(status).get(NOT_SENT.0).is_some_and(|value| value == NOT_SENT.1)
}

fn client_span(peer: ServiceName, request: &Request<Body>) -> Span {
    let method = request.uri().path().trim_start_matches('/');
    tracing::info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = tracing::field::Empty,
        peer = peer.as_str(),
    )
}
