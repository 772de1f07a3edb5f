//! Where notices go: a webhook, or an operator's `EventSinkService`. Only addresses of the configuration, and no redirect.

use std::time::Duration;

use bytes::Bytes;
use mar_proto::extension::DeliverRequest;
use mar_proto::extension::event_sink_service_client::EventSinkServiceClient;
use reqwest::StatusCode;
use tonic::Code;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// An address that a hook may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `https://…` or `http://…`
    Web(reqwest::Url),
    /// `http(s)://host:port` of a gRPC server.
    Grpc(String),
}

impl Address {
    /// An address of the configuration.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(url: &str) -> Result<Self, String> {
        const FORM: &str = "must be `https://…`, `http://…`, `grpcs://host:port` or `grpc://host:port`";
        let none = || FORM.to_owned();
        let grpc = [("grpc://", "http://"), ("grpcs://", "https://")];
        for (scheme, transport) in grpc {
            if let Some(rest) = url.strip_prefix(scheme) {
                let parsed = reqwest::Url::parse(&format!("{transport}{rest}")).map_err(|_| none())?;
                let bare = parsed.path() == "/" && parsed.query().is_none() && parsed.username().is_empty();
                return if bare && !rest.is_empty() {
                    Ok(Self::Grpc(format!("{transport}{rest}")))
                } else {
                    Err(none())
                };
            }
        }
        match reqwest::Url::parse(url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Self::Web(url)),
            _ => Err(none()),
        }
    }
}

/// A notice on its way.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// Id of the notice.
    pub id: String,
    /// Seconds since 1970.
    pub timestamp: i64,
    /// JSON.
    pub body: Bytes,
    /// Over all of it.
    pub signature: String,
}

/// A notice was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// What happened, without anything that the other side said.
    pub text: String,
    /// Whether it will not be taken later either.
    pub for_good: bool,
}

impl Refusal {
    fn passing(text: impl Into<String>) -> Self {
        Self { text: text.into(), for_good: false }
    }
}

/// The way to a hook.
#[derive(Debug, Clone)]
pub enum Sink {
    /// A webhook.
    Web(reqwest::Client, reqwest::Url),
    /// An `EventSinkService`.
    Grpc(EventSinkServiceClient<Channel>),
}

impl Sink {
    /// The way to an address. Nothing is connected before the first notice.
    ///
    /// # Errors
    /// No client can be made.
    pub fn try_new(address: &Address, timeout: Duration) -> Result<Self, String> {
        match address {
            Address::Web(url) => {
                let client = reqwest::Client::builder()
                    .redirect(reqwest::redirect::Policy::none())
                    .timeout(timeout)
                    .user_agent(concat!("mcp-agent-runtime/", env!("CARGO_PKG_VERSION")))
                    .build();
                Ok(Self::Web(client.map_err(|error| error.to_string())?, url.clone()))
            }
            Address::Grpc(url) => {
                let mut endpoint = Endpoint::from_shared(url.clone()).map_err(|error| error.to_string())?;
                if url.starts_with("https://") {
                    let tls = ClientTlsConfig::new().with_native_roots();
                    endpoint = endpoint.tls_config(tls).map_err(|error| error.to_string())?;
                }
                let channel = endpoint.connect_timeout(timeout).timeout(timeout).connect_lazy();
                Ok(Self::Grpc(EventSinkServiceClient::new(channel)))
            }
        }
    }

    /// Sends a notice.
    ///
    /// # Errors
    /// It was not taken, or nobody knows.
    pub async fn deliver(&self, parcel: &Parcel) -> Result<(), Refusal> {
        match self {
            Self::Web(client, url) => web(client, url, parcel).await,
            Self::Grpc(client) => grpc(client.clone(), parcel).await,
        }
    }
}

/// What the other side answers beside its status is not read.
async fn web(client: &reqwest::Client, url: &reqwest::Url, parcel: &Parcel) -> Result<(), Refusal> {
    let request = client
        .post(url.clone())
        .header("content-type", "application/json")
        .header("webhook-id", &parcel.id)
        .header("webhook-timestamp", parcel.timestamp)
        .header("webhook-signature", &parcel.signature)
        .body(parcel.body.clone());
    match request.send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => {
            let for_good = answer.status() == StatusCode::GONE;
            Err(Refusal { text: format!("HTTP {}", answer.status().as_u16()), for_good })
        }
        Err(error) if error.is_timeout() => Err(Refusal::passing("timed out")),
        Err(error) if error.is_connect() => Err(Refusal::passing("cannot be reached")),
        Err(_) => Err(Refusal::passing("broke off, or answered with something that is no HTTP")),
    }
}

async fn grpc(mut client: EventSinkServiceClient<Channel>, parcel: &Parcel) -> Result<(), Refusal> {
    let request = DeliverRequest {
        id: parcel.id.clone(),
        timestamp: parcel.timestamp,
        notice: parcel.body.clone(),
        signature: parcel.signature.clone(),
    };
    match client.deliver(request).await {
        Ok(_) => Ok(()),
        Err(status) => {
            let for_good = status.code() == Code::FailedPrecondition;
            Err(Refusal { text: format!("gRPC {:?}", status.code()), for_good })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_http_or_grpc() {
        for good in
            ["https://hooks.example/a?b=c", "http://127.0.0.1:9/x", "grpc://127.0.0.1:9", "grpcs://sink.example:443"]
        {
            assert!(Address::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "file:///etc/passwd", "ftp://x/y", "https://", "grpc://", "grpc://h:1/path", "hooks.example"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
