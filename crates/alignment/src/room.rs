/// Stack that Cedar takes for one level of a rule, measured without optimisation and rounded up generously.
const BYTES_PER_LEVEL: usize = 64 * 1024;

/// Cedar fails an evaluation with less than 100 KiB left; this is that and a margin.
const BYTES_ALWAYS: usize = 256 * 1024;

/// Runs `work` with enough stack for rules of this depth. Cedar recurses over rules, and on a thread of an async
/// runtime little may be left; a new segment is mapped only then.
pub(crate) fn with_room_for<T>(depth: usize, work: impl FnOnce() -> T) -> T {
    let bytes = BYTES_ALWAYS + depth * BYTES_PER_LEVEL;
    stacker::maybe_grow(bytes, bytes, work)
}
