//! Whether bytes that come in chunks are UTF-8.

/// Looks at bytes as they come; a character may lie across chunks.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character, at most three bytes.
    open: Vec<u8>,
}

impl Utf8 {
    /// Whether all so far may be UTF-8.
    pub fn feed(&mut self, chunk: &[u8]) -> bool {
        let mut rest = chunk;
        while !self.open.is_empty() {
            let Some((&next, left)) = rest.split_first() else { return true };
            self.open.push(next);
            rest = left;
            match std::str::from_utf8(&self.open) {
                Ok(_) => self.open.clear(),
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                self.open = rest[error.valid_up_to()..].to_vec();
                true
            }
        }
    }

    /// Whether no character is left open.
    pub fn ended(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_may_lie_across_chunks() {
        let words = "naïve – 漢字 🦀".as_bytes();
        for size in 1..=words.len() {
            let mut text = Utf8::default();
            assert!(words.chunks(size).all(|chunk| text.feed(chunk)), "{size}");
            assert!(text.ended(), "{size}");
        }
    }

    #[test]
    fn what_is_no_text_is_found() {
        for bytes in [&b"\xff"[..], b"ok\xc3\x28", b"\xed\xa0\x80", b"\x80"] {
            for size in 1..=bytes.len() {
                let mut text = Utf8::default();
                assert!(!bytes.chunks(size).all(|chunk| text.feed(chunk)), "{bytes:?} {size}");
            }
        }
        let mut cut = Utf8::default();
        assert!(cut.feed("é".as_bytes().split_at(1).0) && !cut.ended());
    }
}
