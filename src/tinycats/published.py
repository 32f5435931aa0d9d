"""Which published studies are older than the code: python -m tinycats.published > docs/published.md

``snakemake publish`` records in ``docs/<study>-study/code.json`` the digest of the code of each stage
(:mod:`tinycats.source_code`). A stage has changed since where its digest is another today:
Snakemake would run it again. A change of its code does not mean that its numbers change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tinycats.files.atomic import write_text
from tinycats.program import UserError
from tinycats.source_code import PACKAGE, digest

ROOT = PACKAGE.parents[1]
RECORD = "code.json"
#: stage → its programs, and the modules that these import by name
STAGES: dict[str, tuple[str, ...]] = {
    "policies": ("embed_reference", "train_policy"),
    "completions": ("sample_completions",),
    "frontier": ("frontier",),
    "stories": ("tell_stories", "tell_openings"),
    "scores": ("score",),
    "judge": ("judge",),
    "tables": ("make_tables",),
    "figures": ("draw_figure", "tinycats.figures.*"),
    "report": ("render_report",),
}


def digests() -> dict[str, str]:
    """Stage → digest of today's code."""
    return {stage: digest(*_programs(names)) for stage, names in STAGES.items()}


def _programs(names: Sequence[str]) -> list[Path | str]:
    found: list[Path | str] = []
    for name in names:
        if name.endswith(".*"):
            folder = ROOT.joinpath("src", *name.removesuffix(".*").split("."))
            files = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
            found += [f"{name.removesuffix('.*')}.{stem}" for stem in files]
        else:
            found.append(ROOT / "workflow" / "scripts" / f"{name}.py")
    return found


def record(path: Path) -> None:
    """Write today's digests as JSON."""
    write_text(path, json.dumps(digests(), indent=1) + "\n")


def changed(folder: Path) -> list[str]:
    """The stages of a published study whose code is another today; all where there is no record.

    Raises:
        UserError: the record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return list(STAGES)
    try:
        recorded = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a record of a published study ({error})") from None
    return [stage for stage, value in digests().items() if recorded.get(stage) != value]


def studies(docs: Path) -> list[Path]:
    """The folders of the published studies."""
    return sorted(path for path in docs.glob("*-study") if path.is_dir())


def markdown(docs: Path) -> str:
    """docs/published.md."""
    rows = []
    for folder in studies(docs):
        stages = changed(folder)
        known = (folder / RECORD).exists()
        told = ", ".join(stages) or "none"
        rows.append(f"| {folder.name} | {told if known else f'{told} (no record)'} |")
    return "\n".join(
        [
            "# Published studies and today's code",
            "",
            "The stages whose code has changed since a study was published: Snakemake would run them again. The",
            "numbers need not change ([CHANGELOG.md](../CHANGELOG.md) says where they do). A study without a",
            "record was published before the code was recorded. This page is the output of",
            "`python -m tinycats.published`; `tests/test_published.py` fails where a stage has changed and this",
            "page does not say so.",
            "",
            "| study | stages changed since |",
            "|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    print(markdown(ROOT / "docs"), end="")
