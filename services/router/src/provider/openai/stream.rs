//! A streamed answer: server-sent events, each a chunk, until the stream ends or says `[DONE]`.

use async_stream::stream;
use bytes::Bytes;
use eventsource_stream::{EventStreamError, Eventsource as _};
use futures::{Stream, StreamExt as _};

use super::accumulate::Builder;
use super::byte_order_mark;
use super::wire::Completion;
use crate::provider::{Event, Failure};

const DONE: &str = "[DONE]";

/// The events of a body.
pub fn events<S>(body: S, mut builder: Builder) -> impl Stream<Item = Result<Event, Failure>> + Send
where
    S: Stream<Item = Result<Bytes, Failure>> + Send,
{
    stream! {
        let mut events = std::pin::pin!(byte_order_mark::without(body).eventsource());
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                // The answer was whole; only its usage may be missing.
                Err(_) if builder.is_finished() => break,
                Err(EventStreamError::Transport(failure)) => {
                    yield Err(failure);
                    return;
                }
                Err(_) => {
                    yield Err(Failure::broken("sent something that is no event stream"));
                    return;
                }
            };
            let data = event.data.trim();
            if data == DONE {
                break;
            }
            if data.is_empty() {
                continue;
            }
            let fed = serde_json::from_str::<Completion>(data)
                .map_err(|_| Failure::broken("sent a chunk that is not of its format"))
                .and_then(|chunk| builder.feed(chunk));
            match fed {
                Ok(events) => {
                    for event in events {
                        yield Ok(event);
                    }
                }
                Err(failure) => {
                    yield Err(failure);
                    return;
                }
            }
        }
        yield builder.finish().map(|answer| Event::Finished(Box::new(answer)));
    }
}

#[cfg(test)]
mod tests;
