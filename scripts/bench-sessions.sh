#!/usr/bin/env bash
# Builds the four services optimised and measures what sessions cost; arguments name the parts to measure (see
# tests/examples/sessions/main.rs). Benchmark A, which needs no processes, comes first where no part is named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release --quiet --workspace --bins
cargo build --release --quiet -p mar-session -p mar-tests --examples
release=${CARGO_TARGET_DIR:-target}/release
[ $# -gt 0 ] || "$release/examples/transitions"
exec "$release/examples/sessions" "$@"
