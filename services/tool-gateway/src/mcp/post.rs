//! A tool call over HTTP, whose answer is shortened while it is read. The SDK's own client reads answers whole, and has
//! nothing between it and the body.

use std::io;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{BoxStream, Stream};
use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use rmcp::model::{JsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{
    AuthRequiredError, HttpStatusError, StreamableHttpError, StreamableHttpPostResponse,
};
use sse_stream::SseStream;

use super::clip::Clip;

const EVENTS: &str = "text/event-stream";
const JSON: &str = "application/json";
/// The header that names a session.
pub(super) const SESSION_ID: &str = "Mcp-Session-Id";
/// Of an answer that is no success as much is read.
const MAX_ERROR: usize = 64 << 10;
/// What the transport shows of an event that is too large, as the SDK does.
const TOO_LARGE: &str = "the event exceeded the maximum size";

type Failed = StreamableHttpError<reqwest::Error>;

/// Asks for what a call may be answered with.
pub(super) fn asking(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    request.header(ACCEPT, format!("{EVENTS}, {JSON}"))
}

/// What a call was answered with: at most `limit` bytes a message, long strings cut.
pub(super) async fn answer(
    response: Response,
    in_session: bool,
    limit: usize,
) -> Result<StreamableHttpPostResponse, Failed> {
    let status = response.status();
    let session = text(&response, SESSION_ID);
    let kind = text(&response, CONTENT_TYPE.as_str());
    let is = |expected: &str| kind.as_deref().is_some_and(|kind| kind.starts_with(expected));
    match status {
        StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(StreamableHttpPostResponse::Accepted),
        _ if status.is_success() && is(EVENTS) => {
            let bytes = clipped(response.bytes_stream(), limit);
            Ok(StreamableHttpPostResponse::Sse(SseStream::from_bytes_stream(bytes).boxed(), session))
        }
        _ if status.is_success() && is(JSON) => {
            let body = body(response, limit).await?;
            Ok(StreamableHttpPostResponse::Json(serde_json::from_slice(&body)?, session))
        }
        _ if status.is_success() => Err(StreamableHttpError::UnexpectedContentType(kind)),
        StatusCode::NOT_FOUND if in_session => Err(StreamableHttpError::SessionExpired),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let challenge = text(&response, WWW_AUTHENTICATE.as_str()).unwrap_or_default();
            Err(StreamableHttpError::AuthRequired(AuthRequiredError::new(challenge)))
        }
        _ => {
            let bare = HttpStatusError::new(status.as_u16(), text(&response, RETRY_AFTER.as_str()));
            if status == StatusCode::TOO_MANY_REQUESTS || !is(JSON) {
                return Err(bare.into());
            }
            // A server may say with an error of HTTP what it says in an error of JSON-RPC as well.
            let body = body(response, MAX_ERROR).await.unwrap_or_default();
            match serde_json::from_slice::<ServerJsonRpcMessage>(&body) {
                Ok(message @ JsonRpcMessage::Error(_)) => Ok(StreamableHttpPostResponse::Json(message, session)),
                _ => Err(bare.into()),
            }
        }
    }
}

fn text(response: &Response, header: &str) -> Option<String> {
    response.headers().get(header)?.to_str().ok().map(str::to_owned)
}

async fn body(response: Response, limit: usize) -> Result<Vec<u8>, Failed> {
    let (mut clip, mut kept) = (Clip::of_message(), Vec::new());
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        clip.pass(&piece.map_err(StreamableHttpError::Client)?, &mut kept);
        if kept.len() > limit {
            return Err(StreamableHttpError::ResponseBodyTooLarge { max_size: limit });
        }
    }
    Ok(kept)
}

/// A stream of events, shortened, that fails when what is left of one is beyond the limit.
fn clipped(
    pieces: impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + 'static,
    limit: usize,
) -> BoxStream<'static, io::Result<Bytes>> {
    let mut clip = Clip::of_lines();
    let mut event = Event::default();
    let shortened = pieces.map(move |piece| {
        let mut kept = Vec::new();
        clip.pass(&piece.map_err(io::Error::other)?, &mut kept);
        event.pass(&kept);
        if event.length > limit { Err(io::Error::other(TOO_LARGE)) } else { Ok(Bytes::from(kept)) }
    });
    shortened.boxed()
}

/// What has come of the event that is not over yet.
#[derive(Debug, Default)]
struct Event {
    length: usize,
    /// Of its last line, without what ends it.
    line: usize,
}

impl Event {
    /// Takes in the next bytes. An empty line ends an event, whichever way lines end.
    fn pass(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            self.length += part.len();
            self.line += text.strip_suffix(b"\r").unwrap_or(text).len();
            if part.ends_with(b"\n") {
                self.length = if self.line == 0 { 0 } else { self.length };
                self.line = 0;
            }
        }
    }
}

/// Whether a stream of events ended for its size.
pub(super) fn is_too_large(error: &sse_stream::Error) -> bool {
    matches!(error, sse_stream::Error::Body(cause) if cause.to_string().contains("exceeded the maximum size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_ends_an_event_wherever_it_is_cut() {
        for end in ["\n", "\r\n"] {
            let first = format!("event: x{end}data: {}{end}{end}", "y".repeat(100));
            let text = format!("{first}data: {{}}");
            for size in 1..text.len() {
                let mut event = Event::default();
                text.as_bytes().chunks(size).for_each(|piece| event.pass(piece));
                assert_eq!(event.length, "data: {}".len(), "{end:?} {size}");
            }
        }
    }

    #[test]
    fn a_line_of_blanks_ends_nothing() {
        let mut event = Event::default();
        (0..10).for_each(|_| event.pass(b"data: x\n \n"));
        assert_eq!(event.length, 100);
    }
}
