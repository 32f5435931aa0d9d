"""Reads and checks the files of results/<study>/ that the report shows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tinycats import layout
from tinycats.columns import COLUMNS, STUDY_TABLES
from tinycats.figures.registry import FOLDED, SHEET, figure_names, variant_figures
from tinycats.files.atomic import verify
from tinycats.files.tables import read_table
from tinycats.files.text import read_json, read_text, read_yaml
from tinycats.kinds import OPENED, POLICY
from tinycats.layout import OPTIMAL_PROMPTED, ModelId, canonical
from tinycats.models.folders import MANIFEST, model_folder_name, read_manifest
from tinycats.program import UserError
from tinycats.report.story_pack import Story, read_stories
from tinycats.reward.settings import JudgeSettings, RewardSettings, classifier_folder
from tinycats.study import words_of

INK = "#1a1a1a"  # the one neutral ink of the figures; on the page it follows the theme
SECTIONS = ("question", "training", "scores", "broke", "transfer", "method")
_FIGURE_KEYS = {"finding", "alt", "title", "source", "kl_factor", "order", "section", "variant"}


@dataclass(frozen=True)
class DrawnFigure:
    """A figure with the contents of its JSON."""

    name: str
    path: Path
    title: str
    finding: str
    alt: str
    sources: tuple[str, ...]  # tables it was drawn from, relative to the study's folder
    kl_factor: str | None  # canonical spelling; None: drawn for all factors together
    variant: str | None  # None: drawn for all variants together
    order: float
    section: str

    @property
    def folded(self) -> bool:
        """Whether the page shows it behind a click."""
        return self.path.stem in FOLDED

    def svg(self) -> str:
        """The SVG as an element of a page: unique ids, theme-following ink, a text alternative."""
        return embeddable(read_text(self.path), self.name, self.path)


@dataclass(frozen=True)
class Study:
    """A study's files in memory."""

    folder: Path
    name: str
    concept: str
    concept_words: tuple[str, ...]
    reward: RewardSettings
    config: Mapping[str, Any]
    tables: Mapping[str, list[dict[str, str]]]
    csv_texts: Mapping[str, str]
    figures: tuple[DrawnFigure, ...]
    stories: tuple[Story, ...]
    runs: Mapping[str, Mapping[str, Any]]  # policy, e.g. "blog/kl=0/seed=0" → run.json
    manifests: Mapping[str, Mapping[str, Any]]  # model folder's name → manifest.json
    benchmarks: tuple[tuple[str, float, int, float], ...]  # stage, seconds, jobs, peak MiB

    @property
    def variants(self) -> list[str]:
        """Names of the variants, in the order of the config."""
        return list(self.config.get("variants") or {"blog": {}})


def _check_passive(svg: str, path: Path | str) -> None:
    """Elements and attributes are checked, not text: a story may contain `` one = ``."""
    try:
        tree = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not an SVG figure ({error}); redraw it") from error
    # An HTML parser reads processing instructions and CDATA otherwise than an XML parser.
    active = "<?" in svg or "<!" in svg
    for element in tree.iter():
        active |= element.tag.rsplit("}", 1)[-1].lower() in ("script", "foreignobject")
        for name, value in element.attrib.items():
            local = name.rsplit("}", 1)[-1].lower()
            outside = local in ("href", "src") and not value.startswith(("#", "data:image/"))
            active |= outside or local.startswith("on")
    if active:
        raise UserError(f"{path}: a figure may hold no script, handler or outside reference")


def embeddable(svg: str, name: str, path: Path | str = "figure") -> str:
    """An SVG file as an element that can share a page with other figures.

    Its ids and the references to them are prefixed with the figure's name, its style rules are
    limited to it, and its neutral ink becomes ``currentColor``. Prolog, metadata and description
    are removed.

    Raises:
        UserError: not an SVG, or it holds a script, an event handler or an outside reference.
    """
    match = re.search(r"<svg\b.*</svg>", svg, re.S)
    if not match:
        raise UserError(f"{path}: not an SVG figure; redraw it")
    # The description repeats the alternative text, which the page has beside the figure.
    text = re.sub(
        r"<metadata>.*?</metadata>|<desc>.*?</desc>|<!--.*?-->", "", match.group(), flags=re.S
    ).replace(SHEET, "")
    _check_passive(text, path)
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


