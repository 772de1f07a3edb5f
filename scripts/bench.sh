#!/usr/bin/env bash
# Benchmark A: builds what it needs optimised, then measures transitions beside their floors, and beside engines for durable
# steps, in the same run. A peer that cannot be installed is left out, and the report says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
peers=$PWD/.tools/peers
if scripts/install-peers.sh "$peers"; then
  export MAR_BENCH_PEERS=$peers
fi
cargo build --release --quiet -p mar-session --example transitions
exec "${CARGO_TARGET_DIR:-target}/release/examples/transitions"
