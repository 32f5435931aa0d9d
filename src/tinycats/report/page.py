"""The report: one self-contained HTML page made from a study's files.

It is made without a model or a network from tables, figures, stories, ``run.json``, manifests,
benchmarks and the resolved config. The page opens from disk, contains every story and loads
nothing: its content security policy forbids it. Templates, style and script are in
workflow/report/.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from latex2mathml import converter
from markupsafe import Markup

from tinycats.figures.reading import FITTED, PUBLISHED_LABEL
from tinycats.kinds import POLICY
from tinycats.layout import BASE, BLOG_FACTOR, PROMPTED, TEMPLATES, ModelId
from tinycats.report import gain
from tinycats.report import wording as words
from tinycats.report.reading import SECTIONS, DrawnFigure, Study
from tinycats.report.story_pack import Story, pack_stories, pack_tables
from tinycats.scores.columns import METRICS, REWARD
from tinycats.study import phrase_of


def opening(variants: Sequence[str], factors: Sequence[str], usual: str) -> tuple[str, str]:
    """The question that a study answers, ``usual`` for most, and the figure that answers it."""
    if len(variants) > 1:
        return "Which way of training achieves the most reward for its KL?", "frontier"
    if list(factors) == ["0"]:
        return "What does training without a KL penalty lead to?", "completion_mass"
    return usual, "frontier"


def base_model(config: Mapping[str, Any]) -> str:
    """The base model's name: a Hub id, or the last part of a folder's path."""
    name = str(config.get("base_model", "nano"))
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def unit(study: Study, metric: str) -> str:
    """Unit of a metric, or nothing."""
    found = METRICS[metric].unit if metric in METRICS else ""
    return study.reward.unit if found == REWARD else found


def facts(study: Study) -> dict[str, Any]:
    """The values that the templates of the page and of results.md show."""
    summary = study.tables["tables/summary.csv"]
    variants = study.variants
    everyone = words.ordered_models([*summary, *study.tables["scores/stories.csv"]])
    models = [model for model in everyone if not model.opened]
    factors = sorted({model.kl_factor for model in models if model.is_policy}, key=float)
    positive = [factor for factor in factors if float(factor) > 0]
    factor = BLOG_FACTOR if BLOG_FACTOR in factors else (positive or factors or [""])[0]
    prompted_with = str((study.config.get("evaluation") or {}).get("prompted_with") or "")
    a_concept = phrase_of(study.concept, prompted_with)
    equal = study.tables.get("tables/equal_kl.csv", [])
    shares = gain.share_table(study.tables.get("frontier/policies.csv", []), variants, equal)
    lead = ""
    if factor:
        policy = ModelId(POLICY, variants[0], factor)
        of = "" if study.reward.form == "similarity" else study.reward.name(study.concept)
        lead = gain.lead_sentence(summary, shares, a_concept, policy, variants, of, equal)
    paired = words.comparisons(study.tables.get("tables/paired_differences.csv", []), variants)
    chosen = [ModelId(POLICY, v, factor).label(variants) for v in variants] if factor else []
    beside = [c for c in paired if c.minuend in chosen and c.subtrahend != BASE.phrase]
    figures: dict[str, list[DrawnFigure]] = {section: [] for section in (*SECTIONS, "further")}
    for figure in study.figures:
        figures[figure.section if figure.section in figures else "further"].append(figure)
    usual = (
        f"What does a story model learn from one reward alone: {study.reward.name(study.concept)}?"
    )
    if study.reward.form == "similarity":
        usual = f"Can a reward alone teach a story model to tell only stories about {a_concept}?"
    question, first = opening(variants, factors, usual)
    hero = next((f for f in study.figures if f.name == first), None)
    hero = hero or next(iter(figures["question"]), None)
    for section in figures.values():
        section[:] = [figure for figure in section if figure is not hero]
    return {
        "study": study,
        "concept": study.concept,
        "reward": study.reward,
        "reward_name": study.reward.name(study.concept),
        "base_model": base_model(study.config),
        "a_concept": a_concept,
        "told_by": [
            {"key": model.key, "name": model.label(variants), "opened": model.opened}
            for model in everyone
        ],
        "models": column_heads(models, variants),
        "variants": variants,
        "factors": factors,
        "factor": factor,
        "seeds": sorted({story.seed for story in study.stories}),
        "groups": prompt_groups(study.stories),
        # The alternative text of a figure names the published curves that are drawn in it.
        "published": any(PUBLISHED_LABEL in figure.alt for figure in figures["training"]),
        "fitted": FITTED,
        "question": question,
        "hero": hero,
        "figures": figures,
        "lead": lead,
        "score_table": score_table(study, models),
        "prompt_table": prompt_table(study),
        "shares": shares,
        "rivals": list(dict.fromkeys(name for line in shares for name in line["rivals"])),
        "above": gain.above_one(shares),
        "beside": beside,
        "beside_labels": [
            m for m in map(words.label, METRICS) if any(m in c.cells for c in beside)
        ],
        "prompting": gain.prompting_sentence(equal, variants),
        "comparisons": paired,
        "headline": words.headline_comparison(paired, factor, variants),
        "side_by_side": side_by_side(study.stories, variants[0], factor),
        "prompted_with": prompted_with,
        "parameters": list(flatten(study.config)),
        "run": run_facts(study),
        "different_machines": words.different_machines(study.runs.values()),
    }


def column_heads(models: Sequence[ModelId], variants: Sequence[str]) -> list[dict[str, str]]:
    """The models of a table with a column for each."""
    return [
        {"key": model.key, "name": model.label(variants), "kl_factor": model.kl_factor}
        for model in models
    ]


def score_table(study: Study, models: Sequence[ModelId]) -> list[dict[str, Any]]:
    """tables/summary.csv as rows of cells by heading; unknown metrics come last."""
    rows = {
        (ModelId.from_row(row), row["metric"]): row for row in study.tables["tables/summary.csv"]
    }
    verdicts = {
        (ModelId.from_short(row["minuend"], row["variant"]), row["metric"]): row["verdict"]
        for row in study.tables.get("tables/paired_differences.csv", [])
        if row["subtrahend"] == BASE.short
    }
    present = list(dict.fromkeys(metric for _, metric in rows))
    placed = {metric for metrics in words.ASPECTS.values() for metric in metrics}
    aspects = {**words.ASPECTS, "More": tuple(m for m in present if m not in placed)}
    table = []
    for heading, metrics in aspects.items():
        lines = [
            {
                "metric": metric,
                "label": words.label(metric),
                "unit": unit(study, metric),
                "better": METRICS[metric].direction if metric in METRICS else "none",
                "cells": {
                    model.key: words.cell(
                        rows.get((model, metric)), verdict=verdicts.get((model, metric), "")
                    )
                    for model in models
                },
            }
            for metric in metrics
            if metric in present
        ]
        if lines:
            table.append({"heading": heading, "lines": lines})
    return table


def prompt_table(study: Study) -> dict[str, Any]:
    """Share of stories that mention the concept, by prompt and model; the prompted base is not among them."""
    rows = [
        row
        for row in study.tables.get("tables/by_prompt_group.csv", [])
        if row["metric"] == "mentions_concept" and row["prompt"]
    ]
    models = words.ordered_models(rows)
    found: dict[tuple[str, str], dict[str, words.Cell]] = {}
    for row in rows:
        cells = found.setdefault((row["prompt_group"], row["prompt"]), {})
        cells[ModelId.from_row(row).without_seed.key] = words.cell(row)
    return {
        "models": column_heads(models, study.variants),
        "lines": [
            {"group": group.replace("_", " "), "prompt": prompt, "cells": cells}
            for (group, prompt), cells in found.items()
        ],
    }


def prompt_groups(stories: Iterable[Story]) -> list[str]:
    """The groups of prompts in the stories: the training prompt's, then by name."""
    groups = {story.line["prompt_group"] for story in stories}
    return sorted(groups, key=lambda group: (group != "training", group))