def models_of(config: Mapping[str, Any], path: Path) -> list[ModelId]:
    """The models of a study by its config: base, prompted and policies, of each seed.

    Args:
        config: contents of results/<study>/config.yaml.
        path: of that file, for the error.
    """
    try:
        training, variants = config["training"], config["variants"]
        factors = [canonical(factor) for factor in training["kl_factors"]]
        each = [("base", "", ""), ("prompted", "", "")]
        each += [(POLICY, variant, factor) for variant in variants for factor in factors]
        return [ModelId(*model, seed) for model in each for seed in map(int, training["seeds"])]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the config of a study ({error!r})") from error


def opened_beside(models: Sequence[ModelId], folder: Path) -> list[ModelId]:
    """The models beside these whose stories begin with openings, where the study has such stories."""
    beside = [replace(m, kind=kind) for kind in OPENED for m in models if m.is_policy]
    seeds = dict.fromkeys(model.seed for model in models)
    beside += [replace(OPTIMAL_PROMPTED, seed=seed) for seed in seeds]
    return [model for model in beside if (folder / layout.STORIES.of(model)).exists()]


def _verified_json(path: Path) -> dict[str, Any]:
    about = read_json(path)
    verify(path)
    return about


def read_figures(folder: Path, names: Iterable[str]) -> tuple[DrawnFigure, ...]:
    """Those of these figures that are drawn, each an SVG with a JSON, in the report's order.

    A name is ``<figure>``, or ``<variant>/<figure>`` for one of a variant after the first.
    """
    figures = []
    for name, path in ((name, folder / f"{name}.svg") for name in names):
        if not path.exists():
            continue
        verify(path)
        about = _verified_json(path.with_suffix(".json"))
        if missing := _FIGURE_KEYS - set(about):
            raise UserError(f"{path.with_suffix('.json')}: lacks {', '.join(sorted(missing))}")
        try:
            factor = about["kl_factor"]
            factor = None if factor in (None, "") else canonical(factor)
            order = float(about["order"])
        except (ValueError, TypeError) as error:
            raise UserError(f"{path.with_suffix('.json')}: kl_factor or order: {error}") from error
        source = about["source"]
        figures.append(
            DrawnFigure(
                name=name,
                path=path,
                title=about["title"],
                finding=about["finding"],
                alt=about["alt"],
                sources=tuple([source] if isinstance(source, str) else source),
                kl_factor=factor,
                variant=about["variant"],
                order=order,
                section=about["section"],
            )
        )
    return tuple(sorted(figures, key=lambda figure: (figure.order, figure.name)))


def _tables(folder: Path, judges: bool) -> tuple[dict[str, list[dict[str, str]]], dict[str, str]]:
    """The study's tables as rows and as text; those that the report needs must exist."""
    rows, texts = {}, {}
    names = [*STUDY_TABLES, *([layout.JUDGES] if judges else [])]
    for name, columns in ((name, COLUMNS[name]) for name in names):
        path = folder / name
        if path.exists():
            rows[name] = read_table(path, columns)
            texts[name] = path.read_text(encoding="utf-8")
    for name in ("tables/summary.csv", "scores/stories.csv"):
        if name not in rows:
            raise UserError(f"{folder / name}: missing; the report is made from it")
    return rows, texts


