//! The session's own short chain: started, run admitted, run sealed, ended; what goes of it afterwards.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::SessionLogRow;

/// What the hash of an entry starts with, so that it is never a hash of something else.
const DOMAIN: &[u8] = b"mcp-agent-runtime/session-log/v1\n";

/// Kinds of entries.
pub mod kind {
    /// The session was started; always the first entry.
    pub const STARTED: &str = "started";
    /// A run was admitted; its hash is that of its first event, which binds the genesis hash too.
    pub const RUN_ADMITTED: &str = "run admitted";
    /// A run has ended; its hash is the head of its chain.
    pub const RUN_SEALED: &str = "run sealed";
    /// Nothing had happened in the session for its idle timeout; it ends.
    pub const EXPIRED: &str = "expired";
    /// The session has ended. What its seal binds ends here.
    pub const ENDED: &str = "ended";
    /// The payloads of the ended session are past retention and go.
    pub const PRUNED: &str = "pruned";
    /// Everything that the ended session holds goes, its keys too.
    pub const ERASED: &str = "erased";
}

/// The entry that follows `last` (position and hash), or the first one.
#[must_use]
pub fn next(last: Option<(i64, [u8; 32])>, kind: &str, run: Option<(Uuid, [u8; 32])>) -> SessionLogRow {
    let (seq, prev) = last.map_or((0, [0; 32]), |(seq, hash)| (seq.saturating_add(1), hash));
    let (run, run_hash) = run.unzip();
    SessionLogRow { seq, kind: kind.to_owned(), run, run_hash, hash: hash(&prev, seq, kind, run, run_hash.as_ref()) }
}

/// The hash of an entry: SHA-256 over the domain line, the hash before (32 zero bytes for the first entry), `seq` as 8 bytes
/// big-endian, the length of `kind` as 4 bytes big-endian and its bytes, then run and run hash, each as a byte 1 and
/// its 16 or 32 bytes, or a byte 0 where there is none.
#[must_use]
pub fn hash(prev: &[u8; 32], seq: i64, kind: &str, run: Option<Uuid>, run_hash: Option<&[u8; 32]>) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(DOMAIN);
    digest.update(prev);
    digest.update(seq.to_be_bytes());
    digest.update(u32::try_from(kind.len()).unwrap_or(u32::MAX).to_be_bytes());
    digest.update(kind.as_bytes());
    let run = run.as_ref().map(|run| &run.as_bytes()[..]);
    for part in [run, run_hash.map(|hash| &hash[..])] {
        digest.update([u8::from(part.is_some())]);
        digest.update(part.unwrap_or_default());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_chain_and_every_field_counts() {
        let run = Uuid::from_u128(7);
        let first = next(None, kind::STARTED, None);
        let second = next(Some((first.seq, first.hash)), kind::RUN_ADMITTED, Some((run, [1; 32])));
        assert_eq!((first.seq, second.seq), (0, 1));
        assert_eq!(second.hash, hash(&first.hash, 1, kind::RUN_ADMITTED, Some(run), Some(&[1; 32])));
        let others = [
            hash(&[0; 32], 1, kind::RUN_ADMITTED, Some(run), Some(&[1; 32])),
            hash(&first.hash, 2, kind::RUN_ADMITTED, Some(run), Some(&[1; 32])),
            hash(&first.hash, 1, kind::RUN_SEALED, Some(run), Some(&[1; 32])),
            hash(&first.hash, 1, kind::RUN_ADMITTED, None, Some(&[1; 32])),
            hash(&first.hash, 1, kind::RUN_ADMITTED, Some(run), None),
            hash(&first.hash, 1, kind::RUN_ADMITTED, Some(run), Some(&[2; 32])),
        ];
        assert!(!others.contains(&second.hash));
    }

    #[test]
    fn the_first_entry_is_always_the_same() {
        let mut input = DOMAIN.to_vec();
        input.extend([0; 32 + 8]);
        input.extend([0, 0, 0, 7]);
        input.extend(b"started\0\0");
        assert_eq!(next(None, kind::STARTED, None).hash, <[u8; 32]>::from(Sha256::digest(&input)));
    }
}
