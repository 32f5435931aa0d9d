"""What the report reads: everything below results/<study>/, gathered once, checked on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tinycats.files import tables as files
from tinycats.program import UserError
from tinycats.report.story_pack import Story, read_stories
from tinycats.study import canonical, words_of

INK = "#1a1a1a"  # the one neutral ink of the figures; on the page it follows the theme
SECTIONS = ("question", "training", "scores", "broke", "transfer", "method")
_FIGURE_KEYS = {"finding", "alt", "title", "source", "kl_factor", "order", "section"}
_ACTIVE = re.compile(
    r"<script|<foreignObject|\son\w+\s*=|(?:href|src)\s*=\s*[\"'](?!#|data:image/)", re.I
)


@dataclass(frozen=True)
class Figure:
    """A figure and what its JSON says of it."""

    name: str
    path: Path
    title: str
    finding: str
    alt: str
    sources: tuple[str, ...]  # tables it was drawn from, relative to the study's folder
    kl_factor: str | None  # canonical spelling; None: drawn for all factors together
    order: float
    section: str

    def svg(self) -> str:
        """The SVG as an element of a page: unique ids, theme-following ink, a text alternative."""
        return embeddable(self.path.read_text(encoding="utf-8"), self.name, self.path)


@dataclass(frozen=True)
class Study:
    """A study's files in memory."""

    folder: Path
    name: str
    concept: str
    concept_words: tuple[str, ...]
    config: Mapping[str, Any]
    tables: Mapping[str, list[dict[str, str]]]
    csv_texts: Mapping[str, str]
    figures: tuple[Figure, ...]
    stories: tuple[Story, ...]
    runs: Mapping[str, Mapping[str, Any]]  # policy, e.g. "blog/kl=0/seed=0" → run.json
    manifests: Mapping[str, Mapping[str, Any]]  # model folder's name → manifest.json
    benchmarks: tuple[tuple[str, float, int, float], ...]  # stage, seconds, jobs, peak MiB

    @property
    def variants(self) -> list[str]:
        """Names of the training settings, in the order of the config."""
        return list(self.config.get("variants") or {"blog": {}})


def embeddable(svg: str, name: str, path: Path | str = "figure") -> str:
    """An SVG file as an element that can live on a page with others.

    Its ids (and the references to them) begin with the figure's name, its style rules apply to it
    alone, its neutral ink becomes ``currentColor``; prolog and metadata are dropped.

    Raises:
        UserError: not an SVG, or it holds a script, an event handler or an outside reference.
    """
    match = re.search(r"<svg\b.*</svg>", svg, re.S)
    if not match:
        raise UserError(f"{path}: not an SVG figure; draw it anew")
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", match.group(), flags=re.S)
    if _ACTIVE.search(text):
        raise UserError(f"{path}: a figure may hold no script, handler or outside reference")
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}--\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}--\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}--\1)", text)
    # matplotlib's one style rule is `*{…}`, which would reach the whole page
    text = re.sub(r"(<style[^>]*>)\s*\*", rf"\1#svg-{prefix} *", text)
    text = re.sub(re.escape(INK), "currentColor", text, flags=re.I)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(?:id|role|aria-\w+|width|height)="[^"]*"', "", head)
    return f'{head} id="svg-{prefix}" role="img" aria-labelledby="alt-{prefix}">{rest}'


def read_figures(folder: Path) -> tuple[Figure, ...]:
    """Every figure of the folder: whatever has an SVG and a JSON beside it, in their order."""
    figures = []
    for path in sorted(folder.glob("*.svg")):
        about = read_json(path.with_suffix(".json"))
        if missing := _FIGURE_KEYS - set(about):
            raise UserError(f"{path.with_suffix('.json')}: lacks {', '.join(sorted(missing))}")
        factor = about["kl_factor"]
        source = about["source"]
        figures.append(
            Figure(
                name=path.stem,
                path=path,
                title=about["title"],
                finding=about["finding"],
                alt=about["alt"],
                sources=tuple([source] if isinstance(source, str) else source),
                kl_factor=None if factor in (None, "") else canonical(factor),
                order=float(about["order"]),
                section=about["section"],
            )
        )
    return tuple(sorted(figures, key=lambda figure: (figure.order, figure.name)))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; a missing or damaged file is one clear line."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the stage that writes it has not run") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); make it anew") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: should hold a JSON object")
    return found


def _tables(folder: Path) -> tuple[dict[str, list[dict[str, str]]], dict[str, str]]:
    """Every documented table of the study as rows and as text; some are required."""
    rows, texts = {}, {}
    for name in files.TABLES:
        if "/" not in name:
            continue
        path = folder / name
        if path.exists():
            rows[name] = files.read_table(name, path)
            texts[name] = path.read_text(encoding="utf-8")
    for name in ("tables/summary.csv", "scores/stories.csv"):
        if name not in rows:
            raise UserError(f"{folder / name}: missing; the report is made from it")
    return rows, texts


def stage_of(path: Path, study: str) -> str:
    """The stage a benchmark file is of: what follows ``benchmarks/`` or ``logs/`` in its path."""
    parts = list(path.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] in ("benchmarks", "logs"):
            parts = parts[place + 1 :]
            break
    else:
        parts = parts[-1:]
    if parts[0] == study and len(parts) > 1:
        parts = parts[1:]
    return parts[0].split(".")[0]


def stage_times(paths: Iterable[Path], study: str) -> tuple[tuple[str, float, int, float], ...]:
    """Snakemake's benchmark files (JSON lines; folders are searched) summed by stage."""
    found = [
        file
        for path in paths
        for file in (sorted(path.rglob("*.jsonl")) if path.suffix != ".jsonl" else [path])
    ]
    seconds: dict[str, float] = {}
    jobs: dict[str, int] = {}
    memory: dict[str, float] = {}
    for path in found:
        stage = stage_of(path, study)
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            seconds[stage] = seconds.get(stage, 0.0) + float(row["s"])
            jobs[stage] = jobs.get(stage, 0) + 1
            peak = row.get("max_rss")
            known = isinstance(peak, int | float)
            memory[stage] = max(memory.get(stage, 0.0), float(peak) if known else 0.0)
    return tuple((stage, seconds[stage], jobs[stage], memory[stage]) for stage in seconds)


def read_study(
    folder: Path, models: Path, concept: str | None = None, benchmarks: Sequence[Path] | None = None
) -> Study:
    """Gather a study.

    Args:
        folder: results/<study>.
        models: resources/models, for the manifests of base model and encoder.
        concept: what the stories should be about; default: the config's.
        benchmarks: Snakemake's benchmark files or folders of them; default: ``folder/benchmarks``.

    Raises:
        UserError: a file is missing or damaged; the line names it.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the workflow writes the resolved config there") from None
    concept = concept or config.get("concept")
    if not concept:
        raise UserError(f"{path}: lacks the key concept")
    name = str(config.get("study", folder.name))
    tables, texts = _tables(folder)
    words = config.get("concept_words") or words_of(concept)
    policies = folder / "policies"
    return Study(
        folder=folder,
        name=name,
        concept=concept,
        concept_words=tuple(words),
        config=config,
        tables=tables,
        csv_texts=texts,
        figures=read_figures(folder / "figures"),
        stories=tuple(read_stories(folder / "stories", tables["scores/stories.csv"])),
        runs={
            str(path.parent.relative_to(policies)): read_json(path)
            for path in sorted(policies.rglob("run.json"))
        },
        manifests={
            path.parent.name: read_json(path) for path in sorted(models.glob("*/manifest.json"))
        },
        benchmarks=stage_times(benchmarks or [folder / "benchmarks"], name),
    )
