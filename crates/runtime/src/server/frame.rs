//! Watches the length-prefixed messages of a gRPC body go by.

/// A message is larger than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Reads the five-byte prefix of every message of a body, in whatever pieces it arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameMeter {
    limit: usize,
    prefix: [u8; 5],
    read: usize,
    payload: usize,
}

impl FrameMeter {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, prefix: [0; 5], read: 0, payload: 0 }
    }

    /// The limit, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Looks at the next piece.
    pub(crate) fn feed(&mut self, mut piece: &[u8]) -> Result<(), TooLarge> {
        while !piece.is_empty() {
            let skip = self.payload.min(piece.len());
            self.payload -= skip;
            piece = &piece[skip..];
            let take = (self.prefix.len() - self.read).min(piece.len());
            let (head, rest) = piece.split_at(take);
            self.prefix[self.read..self.read + take].copy_from_slice(head);
            self.read += take;
            piece = rest;
            if self.read == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.payload = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.read = 0;
                if self.payload > self.limit {
                    return Err(TooLarge);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.extend(vec![7; length]);
        bytes
    }

    #[test]
    fn the_pieces_do_not_matter() {
        let good = [message(10), message(0), message(3)].concat();
        let bad = [good.clone(), message(11)].concat();
        for piece in 1..=bad.len() {
            let mut meter = FrameMeter::new(10);
            assert!(good.chunks(piece).all(|piece| meter.feed(piece).is_ok()), "{piece}");
            let mut meter = FrameMeter::new(10);
            assert!(bad.chunks(piece).any(|piece| meter.feed(piece).is_err()), "{piece}");
        }
    }
}
