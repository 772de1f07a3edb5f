//! The bodies of a call: the request's is measured, the response's ends with complete trailers, whatever happens.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

use super::deadline::{self, Deadline};
use super::drain;
use super::frame::FrameMeter;
use super::method;
use super::stack::Stack;
use crate::status::{Reason, complete, message_too_large, reason_name};

/// A request body that fails at the prefix of a message beyond the limit.
pub(super) struct RequestBody {
    inner: Body,
    meter: FrameMeter,
}

impl RequestBody {
    pub(super) fn new(inner: Body, limit: usize) -> Self {
        Self { inner, meter: FrameMeter::new(limit) }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && self.meter.feed(data).is_err()
        {
            return Poll::Ready(Some(Err(message_too_large(self.meter.limit()).into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How a call ends: its span, its log line, its place among the calls in flight, and what cuts it short.
pub(super) struct Ending {
    stack: Stack,
    span: Span,
    path: Arc<str>,
    request_id: Arc<str>,
    start: Duration,
    finished: bool,
    deadline: Option<Deadline>,
    cut: BoxFuture<'static, Status>,
    /// None for open methods: a health watch lasts as long as its caller likes.
    _in_flight: Option<TaskTrackerToken>,
}

impl Ending {
    pub(super) fn new(stack: &Stack, span: Span, path: Arc<str>, request_id: Arc<str>) -> Self {
        Self {
            start: stack.clock().monotonic(),
            cut: futures::future::pending().boxed(),
            _in_flight: (!method::is_open(&path)).then(|| stack.drain().enter()),
            stack: stack.clone(),
            span,
            path,
            request_id,
            finished: false,
            deadline: None,
        }
    }

    /// Sets what cuts the call short: its deadline, and the end of the drain; for open methods its beginning, since a
    /// health watch would last as long as its caller.
    pub(super) fn until(mut self, deadline: Option<Deadline>, open: bool) -> Self {
        self.deadline = deadline;
        let drain = self.stack.drain();
        let stop = if open { drain.draining() } else { drain.stopped() }.clone().cancelled_owned();
        let stop = stop.map(|()| drain::refusal());
        self.cut = match deadline {
            Some(deadline) => {
                let expiry = self.stack.clock().sleep_until(deadline.at);
                async move {
                    tokio::select! {
                        status = stop => status,
                        () = expiry => deadline::passed(),
                    }
                }
                .boxed()
            }
            None => stop.boxed(),
        };
        self
    }

    /// Resolves when the call is cut short.
    pub(super) async fn ended(&mut self) -> Status {
        (&mut self.cut).await
    }

    /// What cuts a call short that always has something ready, so that nothing waits for [`Ending::ended`].
    fn overdue(&self) -> Option<Status> {
        if self.deadline.is_some_and(|deadline| deadline.remaining(self.stack.clock()).is_zero()) {
            return Some(deadline::passed());
        }
        self.stack.drain().stopped().is_cancelled().then(drain::refusal)
    }

    pub(super) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Records how the call ended, once.
    pub(super) fn finish(&mut self, status: &Status) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let code = status.code();
        let name = code_name(code);
        self.span.record("rpc.response.status_code", name);
        if is_server_fault(code) {
            self.span.record("otel.status_code", "ERROR");
        }
        let _inside = self.span.enter();
        let elapsed = self.stack.clock().monotonic().saturating_sub(self.start);
        let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let reason = Reason::of(status).map_or("", reason_name);
        if code == Code::Ok {
            tracing::debug!(rpc.method = &*self.path, duration_ms, "request done");
        } else if is_server_fault(code) {
            let error = status.message();
            tracing::warn!(rpc.method = &*self.path, rpc.status = name, reason, error, duration_ms, "request failed");
        } else {
            let error = status.message();
            tracing::info!(rpc.method = &*self.path, rpc.status = name, reason, error, duration_ms, "request refused");
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(&complete(Status::cancelled("the caller went away"), ""));
        }
    }
}

/// A response body that ends with trailers: the handler's, completed; or those of what cut it short.
pub(super) struct ResponseBody {
    /// None once the trailers are out; dropping it drops the handler's stream.
    inner: Option<Body>,
    ending: Ending,
}

impl ResponseBody {
    pub(super) fn new(inner: Body, ending: Ending) -> Self {
        Self { inner: Some(inner), ending }
    }

    fn end(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        let status = complete(status, self.ending.request_id());
        self.ending.finish(&status);
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }

    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(context)));
        match polled {
            Err(panic) => self.end(panicked(&*panic)),
            Ok(Poll::Pending) => match self.ending.cut.poll_unpin(context) {
                Poll::Ready(status) => self.end(status),
                Poll::Pending => Poll::Pending,
            },
            Ok(Poll::Ready(Some(Ok(frame)))) => match frame.into_trailers() {
                Ok(trailers) => {
                    let status = Status::from_header_map(&trailers);
                    self.end(status.unwrap_or_else(|| Status::unknown("trailers without a status")))
                }
                Err(data) => match self.ending.overdue() {
                    Some(status) => self.end(status),
                    None => Poll::Ready(Some(Ok(data))),
                },
            },
            Ok(Poll::Ready(Some(Err(status)))) => self.end(status),
            Ok(Poll::Ready(None)) => self.end(Status::unknown("a body without trailers")),
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let span = self.ending.span.clone();
        let _inside = span.enter();
        // In process nothing else makes a stream that is always ready let other tasks run.
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        let polled = self.next(context);
        if polled.is_ready() {
            budget.made_progress();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none()
    }
}

/// The trailers that carry `status`.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // A text that fits in no header: the code alone still tells what happened.
        headers.clear();
        headers.insert(Status::GRPC_STATUS, (status.code() as i32).into());
    }
    headers
}

/// The status of a call whose handler panicked. The text goes to the log, not to the caller.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Status {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    crate::status::internal(format!("panic: {}", text.unwrap_or("not a text")))
}

/// The codes for which a server is to blame, by the semantic conventions for RPC servers.
fn is_server_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The code as the gRPC specification writes it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
