//! Bodies that take their time, break off, hang or turn into garbage.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::script::Reply;

/// Lets the transport write out what it has before the connection is dropped.
const FLUSH: Duration = Duration::from_millis(20);

/// How a body departs from the plain sending of its pieces.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    pub(super) chunk_delay: Option<Duration>,
    pub(super) end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    /// The connection drops after so many pieces.
    Cut(usize),
    /// Nothing more comes after so many pieces.
    Hang(usize),
}

impl Manner {
    pub(super) fn of(reply: &Reply) -> Self {
        let end = match (reply.cut_after, reply.hang_after) {
            (Some(pieces), _) => End::Cut(pieces),
            (None, Some(pieces)) => End::Hang(pieces),
            (None, None) => End::Whole,
        };
        Self { chunk_delay: reply.chunk_delay, end }
    }
}

/// Counts answers being given and answers left unfinished.
#[derive(Debug, Default)]
pub(super) struct Flights {
    open: AtomicU64,
    abandoned: AtomicU64,
}

impl Flights {
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// One answer being given; unfinished when dropped without [`Flight::land`].
#[derive(Debug)]
pub(super) struct Flight {
    flights: Arc<Flights>,
    landed: bool,
}

impl Flight {
    pub(super) fn start(flights: &Arc<Flights>) -> Self {
        flights.open.fetch_add(1, Ordering::Relaxed);
        Self { flights: Arc::clone(flights), landed: false }
    }

    pub(super) fn land(mut self) {
        self.landed = true;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.open.fetch_sub(1, Ordering::Relaxed);
        if !self.landed {
            self.flights.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A body that sends `pieces` in the given manner, until done or `closing`.
pub(super) fn body(pieces: Vec<Bytes>, manner: Manner, closing: CancellationToken, flight: Flight) -> Body {
    Body::from_stream(async_stream::stream! {
        let end = match manner.end {
            End::Whole => pieces.len(),
            End::Cut(after) | End::Hang(after) => after.min(pieces.len()),
        };
        for (at, piece) in pieces.into_iter().take(end).enumerate() {
            if at > 0 && !pause(manner.chunk_delay, &closing).await {
                yield Err(broken("the server is stopping"));
                return;
            }
            yield Ok(piece);
        }
        match manner.end {
            End::Whole => flight.land(),
            End::Cut(_) => {
                tokio::time::sleep(FLUSH).await;
                flight.land();
                yield Err(broken("cut by the script"));
            }
            End::Hang(_) => {
                closing.cancelled().await;
                yield Err(broken("the server is stopping"));
            }
        }
    })
}

/// Waits; false when the server is stopping.
pub(super) async fn pause(delay: Option<Duration>, closing: &CancellationToken) -> bool {
    let Some(delay) = delay else {
        return !closing.is_cancelled();
    };
    tokio::select! {
        () = tokio::time::sleep(delay) => true,
        () = closing.cancelled() => false,
    }
}

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, reason)
}
