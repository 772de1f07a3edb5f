#!/usr/bin/env bash
# Starts the four services as four processes on loopback, with deploy/local/runtime.toml, and stops them on Ctrl-C.
#
#   deploy/local/up.sh [--release] [--no-build]
#
# Postgres and Redis are taken from MAR_POSTGRES_URL and MAR_REDIS_URL; for what is not set, an own one is started by
# deploy/local/stores.sh and stopped at the end. Keys, data and logs are in .local/ (MAR_LOCAL_DIR overrides).
# MAR_CONFIG names another configuration. --no-build takes the programs as they were built last.
# Then: mar run "…" --endpoint 127.0.0.1:7441; which models answer is said at the start.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

profile=debug flags=() build=yes
for argument in "$@"; do
  case $argument in
    --release) profile=release flags=(--release) ;;
    --no-build) build= ;;
    *)
      echo "usage: deploy/local/up.sh [--release] [--no-build]" >&2
      exit 64
      ;;
  esac
done

config=${MAR_CONFIG:-deploy/local/runtime.toml}
local=${MAR_LOCAL_DIR:-.local}
bin=${CARGO_TARGET_DIR:-target}/$profile
mkdir -p "$local"

say() { echo "$*" >&2; }

pids=() names=()
all_alive() {
  local pid
  for pid in "${pids[@]}"; do kill -0 "$pid" 2> /dev/null || return 1; done
}
stop() {
  trap '' INT TERM
  # Callers first, so that nobody loses whom it calls.
  for at in "${!pids[@]}"; do kill -TERM "${pids[$at]}" 2> /dev/null || true; done
  for at in "${!pids[@]}"; do wait "${pids[$at]}" 2> /dev/null || true; done
  if [ -n "${stores:-}" ]; then
    for _ in $(seq 20); do
      kill -TERM "$stores" 2> /dev/null || break
      sleep 0.5
    done
    wait "$stores" 2> /dev/null || true
  fi
}
trap stop EXIT
trap 'exit 0' INT TERM

if [ -n "$build" ]; then
  say "building (a clean build takes about 3 minutes)"
  cargo build --quiet "${flags[@]}" --workspace --bins
fi

"$bin/mar" keys new "$local/keys" > /dev/null

if [ -z "${MAR_POSTGRES_URL:-}" ] || [ -z "${MAR_REDIS_URL:-}" ]; then
  # What an earlier start left behind names servers that are gone.
  rm -f "$local/stores/urls"
  # In a session of its own, so that Ctrl-C does not take the stores from under the services.
  setsid deploy/local/stores.sh "$local/stores" &
  stores=$!
  for _ in $(seq 300); do
    [ -f "$local/stores/urls" ] && break
    kill -0 "$stores" 2> /dev/null || { say "the stores did not start"; exit 69; }
    sleep 0.1
  done
  [ -f "$local/stores/urls" ] || { say "the stores do not answer after 30 s"; exit 69; }
  given_postgres=${MAR_POSTGRES_URL:-} given_redis=${MAR_REDIS_URL:-}
  # shellcheck disable=SC1091
  . "$local/stores/urls"
  MAR_POSTGRES_URL=${given_postgres:-$MAR_POSTGRES_URL} MAR_REDIS_URL=${given_redis:-$MAR_REDIS_URL}
fi

export MAR_SESSION__STORE__URL=$MAR_POSTGRES_URL MAR_AGENT_GENERATOR__STORE__URL=$MAR_POSTGRES_URL
export MAR_SESSION__COUNTERS__URL=$MAR_REDIS_URL
if [ "$local" != .local ]; then
  export MAR_SESSION__SIGNING_KEY__FILE=$local/keys/session.pem
  export MAR_AGENT_GENERATOR__SIGNING_KEY__FILE=$local/keys/generator.pem
  export MAR_SESSION__DESCRIPTOR_KEY_FILES="[\"$local/keys/generator.pub.pem\"]"
  export MAR_ROUTER__DESCRIPTOR_KEY_FILES="[\"$local/keys/generator.pub.pem\"]"
  export MAR_TOOL_GATEWAY__DESCRIPTOR_KEY_FILES="[\"$local/keys/generator.pub.pem\"]"
  export MAR_RUNTIME__RUN_TOKENS__VERIFICATION_KEY_FILES="[\"$local/keys/session.pub.pem\"]"
fi

# Everything is checked before anything starts.
for service in session agent-generator router tool-gateway; do
  "$bin/$service" --config "$config" --check-config
done

# In the order in which they stop.
for service in session agent-generator router tool-gateway; do
  "$bin/$service" --config "$config" 2> "$local/$service.log" > /dev/null &
  pids+=($!) names+=("$service")
done

address() { # service, table
  "$bin/$1" --config "$config" --dump-config | awk -v table="[$2]" '/^\[/ { found = $0 == table } found && /^listen = / { gsub(/"/, "", $3); print $3 }'
}
serves() { (exec 3<> "/dev/tcp/${1%:*}/${1##*:}") 2> /dev/null; }

for at in "${!names[@]}"; do
  name=${names[$at]}
  where=$(address "$name" "${name//-/_}")
  for try in $(seq 100); do
    serves "$where" && break
    kill -0 "${pids[$at]}" 2> /dev/null || { say "$name ended:"; tail -n 5 "$local/$name.log" >&2; exit 69; }
    [ "$try" -lt 100 ] || { say "$name does not answer at $where; see $local/$name.log"; exit 69; }
    sleep 0.1
  done
  say "$(printf '%-16s %s' "$name" "$where")"
  [ "$name" != session ] || session=$where
  [ "$name" != router ] || router=$where
done

# What can be tried depends on which models answer here and now.
models=$("$bin/mar" models list --endpoint "$router" < /dev/null) || models=
try="$bin/mar run \"What is a halting policy?\" --tools 'docs.*' --endpoint $session"
say ""
if grep -qE ' (yes|has a key) *$' <<< "$models"; then
  say "Try:  $try"
elif grep -qE '^rehearsal .* when named' <<< "$models"; then
  say "No model answers here, but a rehearsal plays one."
  say "Try:  $try --model rehearsal"
else
  say "No model answers yet, so that a task would fail. One of these helps:"
  say "  OPENAI_API_KEY=…                    set before this script starts"
  say "  scripts/serve-model.sh large 8080   in another terminal: a model on this machine, 1.1 GB the first time"
  say "  $(printf '%-35s' "$bin/mar rehearse") in another terminal: a script plays the model; add --model rehearsal below"
  say "Then: $try"
fi
say "Which answer now:  $bin/mar models list --endpoint $router"
say "Ctrl-C stops all four. Logs are in $local/."
while all_alive; do
  sleep 1 &
  wait $! || true
done
say "a service has ended; see the logs in $local/"
exit 69
