#!/usr/bin/env bash
# Puts the questions of docs/examples/questions.toml to a model and prints a Markdown table of what came out.
#
#   scripts/questions.sh [--model large|small|found|rehearsal] [QUESTION_FILE]
#
# Every question is a run of its own, with the tools docs.search and docs.list over the project's documentation. Two checks
# follow the table: that two different questions gave two different queries, and that over an empty folder the answer
# says that it found no source. A model that answers wrongly is a result, not an error: the exit code is 0 when every
# question got a sealed run, there were different queries and the one over the empty folder got a sealed answer, whatever it says, and 1 otherwise. About
# 8 minutes with the 1.5B model on two cores, 4 with the 0.5B one.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=found file=docs/examples/questions.toml
while [ $# -gt 0 ]; do
  case $1 in
    --model) model=${2:?}; shift 2 ;;
    -*)
      echo "usage: scripts/questions.sh [--model large|small|found|rehearsal] [QUESTION_FILE]" >&2
      exit 64
      ;;
    *) file=$1; shift ;;
  esac
done

scripts/with-runtime.sh --model "$model" python3 scripts/questions.py "$file"
empty=$(mktemp -d)
trap 'rmdir "$empty"' EXIT
scripts/with-runtime.sh --model "$model" --docs "$empty" python3 scripts/questions.py --empty "$file"
