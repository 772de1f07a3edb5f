#!/usr/bin/env bash
# Installs the engines that benchmark A is measured beside, into the directory named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../tests/peers"
target=$1
mkdir -p "$target"
[ -x "$target/python/bin/python" ] || python3 -m venv "$target/python"
"$target/python/bin/pip" install --quiet --disable-pip-version-check --requirement requirements.txt
cp package.json package-lock.json "$target/"
npm ci --prefix "$target" --silent --no-audit --no-fund
