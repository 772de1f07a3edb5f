//! The caller's side of a response: a stream that breaks ends with a status that has details.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use mar_proto::types::ErrorReason;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

use super::{RETRY, Settings};
use crate::server::{FrameMeter, code_name, deadline_passed, trailers};
use crate::status::{Fault, message_too_large};

/// How a call ends on the caller's side: its span and its timer.
pub(super) struct Ending {
    span: Span,
    settings: Arc<Settings>,
    expiry: BoxFuture<'static, ()>,
}

impl Ending {
    pub(super) fn new(span: Span, settings: Arc<Settings>, deadline: Option<Duration>) -> Self {
        let expiry = match deadline {
            Some(at) => settings.clock.sleep_until(at),
            None => futures::future::pending().boxed(),
        };
        Self { span, settings, expiry }
    }

    pub(super) async fn expired(&mut self) {
        (&mut self.expiry).await;
    }

    fn record(&self, code: Code) {
        self.span.record("rpc.response.status_code", code_name(code));
        if code != Code::Ok {
            self.span.record("otel.status_code", "ERROR");
        }
    }

    /// The answer of a call that found no other.
    pub(super) fn respond(self, status: &Status) -> Response<Body> {
        self.record(status.code());
        status.clone().into_http()
    }

    /// The peer's answer, watched to its end.
    pub(super) fn pass(self, response: Response<Body>) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        parts.extensions.clear();
        if let Some(code) = code_of(&parts.headers) {
            self.record(code);
            return Response::from_parts(parts, body);
        }
        let meter = FrameMeter::new(self.settings.max_message);
        Response::from_parts(parts, Body::new(PeerBody { inner: Some(body), meter, ending: self }))
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

struct PeerBody {
    /// None once the trailers are out; dropping it tells the peer that nobody listens.
    inner: Option<Body>,
    meter: FrameMeter,
    ending: Ending,
}

impl PeerBody {
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        self.ending.record(status.code());
        Poll::Ready(Some(Ok(Frame::trailers(trailers(status)))))
    }

    fn data(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let fits = frame.data_ref().is_none_or(|data| self.meter.feed(data).is_ok());
        if fits { Poll::Ready(Some(Ok(frame))) } else { self.end(&message_too_large(self.meter.limit()).into()) }
    }
}

impl http_body::Body for PeerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        match Pin::new(inner).poll_frame(context) {
            Poll::Pending => match self.ending.expiry.poll_unpin(context) {
                Poll::Ready(()) => self.end(&deadline_passed()),
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(Some(Ok(frame))) => match frame.trailers_ref().map(code_of) {
                Some(code) => {
                    self.ending.record(code.unwrap_or(Code::Unknown));
                    self.inner = None;
                    Poll::Ready(Some(Ok(frame)))
                }
                None => self.data(frame),
            },
            Poll::Ready(Some(Err(status))) => {
                tracing::info!(error = %status, "the stream of a peer broke");
                self.end(&broken())
            }
            Poll::Ready(None) => self.end(&broken()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The connection went away in the middle of an answer.
fn broken() -> Status {
    Fault::new(Code::Unavailable, ErrorReason::PeerUnavailable, "the stream of a service broke")
        .retry_after(RETRY)
        .into()
}
