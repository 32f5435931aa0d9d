"""From scores to the tables that figures and report read: means and intervals over seeds.

The seed is the unit of every interval: values are averaged within a seed first, and only the
seeds' averages enter the t-interval (scipy). A combination for which no seed has a value (the
distinct completions of a model without completions) has no row, so a ``mean`` is always a number;
``low`` and ``high`` are empty with one seed. How each metric is averaged within a seed, and where
it comes from, is written in ``docs/metrics.md``.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinycats.files import tables as files
from tinycats.files.tables import METRICS, Row, TableError
from tinycats.scores import metrics
from tinycats.scores.scoring import MODELS, Who, who
from tinycats.tables.positions import Positions

#: the group of the training prompt, which tables/summary.csv is about
TRAINING_GROUP = "training"
#: KL_FACTOR / this = reward units per nat: the post averages its KL over GPT-2's vocabulary
POST_VOCABULARY = 50257
CONFIDENCE = 0.95
#: distinct completions are counted per this many draws, whatever the size of the sample
DISTINCT_OF = 1000

#: weighted by tokens, in logarithms: exp(mean −log p) over all tokens of a seed's stories
PERPLEXITIES = ("perplexity_under_base", "base_perplexity_under_policy")
SET_METRICS = ("self_bleu", "vendi_score", "compression_ratio")
STORY_METRICS = tuple(m for m in METRICS if m in files.TABLES["scores/stories.csv"])
KLS = ("kl_policy_to_base_nats", "kl_base_to_policy_nats")

#: (model with ``seed=None``, metric) → seed → the seed's average
Values = dict[tuple[Who, str], dict[int, float]]


# ---------------------------------------------------------------------------- intervals


@functools.cache
def _t_quantile(degrees_of_freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))


def interval(values: Iterable[float]) -> Row:
    """Mean and 95 % t-interval (Student 1908) of one value a seed; undefined values are left out.

    Returns:
        ``mean``, ``low``, ``high``, ``seeds``; low and high are nan with fewer than two values.
    """
    known = [value for value in values if not math.isnan(value)]
    n = len(known)
    if not n:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "seeds": 0}
    mean = math.fsum(known) / n
    if n == 1:
        return {"mean": mean, "low": math.nan, "high": math.nan, "seeds": 1}
    variance = math.fsum((value - mean) ** 2 for value in known) / (n - 1)
    half = _t_quantile(n - 1) * math.sqrt(variance / n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": n}


# ---------------------------------------------------------------------------- reading


def read(name: str, path: str | Path) -> list[dict[str, str]]:
    """Rows of a table, at least one, as text.

    Raises:
        TableError: the file is empty, cut short, not text, or has other columns.
    """
    with open(path, "rb") as file:
        data = file.read()
    if not data.endswith(b"\n"):
        raise TableError(f"{path}: cut short: its last line has no end")
    rows = files.read_table(name, path)
    if not rows:
        raise TableError(f"{path}: has no rows; delete it and rerun")
    return rows


def number(row: Mapping[str, str], column: str, path: str | Path) -> float:
    """A value of a table; nan if it is empty.

    Raises:
        TableError: the value is neither a finite number nor empty.
    """
    text = row[column]
    if text == "":
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise TableError(
            f"{path}: column {column} holds {text!r}, should be a finite number or empty"
        )
    return value


def _teller(row: Mapping[str, str], path: str | Path) -> Who:
    if row["model"] not in MODELS:
        raise TableError(f"{path}: column model holds {row['model']!r}")
    number(row, "kl_factor", path)
    seed = number(row, "seed", path)
    if not seed.is_integer():
        raise TableError(f"{path}: column seed holds {row['seed']!r}, should be a whole number")
    return Who(row["model"], row["variant"], row["kl_factor"], int(seed))


def about(teller: Who) -> Row:
    """The columns that say which model it is: all that open a table of scores but the seed."""
    return {name: value for name, value in teller.columns().items() if name != "seed"}


# ---------------------------------------------------------------------------- one value a seed


def score_values(stories: str | Path, sets: str | Path) -> dict[str, Values]:
    """Prompt group → each model's and metric's average within each seed, from scores/*.csv.

    Raises:
        TableError: a file is damaged.
    """
    rows = read("scores/stories.csv", stories)
    tellers = [_teller(row, stories) for row in rows]
    # the base's stories have lengths of their own, whichever policy's perplexity is measured
    base_tokens = {
        (teller.seed, row["story"]): number(row, "tokens", stories)
        for teller, row in zip(tellers, rows, strict=True)
        if teller.model == "base"
    }
    found: dict[str, dict[tuple[Who, str, int], list[tuple[float, float]]]] = {}
    for teller, row in zip(tellers, rows, strict=True):
        group = found.setdefault(row["prompt_group"], defaultdict(list))
        seed = int(teller.seed or 0)
        model = replace(teller, seed=None)
        for metric in STORY_METRICS:
            value, weight = number(row, metric, stories), 1.0
            if metric == "perplexity_under_base":
                weight = number(row, "tokens", stories)
            elif metric == "base_perplexity_under_policy":
                weight = base_tokens.get((teller.seed, row["story"]), math.nan)
            if not math.isnan(value) and not math.isnan(weight):
                group[model, metric, seed].append((value, weight))
    values: dict[str, Values] = {}
    for name, averages in found.items():
        own = values.setdefault(name, defaultdict(dict))
        for (model, metric, seed), pairs in averages.items():
            logarithms = metric in PERPLEXITIES
            total = math.fsum((math.log(v) if logarithms else v) * w for v, w in pairs)
            mean = total / math.fsum(w for _, w in pairs)
            own[model, metric][seed] = math.exp(mean) if logarithms else mean
    for row in read("scores/sets.csv", sets):
        teller = _teller(row, sets)
        for metric in SET_METRICS:
            own = values.setdefault(row["prompt_group"], defaultdict(dict))
            own[replace(teller, seed=None), metric][int(teller.seed or 0)] = number(
                row, metric, sets
            )
    return values


def deal(counts: np.ndarray, parts: int) -> list[np.ndarray]:
    """Deal a counted sample at random into ``parts`` equal ones (within 1), the same on every run.

    ``counts`` (distinct,) → ``parts`` arrays (distinct,) that add up to it; each part is itself a
    sample from the same distribution (multivariate hypergeometric).
    """
    generator = np.random.default_rng(0)
    left, dealt = counts.copy(), []
    for part in range(parts):
        size = int(left.sum()) // (parts - part)
        own = generator.multivariate_hypergeometric(left, size, method="marginals")
        dealt.append(own)
        left = left - own
    return dealt


def completion_values(paths: Iterable[str | Path], seeds: Mapping[Who, Sequence[int]]) -> Values:
    """Reward, both KLs and distinct completions of 1000 within each seed, from completions/**.csv.

    A file that serves all seeds (``base.csv``) is dealt to them at random, so that the base has
    as many independent values as it has seeds.

    Args:
        seeds: model → its seeds.
    """
    values: Values = defaultdict(dict)
    for path in sorted(map(Path, paths), key=lambda p: who(p).order):
        teller = who(path)
        model = replace(teller, seed=None)
        rows = read("completions.csv", path)
        counts = np.array([number(row, "count", path) for row in rows])
        if not (counts >= 1).all() or (counts % 1).any():
            raise TableError(f"{path}: column count should hold whole numbers of at least 1")
        columns = {
            metric: np.array([number(row, column, path) for row in rows])
            for metric, column in (("completion_similarity", "reward"), *zip(KLS, KLS, strict=True))
        }
        own_seeds = [teller.seed] if teller.seed is not None else list(seeds.get(model, ()))
        parts = deal(counts.astype(np.int64), len(own_seeds)) if len(own_seeds) > 1 else [counts]
        for seed, part in zip(own_seeds, parts, strict=False):
            drawn = part[part > 0]
            for metric, column in columns.items():
                mean = math.fsum((column * part).tolist()) / float(part.sum())
                values[model, metric][seed] = mean
            distinct = metrics.expected_distinct([int(c) for c in drawn], DISTINCT_OF)
            values[model, "distinct_completions"][seed] = distinct
    return values


def merge(first: Values, second: Values) -> Values:
    """Values of both; where both have a seed's value, that of ``second``."""
    return {key: {**first.get(key, {}), **second.get(key, {})} for key in {**first, **second}}


def seeds_of(values: Values) -> dict[Who, list[int]]:
    """Model → every seed for which it has some value."""
    seeds: dict[Who, set[int]] = defaultdict(set)
    for (model, _), of_seed in values.items():
        seeds[model].update(of_seed)
    return {model: sorted(own) for model, own in seeds.items()}


# ---------------------------------------------------------------------------- tables of scores


def _ordered(values: Values) -> list[tuple[Who, str]]:
    place = {metric: i for i, metric in enumerate(METRICS)}
    return sorted(values, key=lambda key: (key[0].order, place[key[1]]))


def _known(row: Row) -> bool:
    return bool(row["seeds"])


def summary(values: Values) -> list[Row]:
    """Rows of tables/summary.csv."""
    rows = []
    for model, metric in _ordered(values):
        factor = model.kl_factor
        coefficient = float(factor) / POST_VOCABULARY if factor else ""
        row = {**about(model), "kl_coefficient_per_nat": coefficient, "metric": metric}
        rows.append({**row, **interval(values[model, metric].values())})
    return list(filter(_known, rows))


def by_prompt_group(values: Mapping[str, Values]) -> list[Row]:
    """Rows of tables/by_prompt_group.csv, groups in the order of the config."""
    models = sorted({m for group in values.values() for m, _ in group}, key=lambda m: m.order)
    rows = []
    for model in models:
        for group, own in values.items():
            for teller, metric in _ordered(own):
                if teller == model:
                    row = {**about(model), "prompt_group": group, "metric": metric}
                    rows.append({**row, **interval(own[model, metric].values())})
    return list(filter(_known, rows))


def verdict(metric: str, row: Row) -> str:
    """``better`` or ``worse`` (``higher``, ``lower``) if the interval excludes 0, else ``undecided``."""
    if not (row["low"] > 0 or row["high"] < 0):  # nan, with one seed, is neither
        return "undecided"
    direction = METRICS[metric][2]
    if direction == "none":
        return "higher" if row["low"] > 0 else "lower"
    return "better" if (row["low"] > 0) == (direction == "up") else "worse"


def paired_differences(values: Values) -> list[Row]:
    """Rows of tables/paired_differences.csv: differences of the same seed, then their interval.

    Each KL factor of a variant against the variant's KL 0, the base and the prompted base.
    """
    models = sorted({model for model, _ in values}, key=lambda m: m.order)
    rows = []
    for policy in (m for m in models if m.model == "policy"):
        rivals = [
            m
            for m in models
            if m.model == "policy" and m.variant == policy.variant and float(m.kl_factor) == 0
        ] + [m for m in models if m.model != "policy"]
        for rival in rivals:
            if rival == policy:
                continue
            for metric in METRICS:
                ours, theirs = values.get((policy, metric), {}), values.get((rival, metric), {})
                row = interval(ours[seed] - theirs[seed] for seed in sorted({*ours} & {*theirs}))
                rows.append(
                    {
                        "comparison": f"{_name(policy)} − {_name(rival)}",
                        "minuend": policy.kl_factor,
                        "subtrahend": rival.kl_factor or rival.model,
                        "variant": policy.variant,
                        "metric": metric,
                        **row,
                        "verdict": verdict(metric, row),
                    }
                )
    return list(filter(_known, rows))


def _name(model: Who) -> str:
    return f"KL {model.kl_factor}" if model.kl_factor else model.model


def by_position(positions: Positions) -> list[Row]:
    """Rows of tables/by_position.csv, from the first tokens to the last."""
    rows = []
    for model, group in sorted(positions.rows, key=lambda key: key[0].order):
        for (begin, end, metric), of_seed in positions.rows[model, group].items():
            row = {**about(model), "prompt_group": group}
            row |= {"position_from": begin, "position_to": end, "metric": metric}
            rows.append({**row, **interval(of_seed.values())})
    return list(filter(_known, rows))
