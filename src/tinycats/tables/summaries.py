"""From scores to the tables that figures and report read: means and intervals over seeds.

The seed is the unit of every interval: values are averaged within a seed first, and only the
seeds' averages enter the interval (:mod:`tinycats.tables.intervals`). A combination for which no
seed has a value (the distinct completions of a model without completions) has no row, so a ``mean``
is always a number; ``low`` and ``high`` are empty with fewer than four seeds. How each metric is
averaged within a seed, and where it comes from, is written in ``docs/metrics.md``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tinycats.completions.columns import COMPLETIONS
from tinycats.files.tables import Row, TableError
from tinycats.layout import BASE, MODEL_COLUMNS, PROMPTED, ModelId
from tinycats.program import UserError
from tinycats.scores import metrics
from tinycats.scores.columns import METRICS, PROPORTIONS, SETS, STORIES, scale
from tinycats.tables.intervals import Interval, Scale, over_seeds, p_value, with_verdicts
from tinycats.tables.positions import Positions
from tinycats.tables.reading import number, read

#: the group of the training prompt, which tables/summary.csv is about
TRAINING_GROUP = "training"
#: KL_FACTOR / this = reward units per nat: the post averages its KL over GPT-2's vocabulary
POST_VOCABULARY = 50257
#: distinct completions are counted per this many draws, whatever the size of the sample
DISTINCT_OF = 1000

#: weighted by tokens, in logarithms: exp(mean −log p) over all tokens of a seed's stories
PERPLEXITIES = ("perplexity_under_base", "base_perplexity_under_policy")
SET_METRICS = ("self_bleu", "vendi_score", "compression_ratio")
STORY_METRICS = tuple(m for m in METRICS if m in STORIES)
KLS = ("kl_policy_to_base_nats", "kl_base_to_policy_nats")
#: beside the metrics: how many stories a seed's averages are over
NUMBER = "stories"

#: (model with ``seed=None``, metric) → seed → the seed's average
Values = dict[tuple[ModelId, str], dict[int, float]]


def teller_of(row: Mapping[str, str], path: str | Path) -> ModelId:
    """The model of a row of scores, with its seed."""
    number(row, "kl_factor", path)
    seed = number(row, "seed", path)
    if not seed.is_integer():
        raise TableError(f"{path}: column seed holds {row['seed']!r}, should be a whole number")
    return model_of(row, path)


def model_of(row: Mapping[str, str], path: str | Path) -> ModelId:
    """The model of a table's row.

    Raises:
        TableError: the row names none; the line names the file.
    """
    try:
        return ModelId.from_row(row)
    except UserError as error:
        raise TableError(f"{path}: {error}") from None


# ---------------------------------------------------------------------------- one value a seed


def base_lengths(
    rows: Iterable[tuple[ModelId, Mapping[str, str]]], path: str | Path
) -> dict[tuple[int | None, str], float]:
    """(seed, story) → tokens of the base's story, which weigh a policy's perplexity on it."""
    return {
        (teller.seed, row["story"]): number(row, "tokens", path)
        for teller, row in rows
        if teller.kind == BASE.kind
    }


def story_values(
    rows: Iterable[tuple[ModelId, Mapping[str, str]]],
    lengths: Mapping[tuple[int | None, str], float],
    path: str | Path,
) -> Values:
    """Each model's and metric's average within each seed over rows of scores/stories.csv.

    Args:
        rows: model, with its seed, and row.
        lengths: see :func:`base_lengths`.
        path: of the table, for errors.
    """
    found: dict[tuple[ModelId, str, int], list[tuple[float, float]]] = defaultdict(list)
    values: Values = defaultdict(dict)
    for teller, row in rows:
        number_of = values[teller.without_seed, NUMBER]
        number_of[int(teller.seed or 0)] = number_of.get(int(teller.seed or 0), 0) + 1
        for metric in STORY_METRICS:
            value, weight = number(row, metric, path), 1.0
            if metric == "perplexity_under_base":
                weight = number(row, "tokens", path)
            elif metric == "base_perplexity_under_policy":
                weight = lengths.get((teller.seed, row["story"]), math.nan)
            if not math.isnan(value) and not math.isnan(weight):
                found[teller.without_seed, metric, int(teller.seed or 0)].append((value, weight))
    for (model, metric, seed), pairs in found.items():
        logarithms = metric in PERPLEXITIES
        total = math.fsum((math.log(v) if logarithms else v) * w for v, w in pairs)
        mean = total / math.fsum(w for _, w in pairs)
        values[model, metric][seed] = math.exp(mean) if logarithms else mean
    return values


def score_values(stories: str | Path, sets: str | Path) -> dict[str, Values]:
    """Prompt group → each model's and metric's average within each seed, from scores/*.csv.

    Raises:
        TableError: a file is damaged.
    """
    rows = read(stories, STORIES)
    tellers = [teller_of(row, stories) for row in rows]
    by_group: dict[str, list[tuple[ModelId, Mapping[str, str]]]] = {}
    for teller, row in zip(tellers, rows, strict=True):
        by_group.setdefault(row["prompt_group"], []).append((teller, row))
    lengths = base_lengths(zip(tellers, rows, strict=True), stories)
    values = {group: story_values(own, lengths, stories) for group, own in by_group.items()}
    for row in read(sets, SETS):
        teller = teller_of(row, sets)
        for metric in SET_METRICS:
            own = values.setdefault(row["prompt_group"], defaultdict(dict))
            own[teller.without_seed, metric][int(teller.seed or 0)] = number(row, metric, sets)
    return values


def prompt_values(stories: str | Path) -> dict[tuple[str, str], Values]:
    """(Prompt group, prompt) → each model's and metric's average within each seed.

    Without the prompted base, whose every story mentions what it was made to say, and without stories
    that begin with openings.

    Args:
        stories: scores/stories.csv.
    """
    rows = [(teller_of(row, stories), row) for row in read(stories, STORIES)]
    lengths = base_lengths(rows, stories)
    by_prompt: dict[tuple[str, str], list[tuple[ModelId, Mapping[str, str]]]] = {}
    for teller, row in rows:
        if teller.is_policy or teller.without_seed == BASE:
            by_prompt.setdefault((row["prompt_group"], row["prompt"]), []).append((teller, row))
    return {prompt: story_values(own, lengths, stories) for prompt, own in by_prompt.items()}


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


def completion_values(
    paths: Iterable[str | Path], seeds: Mapping[ModelId, Sequence[int]]
) -> Values:
    """Reward, both KLs and distinct completions of 1000 within each seed, from completions/**.csv.

    A file that serves all seeds (``base.csv``) is dealt to them at random, so that the base has
    as many independent values as it has seeds.

    Args:
        seeds: model → its seeds.
    """
    values: Values = defaultdict(dict)
    for path in sorted(map(Path, paths), key=lambda p: ModelId.from_path(p).order()):
        teller = ModelId.from_path(path)
        model = teller.without_seed
        rows = read(path, COMPLETIONS)
        counts = np.array([number(row, "count", path) for row in rows])
        if not (counts >= 1).all() or (counts % 1).any():
            raise TableError(f"{path}: column count should hold whole numbers of at least 1")
        columns = {
            metric: np.array([number(row, column, path) for row in rows])
            for metric, column in (("completion_reward", "reward"), *zip(KLS, KLS, strict=True))
        }
        own_seeds = [teller.seed] if teller.seed is not None else list(seeds.get(model, ()))
        parts = [counts]
        if len(own_seeds) > 1:  # of each prompt as many to each
            of = np.array([row["prompt"] for row in rows])
            whole = counts.astype(np.int64)
            each = [deal(whole * (of == prompt), len(own_seeds)) for prompt in np.unique(of)]
            parts = list(np.sum(each, axis=0))
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


def seeds_of(values: Values) -> dict[ModelId, list[int]]:
    """Model → every seed for which it has some value."""
    seeds: dict[ModelId, set[int]] = defaultdict(set)
    for (model, _), of_seed in values.items():
        seeds[model].update(of_seed)
    return {model: sorted(own) for model, own in seeds.items()}


# ---------------------------------------------------------------------------- tables of scores


def _ordered(values: Values) -> list[tuple[ModelId, str]]:
    place = {metric: i for i, metric in enumerate(METRICS)}
    known = (key for key in values if key[1] in place)
    return sorted(known, key=lambda key: (key[0].order(), place[key[1]]))


def _interval(values: Values, model: ModelId, metric: str) -> Interval:
    of_seed = values[model, metric].values()
    stories = sum(values.get((model, NUMBER), {}).values())
    return over_seeds(of_seed, scale=scale(metric), stories=stories)


def _known(row: Row) -> bool:
    return bool(row["seeds"])


def summary(values: Values) -> list[Row]:
    """Rows of tables/summary.csv."""
    rows = []
    for model, metric in _ordered(values):
        factor = model.kl_factor
        coefficient = float(factor) / POST_VOCABULARY if factor else ""
        row = {
            **model.columns(*MODEL_COLUMNS),
            "kl_coefficient_per_nat": coefficient,
            "metric": metric,
        }
        rows.append({**row, **_interval(values, model, metric).columns()})
    return list(filter(_known, rows))


def by_prompt_group(
    values: Mapping[str, Values], single: Mapping[tuple[str, str], Values]
) -> list[Row]:
    """Rows of tables/by_prompt_group.csv: groups, then single prompts, in the order of the stories.

    Args:
        values: of each group.
        single: of each prompt, see :func:`prompt_values`.
    """
    models = sorted({m for group in values.values() for m, _ in group}, key=ModelId.order)
    places = {**{(group, ""): own for group, own in values.items()}, **single}
    rows = []
    for model in models:
        for (group, prompt), own in places.items():
            for teller, metric in _ordered(own):
                if teller == model:
                    where = {"prompt_group": group, "prompt": prompt, "metric": metric}
                    row = {**model.columns(*MODEL_COLUMNS), **where}
                    rows.append({**row, **_interval(own, model, metric).columns()})
    return list(filter(_known, rows))


def _rivals(policy: ModelId, models: Sequence[ModelId]) -> list[ModelId]:
    """What a policy is compared with: KL 0 of its variant, earlier variants, the base, prompted."""
    policies = [m for m in models if m.is_policy and m != policy]
    free = [m for m in policies if m.variant == policy.variant and float(m.kl_factor) == 0]
    earlier = [
        m for m in policies if m.kl_factor == policy.kl_factor and m.order() < policy.order()
    ]
    return [*free, *earlier, *(m for m in models if m in (BASE, PROMPTED))]


def _chance(values: Values, models: Iterable[ModelId], metric: str, seeds: Sequence[int]) -> float:
    """Standard error that two models' shares of stories give to their mean difference by chance.

    Shares of a few stories may differ by the same in every seed, by luck. Each share has a success and
    a failure added, so that shares of 0 and 1 have an error too (Agresti and Caffo 2000).
    """
    if metric not in PROPORTIONS:
        return 0.0
    squares = 0.0
    for model in models:
        for seed in seeds:
            number_of = values.get((model, NUMBER), {}).get(seed, math.inf)
            if number_of < math.inf:
                share = (values[model, metric][seed] * number_of + 1) / (number_of + 2)
                squares += share * (1 - share) / (number_of + 2)
    return math.sqrt(squares) / max(len(seeds), 1)


def paired_differences(values: Values) -> list[Row]:
    """Rows of tables/paired_differences.csv: differences of the same seed, then their interval.

    Each KL factor of a variant against the variant's KL 0, the other variants at this KL factor, the
    base and the prompted base.
    """
    models = sorted({model for model, _ in values}, key=ModelId.order)
    variants = list(dict.fromkeys(m.variant for m in models if m.is_policy))
    rows = []
    for policy in (m for m in models if m.is_policy):
        for rival in _rivals(policy, models):
            named = variants if rival.is_policy and rival.variant != policy.variant else ()
            for metric in METRICS:
                ours, theirs = values.get((policy, metric), {}), values.get((rival, metric), {})
                seeds = sorted({*ours} & {*theirs})
                each = [ours[seed] - theirs[seed] for seed in seeds]
                least = _chance(values, (policy, rival), metric, seeds)
                rows.append(
                    {
                        "comparison": f"{policy.label(named)} − {rival.label(named)}",
                        "minuend": policy.short,
                        "subtrahend": rival.short,
                        "variant": policy.variant,
                        "subtrahend_variant": rival.variant,
                        "metric": metric,
                        **over_seeds(each, least=least, check=False).columns(),
                        "p_value": p_value(each, least=least),
                    }
                )
    return with_verdicts(list(filter(_known, rows)), lambda row: METRICS[row["metric"]].direction)


def by_position(positions: Positions) -> list[Row]:
    """Rows of tables/by_position.csv, from the first tokens to the last."""
    rows = []
    for model, group in sorted(positions.rows, key=lambda key: key[0].order()):
        for (begin, end, metric), of_seed in positions.rows[model, group].items():
            row = {**model.columns(*MODEL_COLUMNS), "prompt_group": group}
            row |= {"position_from": begin, "position_to": end, "metric": metric}
            own_scale: Scale = "plain" if metric.startswith("log_ratio") else "log"
            rows.append({**row, **over_seeds(of_seed.values(), scale=own_scale).columns()})
    return list(filter(_known, rows))
