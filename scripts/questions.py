"""Puts questions to a running runtime through `mar run --json` and says what came out.

usage: questions.py [--empty] QUESTIONS.toml

Reads MAR (the program) and MAR_ENDPOINT. With --empty only the first question is put, and the answer is expected to say
that there is no source.

Ends with 0 when every question got a sealed run and the queries were not all the same; with --empty, when the question
got a sealed answer; else with 1. What the answers say is a result, not an error.
"""

import json
import os
import re
import subprocess
import sys
import time
import tomllib

NO_SOURCE = re.compile(r"\bno\b.{0,40}(source|document|passage|information|result|match)|not found|nothing|could not find|couldn't find|cannot find|did not find", re.I | re.S)


def ask(question):
    started = time.monotonic()
    command = [os.environ["MAR"], "run", question, "--tools", "docs.*", "--max-steps", "8", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    try:
        run = json.loads(done.stdout)
    except json.JSONDecodeError:
        sys.exit(f"mar run answered {done.returncode} without JSON: {done.stderr.strip()}")
    if "error" in run:
        sys.exit(f"mar run was refused: {run['error']['message']}")
    return run, time.monotonic() - started


def calls(run):
    return [event for event in run["events"] if event["kind"] == "TOOL_INTENT"]


def query(call):
    arguments = call["arguments"]
    return arguments.get("query", "") if isinstance(arguments, dict) else str(arguments)


def received(run):
    return {passage for event in run["events"] if event["kind"] == "TOOL_RETURNED" for passage in event["passages"]}


def judge(entry, run):
    """Right tool, right passage received, right passage cited, right answer."""
    answer = run["answer"] or {}
    cited = {citation["passage_id"] for citation in answer.get("citations", [])}
    of = lambda passages: any(passage.rsplit("#", 1)[0] in entry["documents"] for passage in passages)
    text = answer.get("text") or ""
    if isinstance(answer.get("json"), dict):
        text += " " + str(answer["json"].get("answer", ""))
    tool = any(call["tool"].endswith("docs.search") for call in calls(run))
    return tool, of(received(run)), of(cited), bool(text) and all(re.search(one, text, re.I) for one in entry["answer"])


def mark(right):
    return "yes" if right else "no"


def cell(text, most=90):
    text = " ".join(str(text).split()).replace("|", "\\|")
    return text if len(text) <= most else text[: most - 1] + "…"


def table(entries):
    print("| question | query | right tool | right passage found | right passage cited | right answer | answer | steps | time |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows, queries, unsealed = [], [], 0
    for entry in entries:
        run, took = ask(entry["question"])
        row = judge(entry, run)
        rows.append(row)
        searched = [query(call) for call in calls(run) if call["tool"].endswith("docs.search")]
        queries.append(searched[0] if searched else "")
        unsealed += run["seal"] is None
        text = (run["answer"] or {}).get("text") or f"{run['state']} {(run['failure'] or {}).get('reason', run['halt_reason'] or '')}"
        cells = [cell(entry["question"]), cell("; ".join(searched), 60), *map(mark, row), cell(text), run["totals"]["steps"], f"{took:.0f} s"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    count = [sum(column) for column in zip(*rows)]
    print(f"| **{len(rows)} questions** | | " + " | ".join(f"**{one}**" for one in count) + " | | | |")
    different = len({one for one in queries if one})
    print(f"\n{different} different queries for {len(rows)} questions.")
    return 0 if unsealed == 0 and different > 1 else 1


def empty(entry):
    run, _ = ask(entry["question"])
    text = (run["answer"] or {}).get("text") or (run["failure"] or {}).get("reason", "")
    says = bool(NO_SOURCE.search(text)) and not (run["answer"] or {}).get("citations")
    print(f"\nOver an empty folder the answer says that there is no source: {mark(says)} (\"{cell(text, 200)}\").")
    if run["answer"] and run["seal"]:
        return 0
    print(f"there is no sealed answer: the run ended as {run['state']}", file=sys.stderr)
    return 1


def main():
    arguments = sys.argv[1:]
    only_empty = "--empty" in arguments
    arguments = [one for one in arguments if one != "--empty"]
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 64
    with open(arguments[0], "rb") as file:
        entries = tomllib.load(file)["question"]
    return empty(entries[0]) if only_empty else table(entries)


if __name__ == "__main__":
    sys.exit(main())
