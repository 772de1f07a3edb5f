//! OpenAI's chat completions, as OpenAI itself, vLLM, llama.cpp and Ollama serve them.

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
use super::{Call, Delivery, Events, Failure, Provider};
use crate::catalogue::Model;
use crate::prompt::Prompt;

mod accumulate;
mod answer_scan;
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

/// A server that speaks chat completions.
#[derive(Debug)]
pub struct OpenAi {
    client: reqwest::Client,
    url: Url,
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
        let mut url = base_url.clone();
        url.set_path(&format!("{}/chat/completions", base_url.path().trim_end_matches('/')));
        Self { client, url, headers, dialect, bounds, credential, clock }
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
        if failure.class == super::FailureClass::Credential {
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

    fn told(&self, model: &Model, prompt: &Prompt) -> Vec<String> {
        request::told(model, prompt)
    }
}
