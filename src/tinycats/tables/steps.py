"""Tables over the steps of training, and of the first new token before and after."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from tinycats.completions.columns import COMPLETIONS, FIRST_TOKEN
from tinycats.files.tables import Row, TableError
from tinycats.layout import MODEL_COLUMNS, ModelId
from tinycats.policies.columns import TOP_COMPLETIONS, TRAINING
from tinycats.tables.intervals import Scale, over_seeds
from tinycats.tables.reading import number, read
from tinycats.tables.summaries import model_of

#: columns of training.csv that are measured times: they differ from run to run, the tables do not
TIMING = ("seconds", "samples_per_second")
#: the columns of a table of runs that say which run it is
RUN_COLUMNS = ("variant", "kl_factor", "seed")
#: how many tokens tables/first_token.csv keeps
FIRST_TOKENS = 12


def _of_policies(paths: Iterable[str | Path]) -> list[tuple[ModelId, Path]]:
    found = [(ModelId.from_path(path), Path(path)) for path in paths]
    for teller, path in found:
        if not teller.is_policy:
            raise TableError(f"{path}: the path should hold <variant>/kl=<factor>/seed=<number>")
    return sorted(found, key=lambda item: item[0].order())


def training(paths: Iterable[str | Path]) -> list[Row]:
    """Rows of tables/training.csv from the policies' training.csv: mean and band over seeds."""
    columns = [c for c in TRAINING if c not in ("step", *TIMING)]
    of_step: dict[tuple[ModelId, int], dict[str, list[float]]] = {}
    for teller, path in _of_policies(paths):
        for row in read(path, TRAINING):
            step = int(number(row, "step", path))
            own = of_step.setdefault((teller.without_seed, step), defaultdict(list))
            for column in columns:
                own[column].append(number(row, column, path))
    rows = []
    for (model, step), values in sorted(of_step.items(), key=lambda i: (i[0][0].order(), i[0][1])):
        for metric in columns:
            about_it = {**model.columns(*MODEL_COLUMNS[1:]), "step": step, "metric": metric}
            scale: Scale = "log" if metric.startswith("kl_") else "plain"
            found = over_seeds(values[metric], scale=scale)
            row = found._replace(each=() if found.known else found.each).columns()
            rows.append({**about_it, **row})
    return [row for row in rows if row["seeds"]]


def top_completions(
    paths: Iterable[str | Path], batch_size: int, of_variant: Mapping[str, int] | None = None
) -> list[Row]:
    """Rows of tables/top_completions.csv from the policies' own: counts become shares.

    Args:
        paths: the policies' top_completions.csv.
        batch_size: completions in a batch.
        of_variant: the same of the variants that set their own.

    Raises:
        TableError: a completion was drawn more often than the batch is large.
    """
    rows = []
    for teller, path in _of_policies(paths):
        size = (of_variant or {}).get(teller.variant, batch_size)
        for row in read(path, TOP_COMPLETIONS):
            share = number(row, "count", path) / size
            if not 0 < share <= 1:
                raise TableError(f"{path}: count {row['count']} of a batch of {size}")
            own: Row = {name: row[name] for name in ("step", "prompt", "text")} | {"share": share}
            own["reward"] = number(row, "reward", path)
            rows.append({**teller.columns(*RUN_COLUMNS), **own})
    return rows


def trajectories(
    paths: Iterable[str | Path],
    completions: Iterable[str | Path],
    batch_size: int,
    of_variant: Mapping[str, int] | None = None,
    fewer_prompts: Collection[str] = (),
) -> list[Row]:
    """Rows of tables/trajectories.csv: each run's trajectory through reward and KL, step by step.

    Row k of training.csv is of the batch before update k. Where a policy has completions, drawn
    after the last update, their averages close its way as one more step.

    Args:
        paths: the policies' training.csv.
        completions: tables of completions, of policies and others.
        batch_size: completions in a batch.
        of_variant: the same of the variants that set their own.
        fewer_prompts: variants trained on some of the study's prompts: their batches are of these
            alone, so that only the finished policies, which are measured on all, have a row.
    """
    columns = {
        "reward": "reward_mean",
        "kl_policy_to_base_nats": "kl_policy_to_base_nats",
        "kl_base_to_policy_nats": "kl_base_to_policy_nats",
    }
    after = {ModelId.from_path(path): Path(path) for path in completions}
    rows = []
    for teller, path in _of_policies(paths):
        size = (of_variant or {}).get(teller.variant, batch_size)
        about = teller.columns(*RUN_COLUMNS)
        last = 0
        for row in read(path, TRAINING):
            last = int(number(row, "step", path))
            if teller.variant in fewer_prompts:
                continue
            own = {name: number(row, column, path) for name, column in columns.items()}
            rows.append({**about, "step": last, "completions_drawn": (last - 1) * size, **own})
        if teller in after:
            drawn = read(after[teller], COMPLETIONS)
            counts = [number(row, "count", after[teller]) for row in drawn]
            own = {
                name: math.fsum(
                    count * number(row, name, after[teller])
                    for count, row in zip(counts, drawn, strict=True)
                )
                / math.fsum(counts)
                for name in columns
            }
            rows.append({**about, "step": last + 1, "completions_drawn": last * size, **own})
    return rows


def first_token(path: str | Path) -> list[Row]:
    """Rows of tables/first_token.csv: in each state the tokens that are likeliest under any model.

    Args:
        path: completions/first_token.csv. Tokens of the same text count together; a token that a
            seed's rows leave out counts as 0 there. Of several prompts, the mean; after a first token,
            of the prompts after which the base model's likeliest first token is the same, and of
            such tokens the one of the most prompts.

    Raises:
        TableError: the file is damaged, or a seed's probabilities add up to more than 1.
    """
    rows = read(path, FIRST_TOKEN)
    prompts = Counter(after for _, after in {(row["prompt"], row["after"]): None for row in rows})
    second = max(
        (after for after in prompts if after), key=lambda after: prompts[after], default=""
    )
    return [
        {**row, "after": after}
        for after in dict.fromkeys(["", second])
        for row in _next_token([row for row in rows if row["after"] == after], prompts[after], path)
    ]


def _next_token(rows: list[Row], prompts: int, path: str | Path) -> list[Row]:
    """The same for one state, of so many prompts."""
    of_model: dict[ModelId, dict[str, dict[str, float]]] = {}
    for row in rows:
        model = model_of(row, path).without_seed
        of_seed = of_model.setdefault(model, {}).setdefault(row["token"], defaultdict(float))
        of_seed[row["seed"]] += number(row, "probability", path) / prompts
    mean: dict[ModelId, dict[str, float]] = {}
    for model, tokens in of_model.items():
        seeds = {seed for of_seed in tokens.values() for seed in of_seed}
        for seed in sorted(seeds):
            total = math.fsum(of_seed.get(seed, 0.0) for of_seed in tokens.values())
            if not 0 < total <= 1.001:
                raise TableError(
                    f"{path}: probabilities of {model.stem} seed {seed} add up to {total:.4g}"
                )
        mean[model] = {t: math.fsum(of_seed.values()) / len(seeds) for t, of_seed in tokens.items()}
    largest: dict[str, float] = {}
    for tokens_of_model in mean.values():
        for token, probability in tokens_of_model.items():
            largest[token] = max(largest.get(token, 0.0), probability)
    kept = sorted(largest, key=lambda token: (-largest[token], token))[:FIRST_TOKENS]
    return [
        {**model.columns(*MODEL_COLUMNS), "token": token, "probability": mean[model][token]}
        for model in sorted(mean, key=ModelId.order)
        for token in kept
        if token in mean[model]
    ]
