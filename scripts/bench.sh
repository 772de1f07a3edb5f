#!/usr/bin/env bash
# Benchmark A: builds what it needs optimised, then measures transitions beside their floors in the same run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release --quiet -p mar-session --example transitions
exec "${CARGO_TARGET_DIR:-target}/release/examples/transitions"
