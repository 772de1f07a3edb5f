//! What replicas tell each other at once. Any of it may be lost: whatever counts is in the store, where a timer finds it.

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

pub mod redis;

/// Something that another replica may want to know before its timer tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Something is wanted of this run: whoever executes it reads its commands, and where nobody does it may be claimed. Nil
    /// for runs that are to be claimed, whichever.
    Wanted(Uuid),
    /// A replica, by its name as an owner, has followers of this run, which it does not execute.
    Followed(Uuid, String),
    /// There is more of this run in the store, or another executes it.
    Moved(Uuid),
    /// A frame of this run that no store keeps, as the message `RunFrame`.
    Shown(Uuid, Bytes),
}

/// Carries signals.
#[async_trait]
pub trait Signals: std::fmt::Debug + Send + Sync {
    /// Tells one replica, or every other when none is named. That it was heard is not promised.
    async fn tell(&self, replica: Option<&str>, signal: &Signal);
    /// Hands over what others tell this replica, in the order in which it comes, until it is dropped.
    async fn listen(&self, replica: &str, heard: &(dyn Fn(Signal) + Send + Sync));
}

/// A replica that is alone.
#[derive(Debug)]
pub struct Silence;

#[async_trait]
impl Signals for Silence {
    async fn tell(&self, _: Option<&str>, _: &Signal) {}

    async fn listen(&self, _: &str, _: &(dyn Fn(Signal) + Send + Sync)) {
        std::future::pending().await
    }
}

const WANTED: u8 = 1;
const FOLLOWED: u8 = 2;
const MOVED: u8 = 3;
const SHOWN: u8 = 4;

impl Signal {
    /// One byte for the kind, sixteen for the run, then what the kind has besides.
    fn encode(&self) -> Bytes {
        let (kind, run, rest) = match self {
            Self::Wanted(run) => (WANTED, run, &[][..]),
            Self::Followed(run, replica) => (FOLLOWED, run, replica.as_bytes()),
            Self::Moved(run) => (MOVED, run, &[][..]),
            Self::Shown(run, frame) => (SHOWN, run, &frame[..]),
        };
        let mut bytes = BytesMut::with_capacity(17 + rest.len());
        bytes.put_u8(kind);
        bytes.put_slice(run.as_bytes());
        bytes.put_slice(rest);
        bytes.freeze()
    }

    /// None for what is no signal, or one of a later version.
    fn decode(bytes: &Bytes) -> Option<Self> {
        let kind = *bytes.first()?;
        let run = Uuid::from_slice(bytes.get(1..17)?).ok()?;
        let rest = bytes.slice(17..);
        match kind {
            WANTED if rest.is_empty() => Some(Self::Wanted(run)),
            FOLLOWED => Some(Self::Followed(run, String::from_utf8(rest.into()).ok()?)),
            MOVED if rest.is_empty() => Some(Self::Moved(run)),
            SHOWN => Some(Self::Shown(run, rest)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_comes_as_it_went() {
        let run = Uuid::from_u128(7);
        let frame = Bytes::from_static(b"frame");
        let signals = [
            Signal::Wanted(run),
            Signal::Followed(run, "session-1".into()),
            Signal::Moved(run),
            Signal::Shown(run, frame),
        ];
        for signal in signals {
            assert_eq!(Signal::decode(&signal.encode()), Some(signal));
        }
    }

    #[test]
    fn what_is_none_is_not_heard() {
        let wanted = Signal::Wanted(Uuid::nil()).encode();
        for length in 0..wanted.len() {
            assert_eq!(Signal::decode(&wanted.slice(..length)), None);
        }
        let longer = |kind: u8, rest: &[u8]| Bytes::from([&[kind][..], &[0; 16], rest].concat());
        for garbage in
            [longer(WANTED, b"x"), longer(MOVED, b"x"), longer(FOLLOWED, b"\xff"), longer(9, b""), longer(0, b"")]
        {
            assert_eq!(Signal::decode(&garbage), None, "{garbage:?}");
        }
    }
}
