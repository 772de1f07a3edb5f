"""Checks that links between the project's Markdown pages lead somewhere. Needs no network: links elsewhere are left out."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {"target", "node_modules", ".git", ".tools", ".models", ".local"}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def pages():
    for page in sorted(ROOT.rglob("*.md")):
        if not SKIPPED.intersection(page.relative_to(ROOT).parts):
            yield page


def anchors(page):
    found = set()
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            title = line.lstrip("#").strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


def broken(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield target
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            yield target


def main():
    count = 0
    for page in pages():
        for target in broken(page):
            print(f"{page.relative_to(ROOT)}: {target} leads nowhere")
            count += 1
    print(f"docs-check: {'all links lead somewhere' if count == 0 else f'{count} broken links'}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
