#!/usr/bin/env bash
# What clippy does not see: the proto files, the one TLS provider, and the licences and sources of dependencies.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/.tools/bin:$PATH

say() { echo "lint: $*"; }
die() {
  say "$*"
  exit 1
}

command -v buf > /dev/null || die "buf is missing; scripts/install-tools.sh installs it"
(cd proto && buf lint)
say "proto is clean"

# A second crypto provider in the process would have to be chosen between at run time. The whole list is asked for, since
# asking for one crate fails alike when it is absent and when the question cannot be answered.
tree=$(cargo tree --workspace --locked --prefix none --format '{p}') || die "cargo tree failed"
grep -q '^ring ' <<< "$tree" || die "ring is not in the tree: is this the whole of it?"
if grep -q '^aws-lc-sys ' <<< "$tree"; then
  cargo tree --workspace --locked --invert aws-lc-sys
  die "aws-lc-sys is in the tree, ring is the one provider"
fi
say "one TLS provider"

# Only what this platform builds is at hand without the network; what others add is checked where they build it.
cargo deny --version > /dev/null 2>&1 || die "cargo-deny is missing; scripts/install-tools.sh installs it"
host=$(rustc -vV | sed -n 's/^host: //p')
[ -n "$host" ] || die "rustc does not say its host"
cargo fetch --locked --quiet --target "$host"
cargo deny --offline --locked --target "$host" check licenses bans sources
