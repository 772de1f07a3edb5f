#!/usr/bin/env bash
# A release build of session knows no fault, no crash point to die at and no skewed clock: docs/chaos.md says so.
# Usage: check-release.sh [BINARY]; without one it is built.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  echo "check-release: $*"
  exit 1
}

binary=${1:-}
if [ -z "$binary" ]; then
  "${CARGO:-cargo}" build --release --quiet -p mar-session --bin session
  binary=${CARGO_TARGET_DIR:-target}/release/session
fi
[ -x "$binary" ] || die "there is no $binary"

# What a file of so many megabytes does not hold it cannot know. The first word is one that it has to hold, or nothing
# was looked at.
grep -aq 'MAR_SESSION__' "$binary" || grep -aq 'migrate_url' "$binary" || die "$binary is not the service"
for word in MAR_PANIC_AT MAR_CRASH_AT MAR_CRASH_JOURNAL MAR_CLOCK_SKEW_MS sabotage= \
  skip-epoch skip-reserve skip-intent ack-before-commit stale-counter drop-event; do
  ! grep -aqF -- "$word" "$binary" || die "$binary knows $word"
done

code=0
"$binary" --sabotage=skip-epoch --check-config > /dev/null 2>&1 || code=$?
[ "$code" = 64 ] || die "$binary --sabotage=skip-epoch ends with $code, not with 64"
echo "check-release: $binary knows none of the faults of a test build"
