#!/usr/bin/env bash
# Serves a small language model on loopback with llama.cpp's OpenAI-compatible HTTP server, in the foreground.
#
#   scripts/serve-model.sh [small|large] PORT
#
# Fetches the model first if it is not there. The process becomes the server: stop it with SIGTERM to its own pid. It says
# "listening on http://127.0.0.1:PORT" on standard output once the model is loaded; the models are named
# qwen2.5-coder-0.5b and qwen2.5-coder-1.5b. MAR_MODEL_CONTEXT sets the context in tokens (8192).
set -euo pipefail

XLLAMACPP=2026.10.11549

usage() {
  echo "usage: scripts/serve-model.sh [small|large] PORT" >&2
  exit 64
}

size=small
case "${1:-}" in
  small | large)
    size=$1
    shift
    ;;
esac
port=${1:-}
[[ $# -eq 1 && $port =~ ^[0-9]{1,5}$ && $port -ge 1 && $port -le 65535 ]] || usage

cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=$(scripts/fetch-model.sh "$size")
venv=.tools/llama
stamp=$venv/.version

if [ "$(cat "$stamp" 2> /dev/null)" != "$XLLAMACPP" ]; then
  python3 -c 'import ensurepip, venv' 2> /dev/null || {
    echo "serve-model: python3 with venv is missing (Debian: python3-venv); scripts/install-tools.sh installs it" >&2
    exit 1
  }
  echo "installing xllamacpp $XLLAMACPP" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "xllamacpp==$XLLAMACPP" >&2
  echo "$XLLAMACPP" > "$stamp"
fi

case $size in
  small) name=qwen2.5-coder-0.5b ;;
  large) name=qwen2.5-coder-1.5b ;;
esac
exec "$venv/bin/python" scripts/serve_model.py "$model" "$name" "$port" "${MAR_MODEL_CONTEXT:-8192}"
