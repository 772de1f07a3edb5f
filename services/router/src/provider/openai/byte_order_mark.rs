//! The mark that a stream of text may begin with, and that is no part of it.

use async_stream::try_stream;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};

use crate::provider::Failure;

const MARK: &[u8] = "\u{feff}".as_bytes();

/// The body without the marks at its beginning, however it is cut: the parser of its events takes a character of them for a
/// byte.
pub fn without<S>(body: S) -> impl Stream<Item = Result<Bytes, Failure>> + Send
where
    S: Stream<Item = Result<Bytes, Failure>> + Send,
{
    try_stream! {
        let mut body = std::pin::pin!(body);
        let mut head = BytesMut::new();
        while let Some(piece) = body.next().await {
            head.extend_from_slice(&piece?);
            while head.starts_with(MARK) {
                head.advance(MARK.len());
            }
            if !MARK.starts_with(&head) {
                break;
            }
        }
        if !head.is_empty() {
            yield head.freeze();
        }
        while let Some(piece) = body.next().await {
            yield piece?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(pieces: &[&[u8]]) -> Vec<u8> {
        let body =
            futures::stream::iter(pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>());
        let left: Vec<_> = futures::executor::block_on(without(body).collect());
        left.into_iter().flat_map(|piece| piece.unwrap()).collect()
    }

    #[test]
    fn marks_go_wherever_the_body_is_cut() {
        let marked = "\u{feff}\u{feff}data: \u{feff}x".as_bytes();
        for first in 0..marked.len() {
            for second in first..marked.len() {
                let pieces = [&marked[..first], &marked[first..second], &marked[second..]];
                assert_eq!(left(&pieces), "data: \u{feff}x".as_bytes(), "{first} {second}");
            }
        }
    }

    #[test]
    fn half_a_mark_is_left() {
        for bytes in [&b""[..], b"\xef", b"\xef\xbb", b"\xef\xbbdata", b"data"] {
            assert_eq!(left(&[bytes]), bytes);
            assert_eq!(left(&bytes.chunks(1).collect::<Vec<_>>()), bytes);
        }
    }
}
