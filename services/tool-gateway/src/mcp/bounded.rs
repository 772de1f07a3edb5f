//! The HTTP client below the SDK's transport. It notes on each call that it has left, shortens what the call is answered
//! with, and notes that even so the answer was larger than is held: the SDK then says only that the connection closed.

use std::collections::HashMap;
use std::sync::Arc;

use ::http::{HeaderName, HeaderValue};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::streamable_http_client::{StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse};
use sse_stream::{Error as SseError, Sse};

use super::stdio::sent_mark;
use super::{MAX_MESSAGE_BYTES, post};

type Headers = HashMap<HeaderName, HeaderValue>;
type Failed = StreamableHttpError<reqwest::Error>;
type Events = BoxStream<'static, Result<Sse, SseError>>;

/// A client whose answers are bounded.
#[derive(Clone, Debug)]
pub(super) struct BoundedClient(pub(super) reqwest::Client);

impl StreamableHttpClient for BoundedClient {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        self.post_message_with_max_sse_event_size(uri, message, session, auth, headers, MAX_MESSAGE_BYTES).await
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: Headers,
        limit: usize,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        let Some(sent) = sent_mark(&message).cloned() else {
            return self.0.post_message_with_max_sse_event_size(uri, message, session, auth, headers, limit).await;
        };
        let mut request = post::asking(self.0.post(&*uri)).headers(headers.into_iter().collect());
        if let Some(auth) = auth {
            request = request.bearer_auth(auth);
        }
        if let Some(session) = &session {
            request = request.header(post::SESSION_ID, &**session);
        }
        sent.mark();
        let response = request.json(&message).send().await.map_err(StreamableHttpError::Client)?;
        Ok(match post::answer(response, session.is_some(), limit).await? {
            StreamableHttpPostResponse::Sse(events, session) => {
                let watched = events.inspect(move |event| {
                    if event.as_ref().is_err_and(post::is_too_large) {
                        sent.mark_too_large();
                    }
                });
                StreamableHttpPostResponse::Sse(watched.boxed(), session)
            }
            response => response,
        })
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<(), Failed> {
        self.0.delete_session(uri, session, auth, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<Events, Failed> {
        self.get_stream_with_max_sse_event_size(uri, session, last_event, auth, headers, MAX_MESSAGE_BYTES).await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        auth: Option<String>,
        headers: Headers,
        limit: usize,
    ) -> Result<Events, Failed> {
        self.0.get_stream_with_max_sse_event_size(uri, session, last_event, auth, headers, limit).await
    }
}
