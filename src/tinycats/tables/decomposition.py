"""How much of what training changed had to change: docs/damage.md.

For each score S and each policy at KL K, with π*_K the optimal policy at the same KL:

    necessary      S(π*_K, then the base) − S(base)
    off_frontier   S(the policy's opening, then the base) − S(π*_K, then the base)
    spillover      S(the policy) − S(its opening, then the base)
    whole          S(the policy) − S(base), which is their sum

All are over the same number of stories, at the same random numbers, seed by seed. Best of n and the
prompted base write openings alone, so they have no spillover by construction.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tinycats.files.tables import Row, TableError
from tinycats.frontier.columns import OPENINGS
from tinycats.layout import BASE, MODEL_COLUMNS, OPTIMAL_PROMPTED, PROMPTED, ModelId
from tinycats.scores.columns import METRICS, OPENING_SETS, STORIES
from tinycats.scores.openings import Compared
from tinycats.tables.intervals import over_seeds
from tinycats.tables.reading import number, read
from tinycats.tables.summaries import (
    SET_METRICS,
    Values,
    base_lengths,
    model_of,
    story_values,
    teller_of,
)

PARTS = ("necessary", "off_frontier", "spillover", "whole")


def compared_values(stories: str | Path, sets: str | Path) -> Values:
    """Each model's and metric's value within each seed, over the stories that are compared.

    Args:
        stories: scores/stories.csv.
        sets: scores/opening_sets.csv.
    """
    rows = [(teller_of(row, stories), row) for row in read(stories, STORIES)]
    compared = Compared((who, row["prompt"]) for who, row in rows if who.opened)
    taken = [(who, row) for who, row in rows if compared.takes(who, row["prompt"])]
    values: Values = defaultdict(dict, story_values(taken, base_lengths(rows, stories), stories))
    for row in read(sets, OPENING_SETS):
        who = teller_of(row, sets)
        for metric in SET_METRICS:
            values[who.without_seed, metric][int(who.seed or 0)] = number(row, metric, sets)
    return values


def _chains(values: Values) -> Iterator[tuple[ModelId, ModelId, list[ModelId]]]:
    """Of whom, at whose KL, and the four models whose successive differences are the parts."""
    models = sorted({who for who, _ in values}, key=ModelId.order)
    if OPTIMAL_PROMPTED in models:
        yield PROMPTED, OPTIMAL_PROMPTED, [BASE, OPTIMAL_PROMPTED, PROMPTED, PROMPTED]
    for kind in ("policy", "best_of_n"):
        for who in (m for m in models if m.kind == kind):
            optimal = replace(who, kind="optimal")
            opening = replace(who, kind="opening_only") if kind == "policy" else who
            yield who, optimal, [BASE, optimal, opening, who]


def decomposition(values: Values, kls: dict[ModelId, list[float]]) -> list[Row]:
    """Rows of tables/decomposition.csv.

    Args:
        values: of :func:`compared_values`.
        kls: optimal policy → KL of the model that it stands beside, of each seed, nats.

    Raises:
        TableError: the parts do not add up to the whole.
    """
    rows = []
    for who, optimal, chain in _chains(values):
        kl = kls[optimal]
        for metric in METRICS:
            found = [values.get((model, metric), {}) for model in chain]
            seeds = sorted(set.intersection(*map(set, found)))
            known = [s for s in seeds if not any(math.isnan(own[s]) for own in found)]
            parts = {
                name: [after[s] - before[s] for s in known]
                for name, (before, after) in zip(
                    PARTS,
                    [*itertools.pairwise(found), (found[0], found[-1])],
                    strict=True,
                )
            }
            for *three, whole in zip(*parts.values(), strict=True):
                if not math.isclose(math.fsum(three), whole, rel_tol=1e-9, abs_tol=1e-9):
                    raise TableError(f"{who.stem}, {metric}: parts {three} do not sum to {whole}")
            for name, differences in parts.items():
                about = {**who.columns(*MODEL_COLUMNS), "kl_policy_to_base_nats": sum(kl) / len(kl)}
                interval = over_seeds(differences, check=False)
                if interval.seeds:
                    row = {**about, "metric": metric, "part": name, **interval.columns()}
                    rows.append(row)
    return rows


def table(stories: str | Path, sets: str | Path, openings: str | Path) -> list[Row]:
    """Rows of tables/decomposition.csv from scores/*.csv and frontier/openings.csv."""
    kls: dict[ModelId, list[float]] = defaultdict(list)
    rows: Sequence[dict[str, str]] = read(openings, OPENINGS)
    for row in rows:
        who = model_of(row, openings).without_seed
        kls[who].append(number(row, "wanted_kl_nats", openings))
    return decomposition(compared_values(stories, sets), kls)
