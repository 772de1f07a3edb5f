//! The trace context that goes with a call.

use opentelemetry::propagation::{Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// `traceparent` and `tracestate` (W3C Trace Context) of the current span, as far as there is a trace.
pub fn current() -> Vec<(&'static str, String)> {
    let mut found = Found(Vec::new());
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut found);
    found.0
}

struct Found(Vec<(&'static str, String)>);

impl Injector for Found {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.0.push(("traceparent", value)),
            "tracestate" if !value.is_empty() => self.0.push(("tracestate", value)),
            _ => {}
        }
    }
}