def stage_of(path: Path, study: str) -> str:
    """The stage of a benchmark file: what follows ``benchmarks/`` in its path."""
    parts = list(path.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "benchmarks":
            parts = parts[place + 1 :]
            break
    else:
        parts = parts[-1:]
    if parts[0] == study and len(parts) > 1:
        parts = parts[1:]
    return parts[0].split(".")[0]


def is_own(benchmark: Path, models: Collection[ModelId], figures: Collection[str]) -> bool:
    """Whether a benchmark file is not of a model or figure that the study no longer has."""
    if benchmark.parent.name == Path(layout.FIGURE).parent.name:
        return benchmark.stem in figures
    model = ModelId.find(benchmark)
    return model is None or model.seed is None or model in models


def stage_times(
    paths: Iterable[Path], study: str, keep: Callable[[Path], bool] = lambda file: True
) -> tuple[tuple[str, float, int, float], ...]:
    """Snakemake's benchmark files (JSON lines; folders are searched) summed by stage."""
    found = [
        file
        for path in paths
        for file in (sorted(path.rglob("*.jsonl")) if path.suffix != ".jsonl" else [path])
        if keep(file)
    ]
    seconds: dict[str, float] = {}
    jobs: dict[str, int] = {}
    memory: dict[str, float] = {}
    for path in found:
        stage = stage_of(path, study)
        for line in read_text(path).splitlines():
            try:
                row = json.loads(line)
                took = float(row["s"])
                if not 0 <= took < math.inf:
                    raise ValueError(f"s is {took}")
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: not a benchmark of Snakemake's ({error!r})") from error
            seconds[stage] = seconds.get(stage, 0.0) + took
            jobs[stage] = jobs.get(stage, 0) + 1
            peak = row.get("max_rss")
            known = isinstance(peak, int | float)
            memory[stage] = max(memory.get(stage, 0.0), float(peak) if known else 0.0)
    return tuple((stage, seconds[stage], jobs[stage], memory[stage]) for stage in seconds)


def _models(config: Mapping[str, Any], rewards: Sequence[RewardSettings]) -> list[str]:
    """Names of the folders of a study's models that were obtained."""
    names = [model_folder_name(str(config["base_model"]))]
    for reward in rewards:
        if reward.classifier:
            names.append(classifier_folder(reward.classifier))
        elif reward.form == "similarity":
            own = getattr(reward, "encoder", None)  # a judge's
            names.append(model_folder_name(str(own or config["reward_encoder"])))
    return list(dict.fromkeys(names))


def _check_base_model(
    folder: Path, manifest: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]
) -> None:
    """The manifest that the report shows is of the base model that the policies came from."""
    shown = manifest["files"].get("model.safetensors", {}).get("sha256")
    for name, run in runs.items():
        if run.get("base_model_sha256") != shown:
            raise UserError(
                f"{folder / MANIFEST}: sha256 {shown} of model.safetensors found, but the policy {name}"
                f" was trained from {run.get('base_model_sha256')}; run snakemake again"
            )


def read_study(folder: Path, models: Path, concept: str | None = None) -> Study:
    """Read a study.

    Args:
        folder: results/<study>.
        models: resources/models, for the manifests of its models.
        concept: the concept; default: the one in the config.

    Raises:
        UserError: a file is missing or damaged; the line names it.
    """
    path = folder / layout.CONFIG
    config = read_yaml(path)
    concept = concept or config.get("concept")
    if not concept:
        raise UserError(f"{path}: lacks the key concept")
    name = str(config.get("study", folder.name))
    words = config.get("concept_words") or words_of(concept)
    reward = RewardSettings.read(config.get("reward", RewardSettings.SHORT), f"{path}: reward")
    models_used = models_of(config, path)
    factors = list(dict.fromkeys(model.kl_factor for model in models_used if model.is_policy))
    judges = [JudgeSettings.read(judge, f"{path}: judges") for judge in config.get("judges") or ()]
    about_figures = factors, list(config["variants"]), bool(judges)
    figures = figure_names(*about_figures)
    further = variant_figures(*about_figures)
    figures += [f"{variant}/{name}" for variant, names in further.items() for name in names]
    tables, texts = _tables(folder, bool(judges))
    runs = {
        model.stem: _verified_json(folder / layout.RUN.of(model))
        for model in models_used
        if model.is_policy
    }
    names = _models(config, [reward, *judges])
    manifests = {name: read_manifest(models / name) for name in names}
    _check_base_model(models / names[0], manifests[names[0]], runs)
    tellers = [*models_used, *opened_beside(models_used, folder)]
    return Study(
        folder=folder,
        name=name,
        concept=concept,
        concept_words=tuple(words),
        reward=reward,
        config=config,
        tables=tables,
        csv_texts=texts,
        figures=read_figures(folder / "figures", figures),
        stories=tuple(read_stories(folder, tellers, tables["scores/stories.csv"])),
        runs=runs,
        manifests=manifests,
        benchmarks=stage_times(
            [folder / layout.BENCHMARKS],
            name,
            lambda file: is_own(file, models_used, [*figures, *(f"of={v}" for v in further)]),
        ),
    )
