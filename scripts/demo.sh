#!/usr/bin/env bash
# Asks a real model a question about this project, and shows how it came to its answer.
#
#   scripts/demo.sh ["QUESTION"]
#
# Takes the first model that it finds (see scripts/with-runtime.sh; MODEL=small takes the smallest local one), serves the
# project's own documentation as the tools docs.search and docs.list, and ends by itself, leaving nothing running.
# On a fresh machine: 3 to 5 minutes to build, 1.1 GB to fetch once, then about 20 s for the answer on two cores.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
question=${1:-}
[ -n "$question" ] || question="Which status code does the rehearsal server answer when no rule matches?"

# shellcheck disable=SC2016 # expanded by the inner shell
exec scripts/with-runtime.sh bash -c '
  echo >&2
  echo "question: $1" >&2
  echo >&2
  # Nothing but the search and the list of documents, few steps, no money beyond 10 cents.
  exec "$MAR" run "$1" --tools "docs.*" --max-steps 8 --max-cost 0.10
' demo "$question"
