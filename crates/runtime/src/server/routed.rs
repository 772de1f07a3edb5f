//! A service's routes with the layers around them.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;
use tracing::{Instrument as _, Span};

use super::body::{Ending, RequestBody, ResponseBody, panicked};
use super::deadline::{self, Deadline};
use super::drain;
use super::method;
use super::stack::Stack;
use super::{REQUEST_ID, RequestId};
use crate::auth::Identity;
use crate::status::complete;
use crate::telemetry::propagation;

/// Routes with the layers around them: what both transports call. Cheap to clone; it never fails and is always ready.
#[derive(Clone, Debug)]
pub struct Routed {
    stack: Stack,
    routes: Routes,
}

impl Routed {
    pub(crate) fn new(stack: Stack, routes: Routes) -> Self {
        Self { stack, routes: routes.prepare() }
    }

    /// Whose routes these are.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let id = request_id(&self.stack, request.headers());
        let span = server_span(&self.stack, &request, &id);
        let path: Arc<str> = request.uri().path().into();
        let ending = Ending::new(&self.stack, span.clone(), path, id.clone());
        let mut response = self.admit(request, ending, &id).instrument(span).await;
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    /// Everything that may refuse the call before its handler runs.
    async fn admit(self, mut request: Request<Body>, ending: Ending, id: &Arc<str>) -> Response<Body> {
        let open = method::is_open(request.uri().path());
        let admitted = self.checks(&request, open);
        let (identity, timeout) = match admitted {
            Ok(admitted) => admitted,
            Err(status) => return ending.respond(status),
        };
        let deadline = timeout.map(|span| Deadline { at: self.stack.clock().monotonic().saturating_add(span) });
        let extensions = request.extensions_mut();
        extensions.insert(RequestId(id.clone()));
        if let Some(deadline) = deadline {
            extensions.insert(deadline);
        }
        if let Some(identity) = identity {
            Span::current().record("agentruntime.tenant", &identity.caller.tenant);
            if let Some(run) = &identity.run {
                Span::current().record("run.id", &run.run);
            }
            extensions.insert(identity);
        }
        self.handle(request, ending.until(deadline, open)).await
    }

    fn checks(&self, request: &Request<Body>, open: bool) -> Result<(Option<Identity>, Option<Duration>), Status> {
        if self.stack.drain().is_draining() && !open {
            return Err(drain::refusal());
        }
        let path = request.uri().path();
        let default = || method::is_unary(path).then_some(self.stack.limits().default_deadline);
        let timeout = deadline::read(request.headers())?.or_else(default);
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(deadline::passed());
        }
        if open {
            return Ok((None, timeout));
        }
        let identity = self.stack.authenticator().identify(path, request.headers())?;
        Ok((Some(identity), timeout))
    }

    /// Runs the handler until it answers, its deadline passes or the service stops. Leaving drops it.
    async fn handle(mut self, request: Request<Body>, mut ending: Ending) -> Response<Body> {
        let limit = self.stack.limits().message_to(self.stack.service()).as_len();
        let request = request.map(|body| Body::new(RequestBody::new(body, limit)));
        let call = AssertUnwindSafe(async move { self.routes.call(request).await }).catch_unwind();
        let response = tokio::select! {
            biased;
            response = call => response,
            status = ending.ended() => return ending.respond(status),
        };
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(panic) => return ending.respond(panicked(&*panic)),
        };
        if let Some(status) = Status::from_header_map(response.headers()).filter(|_| is_final(&response)) {
            return ending.respond(status);
        }
        if !response.status().is_success() {
            let text = format!("the transport answered {}", response.status());
            return ending.respond(Status::invalid_argument(text));
        }
        // Extensions stay on this side of the seam.
        let (mut parts, body) = response.into_parts();
        parts.extensions.clear();
        Response::from_parts(parts, Body::new(ResponseBody::new(body, ending)))
    }
}

fn is_final(response: &Response<Body>) -> bool {
    response.headers().contains_key(Status::GRPC_STATUS)
}

impl Service<Request<Body>> for Routed {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().answer(request).map(Ok))
    }
}

/// The caller's id if it is 1 to 128 printable ASCII characters, else a new one.
fn request_id(stack: &Stack, headers: &HeaderMap) -> Arc<str> {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(|| stack.ids().uuid_v7().to_string().into(), Into::into)
}

fn server_span(stack: &Stack, request: &Request<Body>, id: &str) -> Span {
    let method = request.uri().path().trim_start_matches('/');
    let span = tracing::info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = tracing::field::Empty,
        request.id = id,
        agentruntime.service = stack.service().as_str(),
        agentruntime.tenant = tracing::field::Empty,
        run.id = tracing::field::Empty,
    );
    propagation::continue_trace(&span, request.headers());
    span
}

impl Ending {
    /// The answer of a call that failed before its body began.
    fn respond(mut self, status: Status) -> Response<Body> {
        let status = complete(status, self.request_id());
        self.finish(&status);
        status.into_http()
    }
}