def side_by_side(stories: Sequence[Story], variant: str, factor: str) -> list[tuple[str, Story]]:
    """The first story of the training prompt and the first seed, by four models of the post."""
    group = next(iter(prompt_groups(stories)), "")
    first: dict[str, Story] = {}
    for story in sorted(stories, key=lambda story: (story.seed, story.index)):
        if story.line["prompt_group"] == group:
            first.setdefault(story.model, story)
    policies = [ModelId(POLICY, variant, f) for f in ("0", factor) if f]
    wanted = [model.key for model in (BASE, PROMPTED, *policies)]
    return [(key, first[key]) for key in dict.fromkeys(wanted) if key in first]


def flatten(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as pairs of dotted key and value; a list is one value."""
    for key, value in values.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, name)
        elif isinstance(value, list | tuple):
            yield name, ", ".join("null" if v is None else str(v) for v in value)
        else:
            yield (
                name,
                "null"
                if value is None
                else str(value).lower()
                if isinstance(value, bool)
                else str(value),
            )


def run_facts(study: Study) -> list[tuple[str, str]]:
    """The settings in the policies' run.json, flattened; where policies differ, all values."""
    gathered: dict[str, list[str]] = {}
    for about in study.runs.values():
        for key, value in flatten(about):
            gathered.setdefault(key, []).append(value)
    facts = []
    for key, found in gathered.items():
        distinct = list(dict.fromkeys(found))
        if len(distinct) <= 1:
            facts.append((key, distinct[0]))
        elif len(distinct) <= 6:
            facts.append((key, " · ".join(distinct)))
        else:
            facts.append((key, f"{len(distinct)} values, {distinct[0]} … {distinct[-1]}"))
    return facts


def tex(latex: str, block: bool = False) -> Markup:
    """LaTeX as MathML, which browsers display by themselves; ``block`` for a formula of its own."""
    mathml = converter.convert(latex, display="block" if block else "inline")
    return Markup(mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))


def environment(autoescape: bool = True) -> jinja2.Environment:
    """The templates of workflow/report; with ``autoescape`` all but markup is escaped for HTML."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["human"] = words.human
    env.filters["percent"] = gain.percent
    env.filters["uncertainty"] = gain.uncertainty
    env.filters["tex"] = tex
    env.filters["anchor"] = lambda name: name.replace("/", "-").replace(".", "-")
    return env


def render(study: Study, command: str, playground: bool = False) -> str:
    """The complete page.

    Args:
        study: as read by :func:`tinycats.report.reading.read_study`.
        command: the command that regenerates the study, as shown on the page.
        playground: whether ``playground.html`` will lie beside the page, which then links to it.
    """
    known = facts(study)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    models = [model["key"] for model in known["told_by"]]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **known,
            command=command,
            playground=playground,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=digest,
            # Base64 of deflated bytes: no story can close the element that holds it.
            story_pack=pack_stories(study.stories, models, study.variants, study.concept_words),
            table_pack=pack_tables(study.csv_texts),
            metric_labels={name: metric.label for name, metric in METRICS.items()},
            share_metrics=[name for name in METRICS if words.is_share(name)],
            svg=lambda figure: Markup(figure.svg()),
        )
    )
