//! The HTTP face: routes, key check, and from a request to the response that its rule asks for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::conversation::Conversation;
use super::journal::{Journal, Recorded};
use super::rules::Uses;
use super::script::{Reply, Rule, Script, ScriptedError};
use super::stream::{self, End, Flight, Flights, Manner};
use super::wire::{self, Heading};

/// Larger request bodies are refused with 413.
const BODY_LIMIT: usize = 64 << 20;

/// What all requests of a server share.
#[derive(Debug)]
pub(super) struct Stage {
    script: Script,
    uses: Uses,
    journal: Journal,
    flights: Arc<Flights>,
    closing: CancellationToken,
}

impl Stage {
    pub(super) fn new(script: Script) -> Self {
        let journal = Journal::new(script.journal);
        Self { script, uses: Uses::default(), journal, flights: Arc::default(), closing: CancellationToken::new() }
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub(super) fn requests(&self) -> Vec<Recorded> {
        self.journal.entries()
    }

    pub(super) fn request_count(&self) -> u64 {
        self.journal.count()
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.flights.open()
    }

    pub(super) fn abandoned(&self) -> u64 {
        self.flights.abandoned()
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.script.api_key else {
            return true;
        };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        given.and_then(|given| given.strip_prefix("Bearer ")) == Some(key)
    }

    fn knows_model(&self, name: &str) -> bool {
        self.script.models.is_empty() || self.script.models.iter().any(|known| known == name)
    }
}

pub(super) fn routes(stage: Arc<Stage>) -> Router {
    Router::new()
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/v1/models", get(list_models))
        .route("/v1/chat/completions", post(complete))
        .route("/rehearsal/requests", get(list_requests))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "not_found", "no such endpoint", None) })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(stage)
}

async fn list_models(State(stage): State<Arc<Stage>>, headers: HeaderMap) -> Response {
    if !stage.admits(&headers) {
        return unauthorized();
    }
    Json(wire::models(&stage.script.models())).into_response()
}

async fn list_requests(State(stage): State<Arc<Stage>>) -> Response {
    Json(json!({ "count": stage.request_count(), "requests": stage.requests() })).into_response()
}

async fn complete(State(stage): State<Arc<Stage>>, headers: HeaderMap, body: Bytes) -> Response {
    if !stage.admits(&headers) {
        stage.journal.record(&headers, readable(&body), None);
        return unauthorized();
    }
    let parsed: Value = match serde_json::from_slice(&body) {
        Ok(parsed) => parsed,
        Err(error) => {
            stage.journal.record(&headers, readable(&body), None);
            let said = format!("the body is not JSON: {error}");
            return refuse(StatusCode::BAD_REQUEST, "invalid_json", &said, None);
        }
    };
    let conversation = match Conversation::parse(&parsed) {
        Ok(conversation) => conversation,
        Err(invalid) => {
            stage.journal.record(&headers, parsed, None);
            return refuse(StatusCode::BAD_REQUEST, "invalid_value", &invalid.message, invalid.param);
        }
    };
    if !stage.knows_model(&conversation.model) {
        stage.journal.record(&headers, parsed, None);
        let said = format!("the model `{}` does not exist", conversation.model);
        return refuse(StatusCode::NOT_FOUND, "model_not_found", &said, Some("model"));
    }
    let rule = stage.uses.take(&stage.script.rules, &conversation);
    let number = stage.journal.record(&headers, parsed, rule.map(|rule| rule.name.as_str()));
    let Some(rule) = rule else {
        let said = "no rule of the script matches this request (or those that do are used up)";
        return refuse(StatusCode::BAD_REQUEST, "no_rule_matches", said, None);
    };
    tracing::debug!(rule = %rule.name, number, stream = conversation.stream, "rehearsed answer");
    perform(&stage, rule, &conversation, number).await
}

/// Gives the rule's reply.
async fn perform(stage: &Stage, rule: &Rule, conversation: &Conversation, number: u64) -> Response {
    let flight = Flight::start(&stage.flights);
    let reply = &rule.reply;
    if !stream::pause(reply.delay, &stage.closing).await {
        return stopping();
    }
    if reply.hang {
        stage.closing.cancelled().await;
        return stopping();
    }
    if let Some(error) = &reply.error {
        flight.land();
        return scripted_error(error, &rule.name);
    }
    let pieces = pieces(reply, conversation, number);
    let kind = if conversation.stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    let manner = Manner::of(reply);
    let whole = !conversation.stream && manner.end == End::Whole;
    let body = if whole {
        flight.land();
        Body::from(pieces.concat())
    } else {
        stream::body(pieces, manner, stage.closing.clone(), flight)
    };
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], body).into_response()
}

/// The body in the pieces in which it is sent: server-sent events, or, so that a cut has somewhere to cut, a JSON body
/// in pieces of 64 bytes.
fn pieces(reply: &Reply, conversation: &Conversation, number: u64) -> Vec<Bytes> {
    if let Some(garbage) = reply.garbage() {
        return vec![Bytes::from(garbage)];
    }
    let heading = Heading { number, model: conversation.model.clone() };
    let answer = Answer::compose(reply, conversation);
    if !conversation.stream {
        let body = Bytes::from(wire::completion(&heading, &answer).to_string());
        let starts = (0..body.len()).step_by(64);
        return starts.map(|start| body.slice(start..body.len().min(start + 64))).collect();
    }
    let chunks = wire::chunks(&heading, &answer, reply.chunk_size, conversation.include_usage);
    let events = chunks.iter().map(|chunk| format!("data: {chunk}\n\n"));
    events.chain(["data: [DONE]\n\n".to_owned()]).map(Bytes::from).collect()
}

fn scripted_error(error: &ScriptedError, rule: &str) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match &error.body {
        Some(Value::String(text)) => (status, text.clone()).into_response(),
        Some(body) => (status, Json(body)).into_response(),
        None => refuse(status, "scripted_error", &format!("error of the script, {rule}"), None),
    };
    if let Some(after) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, whole_seconds(after).into());
    }
    response
}

/// The header counts whole seconds; a part of one rounds up.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn refuse(status: StatusCode, code: &str, message: &str, param: Option<&str>) -> Response {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    (status, Json(wire::error(kind, code, message, param))).into_response()
}

fn unauthorized() -> Response {
    let said = "a valid API key is needed as bearer token";
    (StatusCode::UNAUTHORIZED, Json(wire::error("authentication_error", "invalid_api_key", said, None))).into_response()
}

fn stopping() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the server is stopping", None)
}

fn readable(body: &Bytes) -> Value {
    Value::String(String::from_utf8_lossy(body).into_owned())
}
