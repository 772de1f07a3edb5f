//! MCP over streamable HTTP.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use async_trait::async_trait;
use mar_proto::tool::Dispatch;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError};
use secrecy::ExposeSecret as _;
use tokio_util::task::TaskTracker;

use super::bounded::BoundedClient;
use super::egress::{self, PublicResolver};
use super::{MAX_MESSAGE_BYTES, McpSession};
use crate::config::UpstreamConfig;
use crate::outcome::{Failure, Reason, Sent};
use crate::upstream::{ConnectError, Connector, Session};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the configured server.
#[derive(Debug)]
pub struct HttpServer {
    config: UpstreamConfig,
    tasks: TaskTracker,
}

impl HttpServer {
    /// The server that `config` names; its work runs in `tasks`.
    pub fn new(config: UpstreamConfig, tasks: TaskTracker) -> Self {
        Self { config, tasks }
    }

    async fn client(&self, url: &reqwest::Url) -> Result<reqwest::Client, ConnectError> {
        mar_runtime::process::install_crypto();
        // A proxy would resolve names itself, past the check of addresses.
        let mut client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT);
        if self.config.allow_private != Some(true) {
            egress::check(url).await.map_err(|error| ConnectError::bare(error.to_string()))?;
            client = client.dns_resolver(Arc::new(PublicResolver));
        }
        client.build().map_err(|error| ConnectError::new("the HTTP client cannot be made", error))
    }

    fn headers(&self) -> Result<HashMap<HeaderName, HeaderValue>, ConnectError> {
        let mut headers = HashMap::new();
        for (name, value) in &self.config.headers {
            let secret = value.resolve().map_err(|error| ConnectError::new("a secret cannot be read", error))?;
            let value = HeaderValue::from_str(secret.expose_secret());
            let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), value) else {
                return Err(ConnectError::bare(format!("the header {name} has no valid value")));
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

#[async_trait]
impl Connector for HttpServer {
    async fn connect(&self) -> Result<Arc<dyn Session>, ConnectError> {
        let url = self.config.url.as_deref().unwrap_or_default();
        let parsed = reqwest::Url::parse(url).map_err(|error| ConnectError::new("the URL is not valid", error))?;
        let config = StreamableHttpClientTransportConfig::with_uri(url)
            .max_concurrent_requests(self.config.max_concurrency.saturating_add(4))
            .max_sse_event_size(MAX_MESSAGE_BYTES)
            .custom_headers(self.headers()?);
        let transport = StreamableHttpClientTransport::with_client(BoundedClient(self.client(&parsed).await?), config);
        Ok(Arc::new(McpSession::open(transport, self.tasks.clone()).await?.with_probe()))
    }
}

/// What an error of the way to the server means for a call.
pub(super) fn failure(error: &(dyn std::error::Error + 'static), sent: &Sent) -> Failure {
    let mut cause = Some(error);
    while let Some(one) = cause {
        if let Some(error) = one.downcast_ref::<StreamableHttpError<reqwest::Error>>() {
            return of_http(error);
        }
        cause = one.source();
    }
    Failure::new(Reason::Broken, sent.dispatch(), "the connection to the upstream broke")
}

fn of_http(error: &StreamableHttpError<reqwest::Error>) -> Failure {
    match error {
        StreamableHttpError::Client(error) if error.is_connect() => {
            Failure::new(Reason::Unavailable, Dispatch::NotSent, "the upstream cannot be reached")
        }
        StreamableHttpError::ResponseBodyTooLarge { .. } => super::too_large(),
        StreamableHttpError::HttpStatus(status) if status.status == 429 || status.status == 503 => {
            Failure::new(Reason::Unavailable, Dispatch::Sent, format!("the upstream answered HTTP {}", status.status))
        }
        StreamableHttpError::AuthRequired(_) | StreamableHttpError::InsufficientScope(_) => {
            Failure::new(Reason::Unavailable, Dispatch::NotSent, "the upstream refuses the gateway's credential")
        }
        error => {
            tracing::debug!(%error, "call over HTTP failed");
            Failure::new(Reason::Broken, Dispatch::Unknown, "the connection to the upstream broke")
        }
    }
}
