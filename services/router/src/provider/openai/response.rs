//! An answer in one piece.

use async_stream::stream;
use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt as _};

use super::accumulate::Builder;
use super::wire::Completion;
use crate::provider::{Event, Failure};

/// The events of a body.
pub fn events<S>(body: S, builder: Builder) -> impl Stream<Item = Result<Event, Failure>> + Send
where
    S: Stream<Item = Result<Bytes, Failure>> + Send,
{
    stream! {
        let whole: Result<BytesMut, Failure> = body
            .try_fold(BytesMut::new(), |mut whole, piece| async move {
                whole.extend_from_slice(&piece);
                Ok(whole)
            })
            .await;
        match whole.and_then(|whole| read(&whole, builder)) {
            Ok(events) => {
                for event in events {
                    yield Ok(event);
                }
            }
            Err(failure) => yield Err(failure),
        }
    }
}

fn read(whole: &[u8], mut builder: Builder) -> Result<Vec<Event>, Failure> {
    let completion: Completion =
        serde_json::from_slice(whole).map_err(|_| Failure::broken("sent an answer that is not of its format"))?;
    let mut events = builder.feed(completion)?;
    events.push(Event::Finished(Box::new(builder.finish()?)));
    Ok(events)
}
