#!/usr/bin/env bash
# Starts a Postgres and a Redis of its own on free loopback ports, in the foreground, for trials.
#
#   deploy/local/stores.sh DIR
#
# Both keep their data in DIR; an existing cluster there is used again. (As root, Postgres runs as the user postgres; where
# that user may not enter DIR, its cluster is in /tmp and is removed at the end.) Once both answer, DIR/urls holds
# MAR_POSTGRES_URL=… and MAR_REDIS_URL=…. They stop when this script gets SIGTERM or SIGINT. Needs the Debian packages
# postgresql and redis-server; scripts/install-tools.sh installs them.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: deploy/local/stores.sh DIR" >&2; exit 64; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
rm -f "$dir/urls"

say() { echo "stores: $*" >&2; }

newest() { # program
  command -v "$1" 2> /dev/null && return
  local found
  found=$(compgen -G "/usr/lib/postgresql/*/bin/$1" | sort -V | tail -n 1) && [ -n "$found" ] && echo "$found"
}
initdb=$(newest initdb) && postgres=$(newest postgres) || { say "Postgres is not installed (Debian: postgresql)"; exit 69; }
command -v redis-server > /dev/null || { say "Redis is not installed (Debian: redis-server)"; exit 69; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Postgres refuses to run as root.
as=()
if [ "$(id -u)" = 0 ]; then
  as=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi

pids=()
all_alive() {
  local pid
  for pid in "${pids[@]}"; do kill -0 "$pid" 2> /dev/null || return 1; done
}
stop() {
  trap '' INT TERM
  rm -f "$dir/urls"
  for pid in "${pids[@]}"; do kill -INT "$pid" 2> /dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
  if [ -n "${passing:-}" ]; then rm -rf "$passing"; fi
}
trap stop EXIT
trap 'exit 0' INT TERM

data=$dir/postgres
if [ ${#as[@]} -gt 0 ] && ! "${as[@]}" test -x "$dir"; then
  # The user postgres may not enter the folder: the cluster lives in one of its own, until the end.
  passing=$(mktemp -d /tmp/mar-postgres-XXXXXX)
  chmod 711 "$passing"
  data=$passing/data
fi
if [ ! -f "$data/PG_VERSION" ]; then
  mkdir -p "$data"
  [ ${#as[@]} -eq 0 ] || chown postgres "$data"
  "${as[@]}" "$initdb" --pgdata "$data" --username postgres --auth trust --encoding UTF8 --locale C > "$dir/initdb.log"
fi
pg_port=$(free_port)
(cd / && exec "${as[@]}" "$postgres" -D "$data" -h 127.0.0.1 -p "$pg_port" -k '') > "$dir/postgres.log" 2>&1 &
pids+=($!)
redis_port=$(free_port)
mkdir -p "$dir/redis"
redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$dir/redis" --save '' --appendonly no > "$dir/redis.log" 2>&1 &
pids+=($!)

for _ in $(seq 200); do
  for pid in "${pids[@]}"; do kill -0 "$pid" 2> /dev/null || { say "a server has ended; see the logs in $dir"; exit 69; }; done
  if grep -q 'ready to accept connections' "$dir/postgres.log" && grep -q 'Ready to accept connections' "$dir/redis.log"; then
    printf 'MAR_POSTGRES_URL=postgres://postgres@127.0.0.1:%s/postgres\nMAR_REDIS_URL=redis://127.0.0.1:%s\n' "$pg_port" "$redis_port" > "$dir/urls.new"
    mv "$dir/urls.new" "$dir/urls"
    say "Postgres on port $pg_port, Redis on port $redis_port"
    # Waiting for a short sleep, rather than for the servers, lets a signal through at once.
    while all_alive; do
      sleep 1 &
      wait $! || true
    done
    say "a server has ended; see the logs in $dir"
    exit 69
  fi
  sleep 0.1
done
say "they do not answer; see the logs in $dir"
exit 69
