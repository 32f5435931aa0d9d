"""The lines that each step of the ladder changes, for ladder/README.md.

python tests/ladder_changes.py
"""

from __future__ import annotations

import difflib
from itertools import pairwise
from pathlib import Path

LADDER = Path(__file__).parents[1] / "ladder"
README = LADDER / "README.md"
BEGIN, END = (
    "<!-- changes: written by python tests/ladder_changes.py -->",
    "<!-- end of changes -->",
)


def changes() -> str:
    """A folded diff for each step, with one line around each change and without the docstring."""
    files = sorted(LADDER.glob("[0-9]_*.py"))
    parts = []
    for before, after in pairwise(files):
        old, new = (
            f.read_text(encoding="utf-8").split('"""', 2)[2].splitlines() for f in (before, after)
        )
        title = after.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]
        lines = list(difflib.unified_diff(old, new, n=1, lineterm=""))[2:]
        diff = "\n".join("@@" if line.startswith("@@") else line.rstrip() for line in lines)
        added = sum(line.startswith("+") for line in lines)
        removed = sum(line.startswith("-") for line in lines)
        parts.append(
            f"<details><summary>{title} ({added} lines added, {removed} removed)</summary>\n\n"
            f"```diff\n{diff}\n```\n\n</details>"
        )
    return "\n\n".join(parts)


def page(text: str) -> str:
    """The README with the changes as the files have them."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{changes()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(page(README.read_text(encoding="utf-8")), encoding="utf-8")
