//! The HTTP client that all providers share, and what can go wrong on the wire.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use mar_runtime::clock::Clock;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, StatusCode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

pub use ::http::HeaderMap;
pub use ::http::header::{CONTENT_TYPE, RETRY_AFTER};

use super::{Event, Failure, FailureClass};

/// Connections that are kept open per host.
const IDLE_CONNECTIONS: usize = 64;
const IDLE_TIME: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 3;
/// A provider that asks for a longer pause is told so to the caller as this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// `[router.http]`. Not reloadable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// How long a connection may take to open, 5 s by default.
    #[serde(with = "mar_runtime::config::duration")]
    pub connect_timeout: Duration,
    /// PEM files with certificate authorities that are trusted besides the system's.
    pub ca_files: Vec<PathBuf>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), ca_files: Vec::new() }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file with certificates cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no certificates, or the client cannot be built from them.
    #[error("the http client cannot be built")]
    Build(#[source] reqwest::Error),
}

/// The client of all providers. It honours the proxy variables of the environment and follows redirects within one
/// origin only, so that no credential leaves it.
///
/// # Errors
/// The certificate files cannot be used.
pub fn client(config: &HttpConfig) -> Result<Client, ClientError> {
    // A provider that is installed already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut certificates = Vec::new();
    for path in &config.ca_files {
        let pem = std::fs::read(path).map_err(|source| ClientError::Unreadable { path: path.clone(), source })?;
        certificates.extend(Certificate::from_pem_bundle(&pem).map_err(ClientError::Build)?);
    }
    let within_origin = Policy::custom(|attempt| {
        let previous = attempt.previous();
        let same = previous.first().is_some_and(|first| first.origin() == attempt.url().origin());
        if same && previous.len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
    });
    Client::builder()
        .connect_timeout(config.connect_timeout)
        .redirect(within_origin)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIME)
        .tcp_nodelay(true)
        .user_agent(concat!("mcp-agent-runtime/", env!("CARGO_PKG_VERSION")))
        .tls_certs_merge(certificates)
        .build()
        .map_err(ClientError::Build)
}

/// What the absence of an answer means. The error's own text may hold URLs and is not passed on.
pub fn no_answer(error: &reqwest::Error) -> Failure {
    if error.is_connect() {
        return Failure::new(FailureClass::Unavailable, "cannot be connected to");
    }
    if error.is_timeout() {
        return Failure::silent("did not answer in time");
    }
    Failure::silent("broke the connection before it answered")
}

/// What an answer other than success means. Its body is never read.
pub fn refused(status: StatusCode, headers: &HeaderMap, now: OffsetDateTime) -> Failure {
    let class = match status.as_u16() {
        401..=403 => FailureClass::Credential,
        429 => FailureClass::RateLimited,
        408 | 409 | 425 | 500..=599 => FailureClass::Unavailable,
        _ => FailureClass::Refused,
    };
    let retry_after = match class {
        FailureClass::RateLimited | FailureClass::Unavailable => retry_after(headers, now),
        _ => None,
    };
    Failure { retry_after, ..Failure::new(class, format!("answered {}", status.as_u16())) }
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = value.replace("GMT", "+0000");
            let then = OffsetDateTime::parse(&date, &Rfc2822).ok()?;
            Duration::try_from(then - now).unwrap_or_default()
        }
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

/// Bounds of an answer's body.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// The longest pause between two pieces.
    pub idle: Duration,
    /// The most bytes in all.
    pub max_bytes: usize,
}

/// A body that fails when it pauses too long, grows too large or breaks off.
pub fn bounded<S>(body: S, bounds: Body, clock: Arc<dyn Clock>) -> impl Stream<Item = Result<Bytes, Failure>> + Send
where
    S: Stream<Item = Result<Bytes, reqwest::Error>> + Send,
{
    stream! {
        let mut body = std::pin::pin!(body);
        let mut left = bounds.max_bytes;
        loop {
            let next = tokio::select! {
                next = body.next() => next,
                () = clock.sleep(bounds.idle) => {
                    yield Err(Failure::silent(format!("paused for more than {:?}", bounds.idle)));
                    return;
                }
            };
            match next {
                None => return,
                Some(Err(_)) => {
                    yield Err(Failure::broken("broke off its answer"));
                    return;
                }
                Some(Ok(piece)) => {
                    let Some(rest) = left.checked_sub(piece.len()) else {
                        yield Err(Failure::broken(format!("sent more than {} bytes", bounds.max_bytes)));
                        return;
                    };
                    left = rest;
                    yield Ok(piece);
                }
            }
        }
    }
}

/// Events that end with a failure once the clock reads `end`.
pub fn until<S>(events: S, end: Duration, clock: Arc<dyn Clock>) -> impl Stream<Item = Result<Event, Failure>> + Send
where
    S: Stream<Item = Result<Event, Failure>> + Send,
{
    stream! {
        let mut events = std::pin::pin!(events);
        let mut over = clock.sleep_until(end);
        loop {
            tokio::select! {
                next = events.next() => match next {
                    Some(event) => yield event,
                    None => return,
                },
                () = &mut over => {
                    yield Err(Failure::silent("took longer than an attempt may take"));
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16) -> FailureClass {
        let status = StatusCode::from_u16(status).unwrap();
        refused(status, &HeaderMap::new(), OffsetDateTime::UNIX_EPOCH).class
    }

    #[test]
    fn statuses_fall_into_classes() {
        for status in [401, 402, 403] {
            assert_eq!(class(status), FailureClass::Credential);
        }
        for status in [400, 404, 405, 413, 422, 302, 451] {
            assert_eq!(class(status), FailureClass::Refused);
        }
        for status in [408, 500, 502, 503, 504, 529] {
            assert_eq!(class(status), FailureClass::Unavailable);
        }
        assert_eq!(class(429), FailureClass::RateLimited);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let read = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            refused(StatusCode::TOO_MANY_REQUESTS, &headers, now).retry_after
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Thu, 01 Jan 1970 00:01:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(read("Wed, 31 Dec 1969 00:01:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(read("soon"), None);
    }
}
