//! HTTP/2 over TCP, with prior knowledge, or over TLS.
//!
//! Our own loop rather than tonic's, because tonic's transport has its own timer on `grpc-timeout`, whose answer would
//! race with that of the layers and has no details.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service as _;

use super::front::Front;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to close after its last call.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// Out of file descriptors, mostly: accepting again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_HEADERS: u32 = 32 * 1024;
const MAX_STREAMS: u32 = 1_000;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The open connections of a listener.
pub(super) struct Connections {
    tasks: JoinSet<()>,
    close: CancellationToken,
    front: Front,
}

impl Connections {
    /// Takes connections until `shutdown`, then closes the listener.
    pub(super) async fn accept(listener: TcpListener, front: Front, shutdown: CancellationToken) -> Self {
        let mut open = Self { tasks: JoinSet::new(), close: CancellationToken::new(), front };
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return open,
                Some(_) = open.tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => open.start(stream),
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed");
                        open.front.stack().clock().sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn start(&mut self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was not set");
        }
        let (front, close) = (self.front.clone(), self.close.clone());
        self.tasks.spawn(begin(stream, front, close));
    }

    /// Says goodbye on every connection and waits shortly until they are closed; then cuts them.
    pub(super) async fn close(mut self) {
        self.close.cancel();
        let clock = self.front.stack().clock();
        tokio::select! {
            () = async { while self.tasks.join_next().await.is_some() {} } => {}
            () = clock.sleep(CLOSE_PATIENCE) => {
                tracing::debug!(connections = self.tasks.len(), "cutting connections that did not close");
            }
        }
        self.tasks.shutdown().await;
    }
}

/// Agrees on a connection and serves it.
async fn begin(stream: TcpStream, front: Front, close: CancellationToken) {
    let Some(tls) = front.stack().tls().cloned() else {
        return connection(stream, front, close).await;
    };
    let agreed = tokio::select! {
        biased;
        () = close.cancelled() => return,
        agreed = tls.accept(stream) => agreed,
    };
    match agreed {
        Ok(stream) => connection(stream, front, close).await,
        Err(error) => tracing::debug!(error = %crate::status::chain(&error), "TLS handshake failed"),
    }
}

async fn connection<S>(stream: S, front: Front, close: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let front = Arc::new(front);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut routed = front.of(request.uri().path()).clone();
        routed.call(request.map(Body::new))
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %crate::status::chain(&error), "connection ended");
    }
}
