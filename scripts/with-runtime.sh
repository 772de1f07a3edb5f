#!/usr/bin/env bash
# Starts a runtime with a model and documents, runs a command against it, and stops everything again.
#
#   scripts/with-runtime.sh [--model large|small|found|rehearsal] [--docs FOLDER] COMMAND [ARGUMENT…]
#
# --model found (the default) takes the first of: OPENAI_API_KEY; an OpenAI-compatible server on port 11434, 8000 or 8080;
# the local 1.5B model, or the 0.5B one with MODEL=small, which is fetched and checked first. MODEL=rehearsal takes the
# scripted stand-in, which is no model. --docs is the folder to search, by default the project's own documentation. The
# command finds the endpoint in MAR_ENDPOINT, the program in MAR, and what answers in MAR_MODEL. A program that is named in
# MAR is used as it is; without, it is built. Data is in a temporary folder; its log is shown when something goes wrong.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

usage() {
  echo "usage: scripts/with-runtime.sh [--model large|small|found|rehearsal] [--docs FOLDER] COMMAND [ARGUMENT…]" >&2
  exit 64
}

model=found docs=
while [ $# -gt 0 ]; do
  case $1 in
    --model) model=${2:-}; shift 2 || usage ;;
    --docs) docs=${2:-}; shift 2 || usage ;;
    -*) usage ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || usage

say() { echo "$*" >&2; }

work=$(mktemp -d "${TMPDIR:-/tmp}/mar-XXXXXX")
pids=()
stop() {
  local code=$?
  trap '' INT TERM
  for ((at = ${#pids[@]} - 1; at >= 0; at--)); do
    kill -TERM "${pids[$at]}" 2> /dev/null || true
    wait "${pids[$at]}" 2> /dev/null || true
  done
  if [ "$code" != 0 ] && [ -s "$work/up.log" ]; then
    say "--- log of mar up"
    tail -n 20 "$work/up.log" >&2
  fi
  rm -rf "$work"
  exit "$code"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A listener that was free a moment ago.
free_port() {
  local port
  for _ in $(seq 100); do
    port=$((20000 + RANDOM % 20000))
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
  done
  say "no free port"
  exit 69
}

# Whether something on this port lists models.
lists_models() {
  local reply
  reply=$(timeout 2 bash -c "exec 3<> /dev/tcp/127.0.0.1/$1 && printf 'GET /v1/models HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3 && head -c 4096 <&3" 2> /dev/null | tr -d '\0') || true
  [[ $reply == *'"id"'* ]]
}

# --- The program -----------------------------------------------------------------------------------------------------

bin=${MAR:-}
if [ -z "$bin" ]; then
  bin=${CARGO_TARGET_DIR:-$root/target}/debug/mar
  say "building mar (a first build takes 3 to 5 minutes, a later one seconds)"
  # The whole workspace, as `make build` does: a build of mar alone would unify other features and compile much of it anew.
  cargo build --quiet --workspace --bins
fi

# --- The model -------------------------------------------------------------------------------------------------------

size=large
case ${MODEL:-} in
  small) size=small ;;
  rehearsal) [ "$model" != found ] || model=rehearsal ;;
esac
up=()
serve=
case $model in
  large | small) size=$model serve=yes ;;
  rehearsal) up+=(--rehearse) MAR_MODEL="the rehearsal, which is scripted and no model" ;;
  found)
    if [ -n "${OPENAI_API_KEY:-}" ]; then
      MAR_MODEL="OpenAI, by OPENAI_API_KEY"
    else
      serve=yes
      for port in 11434 8000 8080; do
        if lists_models "$port"; then
          up+=(--model-url "http://127.0.0.1:$port/v1")
          MAR_MODEL="the model server on port $port"
          serve=
          break
        fi
      done
    fi
    ;;
  *) usage ;;
esac

if [ -n "$serve" ]; then
  # A key would make its models the better choice, paid for by whoever asked for a local one.
  unset OPENAI_API_KEY
  case $size in
    large) name="Qwen2.5-Coder 1.5B (1.1 GB; MODEL=small takes the 0.5B one)" ;;
    small) name="Qwen2.5-Coder 0.5B (0.5 GB)" ;;
  esac
  say "model: $name, on this machine"
  # Its tools are Python's; they are installed where they are missing.
  python3 -c 'import ensurepip, venv, pip' 2> /dev/null || scripts/install-tools.sh >&2 || true
  scripts/fetch-model.sh "$size" > /dev/null
  port=$(free_port)
  : > "$work/model.out"
  scripts/serve-model.sh "$size" "$port" > "$work/model.out" 2> "$work/model.log" &
  pids+=($!)
  for try in $(seq 1200); do
    grep -q '^listening on' "$work/model.out" && break
    kill -0 "${pids[0]}" 2> /dev/null && [ "$try" -lt 1200 ] || { say "the model server did not start:"; tail -n 5 "$work/model.log" >&2; exit 69; }
    sleep 0.1
  done
  up+=(--model-url "http://127.0.0.1:$port/v1")
  MAR_MODEL=$name
else
  say "model: $MAR_MODEL"
fi

# --- The documents ---------------------------------------------------------------------------------------------------

if [ -z "$docs" ]; then
  docs=$work/docs
  mkdir "$docs"
  find . \( -path ./target -o -path './.*' -o -path '*/node_modules' -o -path ./tests \) -prune -o -name '*.md' -print | while read -r file; do
    # It quotes the questions with what models answered, and would be found instead of what they ask for.
    [ "$file" != ./docs/local-models.md ] || continue
    mkdir -p "$docs/$(dirname "$file")"
    cp "$file" "$docs/$file"
  done
fi

# --- The runtime -----------------------------------------------------------------------------------------------------

"$bin" up --data "$work/data" --docs "$docs" --listen 127.0.0.1:0 "${up[@]}" > "$work/up.out" 2> "$work/up.log" &
pids+=($!)
runtime=$!
for _ in $(seq 200); do
  url=$(sed -n 's/^mar is up on \(http:[^ ]*\).*/\1/p' "$work/up.out")
  [ -n "$url" ] && break
  kill -0 "$runtime" 2> /dev/null || { cat "$work/up.log" >&2; : > "$work/up.log"; exit 69; }
  sleep 0.05
done
[ -n "$url" ] || { say "mar up is not ready after 10 s"; exit 69; }
sed -n '1p' "$work/up.out" >&2

# The command's own Ctrl-C is its own business; whatever it answers is the answer of this script.
code=0
MAR=$bin MAR_ENDPOINT=$url MAR_MODEL=${MAR_MODEL:-} "$@" || code=$?
exit "$code"
