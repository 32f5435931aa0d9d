"""The figures: one module each, drawn from tables alone (no model, no torch).

A figure is one module with ``draw(tables) -> Drawing`` and one line in :data:`FIGURES`. Importing
this package imports neither matplotlib nor the modules, so that the workflow can ask for names and
inputs cheaply.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinycats.program import UserError

if TYPE_CHECKING:
    from tinycats.figures.reading import Tables
    from tinycats.figures.style import Drawing

#: A sweep may have many KL factors; so many get a figure of their own.
MOST_FACTOR_FIGURES = 12

#: Sections of the report, in its order.
SECTIONS = ("question", "training", "scores", "broke", "transfer", "method")


@dataclass(frozen=True)
class Figure:
    """Where a figure comes from and where it belongs.

    Attributes:
        module: module of this package that draws it.
        inputs: paths below results/<study>/; ``{variant}``, ``{seed}`` and ``{shown}`` (each of
            :func:`showcase`) are filled in by :func:`figure_inputs`.
        section: one of :data:`SECTIONS`.
        order: place in the report; lower comes first.
        needs: ``kl_factor`` (one figure for each), ``variants`` (only with more than one) or
            nothing.
    """

    module: str
    inputs: tuple[str, ...]
    section: str
    order: int
    needs: str = ""


_SUMMARY = "tables/summary.csv"
_TRAINING = "tables/training.csv"

FIGURES: dict[str, Figure] = {
    "frontier": Figure(
        "frontier",
        (
            "tables/trajectories.csv",
            "frontier/limit.csv",
            "frontier/best_of_n.csv",
            "frontier/policies.csv",
            "frontier/prompted.csv",
        ),
        "question",
        10,
    ),
    "training_metrics": Figure("training_metrics", (_TRAINING,), "training", 100, "kl_factor"),
    "training_all": Figure("training_all", (_TRAINING,), "training", 200),
    "scores_by_kl": Figure("scores_by_kl", (_SUMMARY,), "scores", 300),
    "stories": Figure(
        "stories",
        (
            "stories/base/seed={seed}.jsonl",
            "stories/prompted/seed={seed}.jsonl",
            "stories/{variant}/kl={shown}/seed={seed}.jsonl",
        ),
        "scores",
        310,
    ),
    "what_broke": Figure("what_broke", (_SUMMARY,), "broke", 400),
    "judge_vs_reward": Figure("judge_vs_reward", ("scores/stories.csv",), "broke", 410),
    "completion_mass": Figure("completion_mass", ("tables/top_completions.csv",), "broke", 420),
    "told_not_to": Figure("told_not_to", ("tables/by_prompt_group.csv",), "transfer", 500),
    "by_position": Figure("by_position", ("tables/by_position.csv",), "transfer", 510),
    "first_token": Figure("first_token", ("tables/first_token.csv",), "transfer", 520),
    "variants": Figure("variants", (_TRAINING, "frontier/policies.csv"), "method", 600, "variants"),
}


def sort_factors(kl_factors: Sequence[str]) -> list[str]:
    """Distinct KL factors in ascending order, in the spelling given.

    Raises:
        UserError: one is no number.
    """
    try:
        return sorted(dict.fromkeys(kl_factors), key=float)
    except ValueError as error:
        raise UserError(
            f"KL factors {', '.join(kl_factors)}: should be numbers ({error})"
        ) from None


def showcase(kl_factors: Sequence[str]) -> list[str]:
    """The KL factors told apart in words and stories: the smallest and the post's 6000.

    Without 6000 in the study, the middle one takes its place.
    """
    factors = sort_factors(kl_factors)
    if not factors:
        return []
    other = "6000" if "6000" in factors else factors[len(factors) // 2]
    return list(dict.fromkeys([factors[0], other]))


def figure_names(kl_factors: Sequence[str], variants: Sequence[str]) -> list[str]:
    """Names of the figures that a study has, in the report's order."""
    names: list[str] = []
    for name, figure in sorted(FIGURES.items(), key=lambda item: item[1].order):
        if figure.needs == "kl_factor":
            shown = sort_factors(kl_factors)[:MOST_FACTOR_FIGURES]
            names += [f"{name}_{factor}" for factor in shown]
        elif figure.needs != "variants" or len(variants) > 1:
            names.append(name)
    return names


def find(name: str) -> tuple[Figure, str | None]:
    """The registry entry of a figure's name, and the KL factor that it is about.

    Raises:
        UserError: there is no such figure.
    """
    if name in FIGURES and FIGURES[name].needs != "kl_factor":
        return FIGURES[name], None
    stem, _, factor = name.rpartition("_")
    if stem in FIGURES and FIGURES[stem].needs == "kl_factor":
        try:
            float(factor)
        except ValueError:
            pass
        else:
            return FIGURES[stem], factor
    known = [n + ("_<factor>" if f.needs == "kl_factor" else "") for n, f in FIGURES.items()]
    raise UserError(f"there is no figure {name!r}; there are {', '.join(known)}")


def figure_inputs(name: str, kl_factors: Sequence[str], variant: str, seed: str) -> list[str]:
    """The files that a figure reads, as paths below results/<study>/."""
    figure, _ = find(name)
    paths = []
    for path in figure.inputs:
        for shown in showcase(kl_factors) if "{shown}" in path else [""]:
            paths.append(path.format(variant=variant, seed=seed, shown=shown))
    return paths


def draw(name: str, tables: Tables) -> Drawing:
    """Draw one figure."""
    figure, _ = find(name)
    module = importlib.import_module(f"tinycats.figures.{figure.module}")
    drawing: Drawing = module.draw(tables)
    return drawing
