//! A receiver of traces, as small as one can be.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

/// A span with the name of the process that it comes from.
#[derive(Clone, Debug)]
pub struct Received {
    /// The resource's `service.name`.
    pub service: String,
    /// The span.
    pub span: Span,
}

/// A running receiver. Dropping it stops it.
pub struct Receiver {
    address: SocketAddr,
    spans: Spans,
    shutdown: CancellationToken,
    _tasks: TaskTracker,
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Received>>>);

impl Receiver {
    /// Listens on a free port.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (spans, shutdown, tasks) = (Spans::default(), CancellationToken::new(), TaskTracker::new());
        let (stop, service) = (shutdown.clone(), TraceServiceServer::new(spans.clone()));
        tasks.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            // Ended by the test, whose spans are all there by then.
            let _ = server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned()).await;
        });
        Ok(Self { address, spans, shutdown, _tasks: tasks })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans of a trace that have come.
    pub fn trace(&self, id: [u8; 16]) -> Vec<Received> {
        let spans = self.spans.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|received| received.span.trace_id == id).cloned().collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for group in request.into_inner().resource_spans {
            let attributes = group.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.into_iter().find(|pair| pair.key == "service.name");
            let service = match service.and_then(|pair| pair.value?.value) {
                Some(Value::StringValue(name)) => name,
                _ => String::new(),
            };
            let received = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(received.map(|span| Received { service: service.clone(), span }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
