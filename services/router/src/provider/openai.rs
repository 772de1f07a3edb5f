//! OpenAI's chat completions, as OpenAI itself, vLLM, llama.cpp and Ollama serve them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use mar_runtime::clock::Clock;
use mar_runtime::telemetry::propagation;
use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::credential::{Credential, Problem};
use super::http::{self, Body};
use super::{Call, Delivery, Events, Failure, FailureClass, Provider};
use crate::catalogue::Model;
use crate::prompt::Prompt;

mod accumulate;
mod answer_scan;
mod byte_order_mark;
mod constrained;
mod conversation;
mod ordered;
mod request;
mod response;
mod sanitise;
mod stream;
mod wire;

pub use request::{Dialect, MaxTokensField, SystemRole};

/// How long the provider may take, and how much it may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Until the first byte of a streamed answer.
    #[serde(with = "mar_runtime::config::duration")]
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    #[serde(with = "mar_runtime::config::duration")]
    pub idle: Duration,
    /// For a whole attempt.
    #[serde(with = "mar_runtime::config::duration")]
    pub total: Duration,
    /// The largest answer.
    pub max_answer: mar_runtime::config::ByteSize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
            max_answer: mar_runtime::config::ByteSize::mib(16),
        }
    }
}

/// How long a server is looked for. One that runs lists its models at once.
const LOOK: Duration = Duration::from_secs(1);

/// A server that speaks chat completions.
#[derive(Debug)]
pub struct OpenAi {
    client: reqwest::Client,
    url: Url,
    models: Url,
    own_address: Option<String>,
    headers: http::HeaderMap,
    dialect: Dialect,
    bounds: Bounds,
    credential: Credential,
    clock: Arc<dyn Clock>,
}

impl OpenAi {
    /// `base_url` is what clients of the API want, such as `https://api.openai.com/v1`.
    pub fn new(
        client: reqwest::Client,
        base_url: &Url,
        headers: http::HeaderMap,
        dialect: Dialect,
        bounds: Bounds,
        credential: Credential,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let below = |path: &str| {
            let mut url = base_url.clone();
            url.set_path(&format!("{}/{path}", base_url.path().trim_end_matches('/')));
            url
        };
        let (url, models) = (below("chat/completions"), below("models"));
        let own_address = own_address(base_url);
        Self { client, url, models, own_address, headers, dialect, bounds, credential, clock }
    }

    async fn send(&self, body: Vec<u8>, first_byte: Duration) -> Result<reqwest::Response, Failure> {
        let mut headers = self.headers.clone();
        propagation::inject(&tracing::Span::current(), &mut headers);
        let mut request = self
            .client
            .post(self.url.clone())
            .headers(headers)
            .header(http::CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(key) = self.credential.secret(self.clock.monotonic())? {
            request = request.bearer_auth(key.expose_secret());
        }
        let answered = tokio::select! {
            answered = request.send() => answered.map_err(|error| http::no_answer(&error))?,
            () = self.clock.sleep(first_byte) => {
                return Err(Failure::silent(format!("sent nothing within {first_byte:?}")));
            }
        };
        let status = answered.status();
        if status.is_success() {
            return Ok(answered);
        }
        let failure = http::refused(status, answered.headers(), self.clock.now());
        if failure.class == FailureClass::Credential {
            self.credential.died(self.clock.monotonic());
        }
        Err(failure)
    }

    fn body(&self, response: reqwest::Response) -> impl Stream<Item = Result<Bytes, Failure>> + Send + use<> {
        let bounds = Body { idle: self.bounds.idle, max_bytes: self.bounds.max_answer.as_len() };
        http::bounded(response.bytes_stream(), bounds, Arc::clone(&self.clock))
    }
}

#[async_trait]
impl Provider for OpenAi {
    async fn generate(&self, call: Call) -> Result<Events, Failure> {
        let streamed = call.delivery == Delivery::Streamed && call.model.streaming;
        let translated = request::translate(&call, &self.dialect, streamed)?;
        let started = self.clock.monotonic();
        let first_byte = if streamed { self.bounds.first_byte } else { self.bounds.total };
        let response = self.send(translated.body, first_byte).await?;
        let body = self.body(response);
        let builder = accumulate::Builder::new(Arc::clone(&call.prompt), translated.codec, translated.warnings);
        let events: Events =
            if streamed { stream::events(body, builder).boxed() } else { response::events(body, builder).boxed() };
        let end = started.saturating_add(self.bounds.total);
        Ok(http::until(events, end, Arc::clone(&self.clock)).boxed())
    }

    fn credential_problem(&self) -> Option<Problem> {
        self.credential.problem(self.clock.monotonic())
    }

    fn own_address(&self) -> Option<&str> {
        self.own_address.as_deref()
    }

    async fn look(&self) -> Option<Result<(), Failure>> {
        if !self.credential.is_none() {
            return None;
        }
        let asked = self.client.get(self.models.clone()).headers(self.headers.clone()).send();
        let answered = tokio::select! {
            answered = asked => answered.map_err(|error| http::no_answer(&error)),
            () = self.clock.sleep(LOOK) => Err(Failure::silent(format!("did not answer within {LOOK:?}"))),
        };
        Some(answered.and_then(|answer| {
            let refused = || http::refused(answer.status(), answer.headers(), self.clock.now());
            // A server may well not list its models.
            let here = answer.status().is_success() || refused().class == FailureClass::Refused;
            if here { Ok(()) } else { Err(refused()) }
        }))
    }

    fn told(&self, model: &Model, prompt: &Prompt) -> Vec<String> {
        request::told(model, prompt)
    }
}

/// `host:port` of a URL on this machine.
fn own_address(url: &Url) -> Option<String> {
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let own = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    own.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_this_machine_is_told() {
        let of = |url: &str| own_address(&url.parse().unwrap());
        for (url, address) in [
            ("http://127.0.0.1:8080/v1", "127.0.0.1:8080"),
            ("http://user:secret@localhost/v1?key=x", "localhost:80"),
            ("https://[::1]:9/v1", "[::1]:9"),
        ] {
            assert_eq!(of(url).as_deref(), Some(address), "{url}");
        }
        for url in ["http://10.1.2.3:8080/v1", "http://models.internal/v1", "https://api.openai.com/v1"] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
