#!/usr/bin/env bash
# What clippy does not see: the proto files, the one TLS provider, and the licences and sources of dependencies.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/.tools/bin:$PATH

say() { echo "lint: $*"; }

if command -v buf > /dev/null; then
  (cd proto && buf lint)
  say "proto is clean"
else
  say "buf is missing; scripts/install-tools.sh installs it"
  exit 1
fi

# A second crypto provider in the process would have to be chosen between at run time.
if found=$(cargo tree --workspace --locked --invert aws-lc-sys 2> /dev/null) && [ -n "$found" ]; then
  say "aws-lc-sys is in the tree, ring is the one provider:"
  echo "$found"
  exit 1
fi
say "one TLS provider"

if cargo deny --version > /dev/null 2>&1; then
  cargo deny --offline check licenses bans sources
else
  say "cargo-deny is not installed; licences, bans and sources were not checked"
fi
