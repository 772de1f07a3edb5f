//! Spans kept in memory, for tests that follow a trace through several services of one process.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The spans of this process that have ended.
#[derive(Clone, Debug)]
pub struct InMemory {
    exporter: InMemorySpanExporter,
    _provider: SdkTracerProvider,
}

impl InMemory {
    /// Installs the exporter for the whole process; every later call gives the same one. Tests that run side by side
    /// tell their spans apart by trace.
    pub fn install() -> Self {
        static INSTALLED: OnceLock<InMemory> = OnceLock::new();
        INSTALLED
            .get_or_init(|| {
                let exporter = InMemorySpanExporter::default();
                let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
                let installed = tracing_subscriber::registry().with(super::trace_layer(&provider)).try_init();
                if installed.is_err() {
                    tracing::warn!("another subscriber is installed, so that no spans are kept");
                }
                Self { exporter, _provider: provider }
            })
            .clone()
    }

    /// The ended spans of a trace.
    pub fn trace(&self, id: TraceId) -> Vec<SpanData> {
        let spans = self.exporter.get_finished_spans().unwrap_or_default();
        spans.into_iter().filter(|span| span.span_context.trace_id() == id).collect()
    }

    /// The ended spans of a trace, once `enough` holds; after `patience` whatever is there. A span ends shortly after
    /// its caller has the answer.
    pub async fn wait(&self, id: TraceId, patience: Duration, enough: impl Fn(&[SpanData]) -> bool) -> Vec<SpanData> {
        const STEP: Duration = Duration::from_millis(5);
        let mut left = patience;
        loop {
            let spans = self.trace(id);
            if enough(&spans) || left.is_zero() {
                return spans;
            }
            #[expect(clippy::disallowed_methods, reason = "spans end in real time, whatever clock a test has")]
            tokio::time::sleep(STEP).await;
            left = left.saturating_sub(STEP);
        }
    }
}

/// A `traceparent` header with its ids, as a caller outside of the runtime would send it.
pub fn traceparent(ids: &dyn crate::clock::Ids) -> (String, TraceId, SpanId) {
    let trace = TraceId::from_bytes(crate::clock::random(ids));
    let span = SpanId::from_bytes(crate::clock::random(ids));
    (format!("00-{trace}-{span}-01"), trace, span)
}

/// A string attribute of a span.
pub fn attribute(span: &SpanData, key: &str) -> Option<String> {
    span.attributes.iter().find(|pair| pair.key.as_str() == key).map(|pair| pair.value.as_str().into_owned())
}
