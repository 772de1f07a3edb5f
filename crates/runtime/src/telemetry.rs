//! Logs, traces and the context that crosses services.
//!
//! One provider serves the process; which service a span belongs to is its attribute `agentruntime.service`. Spans go
//! out in batches from a thread of their own: an endpoint that is slow or away costs dropped spans and nothing else.

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, TelemetryConfig};

pub mod propagation;
pub mod testing;

const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// What the exporter itself is made of: its spans would feed on themselves.
const NOT_TRACED: [&str; 6] = ["h2", "hyper", "hyper_util", "tonic", "tower", "opentelemetry"];

/// The library that speaks MCP tells every failed try to reach a server as an error of its own. The gateway says once that an
/// upstream is down, and why.
const NOT_LOGGED: &str = "rmcp";

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `runtime.telemetry.log_filter` is wrong.
    #[error("runtime.telemetry.log_filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The exporter of `runtime.telemetry.otlp_endpoint` cannot be built.
    #[error("runtime.telemetry.otlp_endpoint")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The process has a subscriber already.
    #[error("telemetry is installed already")]
    Installed,
}

/// Keeps telemetry going; [`Guard::shutdown`] sends what is left.
#[derive(Debug)]
#[must_use]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    /// Sends the spans that are waiting, for three seconds at most.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // The provider waits for its thread, and that thread may need this runtime.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT)).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("the last spans were not exported");
        }
    }
}

/// Installs logs on standard error, and traces when an endpoint is set, for the whole process. `service` becomes the
/// resource's `service.name`. Must be called inside a tokio runtime.
///
/// # Errors
/// The configuration is wrong, or telemetry is installed already.
pub fn install(service: &str, config: &TelemetryConfig) -> Result<Guard, Error> {
    let provider = provider(service, config)?;
    let traces = provider.as_ref().map(|provider| trace_layer(provider));
    let filter = filter(&config.log_filter).map_err(Error::Filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
    };
    tracing_subscriber::registry()
        .with(traces)
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|_| Error::Installed)?;
    Ok(Guard { provider })
}

/// What is logged. What `log_filter` says of [`NOT_LOGGED`] wins.
fn filter(log_filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(format!("{NOT_LOGGED}=off,{log_filter}"))
}

fn provider(service: &str, config: &TelemetryConfig) -> Result<Option<SdkTracerProvider>, Error> {
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok(None);
    };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(Error::Exporter)?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(opentelemetry::KeyValue::new("service.namespace", config.service_namespace.clone()))
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
}

/// Spans down to INFO, whatever the log shows.
fn trace_layer<S>(provider: &SdkTracerProvider) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span> + Send + Sync,
{
    let targets = NOT_TRACED.map(|target| (target, LevelFilter::OFF));
    let filter = Targets::new().with_default(LevelFilter::INFO).with_targets(targets);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("agentruntime"))
        .with_location(false)
        .with_threads(false)
        .with_filter(filter)
        .boxed()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of an error of the library's and of a line of our own.
    fn logged(log_filter: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter(log_filter).unwrap()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "rmcp::transport::worker", "worker quit");
            tracing::info!(target: "mar_tool_gateway::upstream", "upstream is down");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_mcp_library_is_heard_only_where_it_is_asked_for() {
        let said = |log_filter| {
            let text = logged(log_filter);
            (text.contains("worker quit"), text.contains("upstream is down"))
        };
        assert_eq!(said("info"), (false, true));
        assert_eq!(said("warn"), (false, false));
        assert_eq!(said("debug,hyper=info"), (false, true));
        assert_eq!(said("info,rmcp=error"), (true, true));
        assert_eq!(said("rmcp=warn"), (true, false));
        assert!(filter("=,=").is_err());
    }
}
