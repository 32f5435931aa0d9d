"""The files between stages: what every table holds, in one place, checked when written.

A stage reads and writes files only through this module, so a column that is missing, misspelt or
not finite stops the job that made it and not a reader three stages later. ``docs/files.md`` is
generated from :data:`TABLES` by ``python -m tinycats.files.tables``.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tinycats.files import atomic as whole_files
from tinycats.files.atomic import write_text
from tinycats.program import UserError

Row = dict[str, Any]

_KL = {
    "kl_policy_to_base_nats": "KL(policy‖base), exact sum over the vocabulary at each"
    " state visited, summed over the completion, nats",
    "kl_base_to_policy_nats": "KL(base‖policy), likewise, nats",
}
_WHO = {
    "model": "`base`, `prompted` (the base made to begin with the concept) or `policy`",
    "variant": "name of the training settings (`blog` unless the study names others); empty for base and prompted",
    "kl_factor": "the post's KL_FACTOR; empty for base and prompted",
    "seed": "seed of the run (the base is sampled anew for each seed)",
}
_INTERVAL = {
    "mean": "mean over seeds",
    "low": "lower end of the 95 % t-interval over seeds (empty with one seed)",
    "high": "upper end",
    "seeds": "number of seeds",
}

#: effective samples from which on an estimate of the limit is trusted; below, a lower bound
ENOUGH_SAMPLES = 200

#: metric name → (label for people, unit, which direction is better: "up", "down" or "none")
METRICS: dict[str, tuple[str, str, str]] = {
    "completion_similarity": ("reward (prompt + completion)", "cosine", "up"),
    "story_similarity": ("similarity of the whole story", "cosine", "up"),
    "mentions_concept": ("stories that mention the concept", "share", "up"),
    "mentions_per_100_words": ("mentions per 100 words", "count", "none"),
    "perplexity_under_base": ("perplexity of its stories under the base", "", "down"),
    "base_perplexity_under_policy": ("perplexity of the base's stories under it", "", "down"),
    "line_breaks": ("line breaks per story", "count", "none"),
    "ended": ("stories that end by themselves", "share", "up"),
    "distinct_2": ("distinct bigrams within a story", "share", "up"),
    "repeated_4_grams": ("repeated 4-grams within a story", "share", "down"),
    "words": ("words per story", "count", "none"),
    "kl_policy_to_base_nats": ("KL(policy‖base) per completion", "nats", "down"),
    "kl_base_to_policy_nats": ("KL(base‖policy) per completion", "nats", "down"),
    "self_bleu": ("self-BLEU across stories", "", "down"),
    "vendi_score": ("Vendi score (word n-gram kernel)", "effective stories", "up"),
    "compression_ratio": ("compression ratio of all stories", "", "down"),
    "distinct_completions": ("distinct completions of 1000", "count", "up"),
}

#: table → column → meaning. Paths are below results/<study>/.
TABLES: dict[str, dict[str, str]] = {
    "training.csv": {
        "step": "1-based; row k describes the batch drawn before update k, so row 1 is the base",
        "loss": "the loss that was differentiated",
        "reward_mean": "mean reward of the batch",
        "reward_std": "standard deviation of the reward over the batch",
        **_KL,
        "kl_post_unit": "the post's KL: KL(base‖policy) nats / (50257 · NUM_TOKENS)",
        "entropy_nats": "entropy of the policy at the states visited, summed over the completion, nats",
        "distinct_completions": "distinct completions in the batch",
        "top_1_mass": "share of the batch that is its most frequent completion",
        "top_10_mass": "share of the batch that is among its ten most frequent completions",
        "gradient_norm": "Euclidean norm of the gradient",
        "gradient_snr": "gradient signal-to-noise ratio from the two halves of the batch (docs/methods.md); empty where not measured",
        "seconds": "wall seconds of the step",
        "samples_per_second": "batch size / seconds",
    },
    "top_completions.csv": {
        "step": "as in training.csv",
        "text": "completion, without the prompt",
        "count": "how often it occurs in the batch",
        "reward": "its reward",
    },
    "completions.csv": {
        "token_ids": "new token ids separated by blanks (an end token included)",
        "text": "completion, without the prompt",
        "count": "how often it was drawn",
        "reward": "cosine(concept, prompt + completion)",
        "log_prob_policy": "log probability under the model it was drawn from, nats",
        "log_prob_base": "log probability under the base model, nats",
        **_KL,
    },
    "completions/first_token.csv": {
        **_WHO,
        "token": "text of the first new token",
        "probability": "its exact probability after the training prompt (1e-4 and more)",
    },
    "scores/stories.csv": {
        **_WHO,
        "prompt_group": "group of the prompt in the config",
        "prompt": "the prompt",
        "story": "index of the story in its stories file",
        "completion_similarity": "cosine(concept, prompt + first new tokens), as trained",
        "story_similarity": "cosine(concept, generated text)",
        "mentions_concept": "1 if the generated text has a word of the concept's list, else 0",
        "mentions_per_100_words": "words of the list per 100 words of generated text",
        "perplexity_under_base": "exp(mean −log p) per generated token under the base, end token counted",
        "base_perplexity_under_policy": "the same of the base's story of this index under the policy",
        "line_breaks": "line breaks in the generated text",
        "ended": "1 if the story ended by itself, else 0",
        "distinct_2": "distinct word bigrams / word bigrams",
        "repeated_4_grams": "1 − distinct word 4-grams / word 4-grams",
        "words": "words in the generated text",
        "tokens": "generated tokens, end token counted",
    },
    "scores/sets.csv": {
        **_WHO,
        "prompt_group": "group of the prompts whose stories form the set",
        "stories": "number of stories in the set",
        "self_bleu": "mean BLEU-4 of a story against the others (subsample named in docs/metrics.md)",
        "vendi_score": "exponential entropy of the spectrum of a word n-gram kernel",
        "compression_ratio": "bytes / gzipped bytes of all stories of the set",
    },
    "tables/summary.csv": {
        "model": _WHO["model"],
        "variant": _WHO["variant"],
        "kl_factor": _WHO["kl_factor"],
        "kl_coefficient_per_nat": "kl_factor / 50257, reward units per nat; empty for base and prompted",
        "metric": "name as in docs/metrics.md; stories of the training prompt's group",
        **_INTERVAL,
    },
    "tables/by_prompt_group.csv": {
        "model": _WHO["model"],
        "variant": _WHO["variant"],
        "kl_factor": _WHO["kl_factor"],
        "prompt_group": "group of the prompts",
        "metric": "name as in docs/metrics.md",
        **_INTERVAL,
    },
    "tables/by_position.csv": {
        "model": _WHO["model"],
        "variant": _WHO["variant"],
        "kl_factor": _WHO["kl_factor"],
        "prompt_group": "group of the prompts",
        "position_from": "first new token of the bin, counted from 0",
        "position_to": "first new token after the bin",
        "metric": "`mentions_per_100_tokens`, `kl_policy_to_base_nats_per_token` or `log_ratio_nats_per_token`",
        **_INTERVAL,
    },
    "tables/paired_differences.csv": {
        "comparison": "`A − B`, for example `KL 6000 − KL 0`",
        "minuend": "A: `base`, `prompted` or a KL factor",
        "subtrahend": "B, likewise",
        "variant": _WHO["variant"],
        "metric": "name as in docs/metrics.md",
        **_INTERVAL,
        "verdict": "`better`, `worse`, `higher`, `lower` (the interval excludes 0) or `undecided`",
    },
    "tables/first_token.csv": {
        "model": _WHO["model"],
        "variant": _WHO["variant"],
        "kl_factor": _WHO["kl_factor"],
        "token": "text of the first new token",
        "probability": "its exact probability after the training prompt, mean over seeds",
    },
    "tables/training.csv": {
        "variant": _WHO["variant"],
        "kl_factor": _WHO["kl_factor"],
        "step": "as in training.csv",
        "metric": "a column of training.csv",
        **_INTERVAL,
    },
    "tables/top_completions.csv": {
        "variant": _WHO["variant"],
        "kl_factor": _WHO["kl_factor"],
        "seed": _WHO["seed"],
        "step": "as in training.csv",
        "text": "completion",
        "share": "share of the batch",
        "reward": "its reward",
    },
    "tables/trajectories.csv": {
        "variant": _WHO["variant"],
        "kl_factor": _WHO["kl_factor"],
        "seed": _WHO["seed"],
        "step": "as in training.csv; one past the last: the finished policy's completions",
        "reward": "mean reward",
        **_KL,
    },
    "frontier/limit.csv": {
        "beta": "strength β of the KL penalty, reward units per nat",
        "log_z": "log Z(β) = log E_base[exp(r/β)]",
        "kl_policy_to_base_nats": "KL of the best policy at β, nats",
        "reward": "reward of the best policy at β",
        "low": "lower end of the 95 % bootstrap band of the reward at this KL",
        "high": "upper end",
        "effective_sample_size": "(Σw)² / Σw²",
        "pool": "`base` (base samples only) or `pooled` (with every trained policy's)",
    },
    "frontier/best_of_n.csv": {
        "n": "number of candidates",
        "reward": "expected reward of the best of n",
        "kl_policy_to_base_nats": "its exact KL by order statistics, ties handled, nats",
        "kl_bound_nats": "log n − (n − 1)/n, the usual upper bound",
    },
    "frontier/policies.csv": {
        **{k: v for k, v in _WHO.items() if k != "model"},
        "reward": "mean reward of its completions",
        **_KL,
        "limit": "R*(K) at its KL(policy‖base), from a pool without this policy",
        "limit_low": "lower end of the limit's 95 % bootstrap band",
        "limit_high": "upper end",
        "gap": "limit − reward",
        "share_of_attainable_gain": "(reward − base reward) / (limit − base reward)",
        "effective_sample_size": "of the limit at that KL",
    },
    "frontier/prompted.csv": {
        "text": "what the base was made to begin with",
        "reward": "mean reward of completions that begin so",
        "kl_policy_to_base_nats": "−log p_base(text), exact, nats",
    },
}


class TableError(UserError):
    """A table does not have the columns or values that :data:`TABLES` promises."""


def _check(name: str, columns: Iterable[str], path: str | Path) -> None:
    expected, found = list(TABLES[name]), list(columns)
    if expected != found:
        missing = [c for c in expected if c not in found]
        extra = [c for c in found if c not in expected]
        raise TableError(
            f"{path}: not a {name} table: missing columns {missing}, unexpected columns {extra}"
            if missing or extra
            else f"{path}: columns of {name} are in another order: {found}, should be {expected}"
        )


def format_number(value: Any) -> str:
    """Numbers as text that is the same on every run: 7 significant digits, no exponent games."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) or hasattr(value, "dtype"):
        number = float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.7g}"
    return str(value)


def possible_range(metric: str) -> tuple[float, float]:
    """What a metric's mean can be, which an interval may overstep; only a cosine may be negative."""
    unit = METRICS[metric][1]
    return -math.inf if unit == "cosine" else 0.0, 1.0 if unit == "share" else math.inf


def write_table(name: str, path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV after checking their columns against ``TABLES[name]``.

    Raises:
        TableError: a row has other columns than documented, or an infinite value.
    """
    columns = list(TABLES[name])
    writer = csv.writer(buffer := io.StringIO(), lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        if set(row) != set(columns):
            _check(name, row, path)
        for column in columns:
            if isinstance(row[column], float) and math.isinf(row[column]):
                raise TableError(f"{path}: column {column} would be infinite")
        writer.writerow([format_number(row[column]) for column in columns])
    write_text(path, buffer.getvalue())
    whole_files.seal(path)


def read_table(name: str, path: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV table as text, after checking its columns.

    Raises:
        TableError: the file is cut short, is not what its stage wrote, or its columns are not the
            documented ones.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            _check(name, reader.fieldnames or [], path)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: not a text file ({error})") from error
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise TableError(f"{path}: line {number} is cut short or too long")
    if problem := whole_files.problem(path):
        raise TableError(problem)
    return rows


#: one story a line in stories/**.jsonl
STORY_FIELDS: dict[str, str] = {
    "prompt_group": "group of the prompt in the config",
    "prompt": "the prompt",
    "forced": "what the model was made to begin with (empty but for `prompted`); part of text and token_ids",
    "text": "generated text",
    "token_ids": "generated token ids, end token included",
    "tokens": "the same as pieces of text",
    "log_prob_policy": "log probability of each token under the model that told the story, nats",
    "log_prob_base": "log probability of each token under the base, nats",
    "kl_policy_to_base_nats": "exact KL(model‖base) at each token's state, nats",
    "kl_base_to_policy_nats": "exact KL(base‖model) at each token's state, nats",
    "ended": "whether the story ended by itself",
    "sample_seed": "seed that its random numbers were drawn from",
}

#: one line for each of the base's stories in stories/**.base.jsonl: how a policy finds them
FORGETTING_FIELDS: dict[str, str] = {
    "story": "index in the base's stories file of the same seed",
    "log_prob_policy": "log probability of each of its tokens under the policy, nats",
}


def write_lines(
    path: str | Path, rows: Iterable[Mapping[str, Any]], fields: Mapping[str, str]
) -> None:
    """Write one JSON object a line after checking its fields."""
    lines = []
    for row in rows:
        if list(row) != list(fields):
            raise TableError(f"{path}: a line has fields {list(row)}, should be {list(fields)}")
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
    write_text(path, "".join(line + "\n" for line in lines))
    whole_files.seal(path)


def read_lines(path: str | Path, fields: Mapping[str, str]) -> Iterator[Row]:
    """Read what :func:`write_lines` wrote.

    Raises:
        TableError: a line is cut short or has other fields, or the file is not what its stage wrote.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line.decode("utf-8"))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise TableError(f"{path}: line {number} is damaged or cut short") from error
            if not isinstance(row, dict) or list(row) != list(fields):
                raise TableError(f"{path}: line {number} has fields other than {list(fields)}")
            yield row
    if problem := whole_files.problem(path):
        raise TableError(problem)


def read_run(path: str | Path) -> Row:
    """A policy's run.json.

    Raises:
        TableError: the file is damaged or has no ``new_tokens``.
    """
    try:
        run: Row = json.loads(Path(path).read_text(encoding="utf-8"))
        if int(run["new_tokens"]) < 1:
            raise ValueError("new_tokens is less than 1")
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path}: not a policy's run.json ({error!r})") from error
    return run


def markdown() -> str:
    """The text of docs/files.md."""
    parts = [
        "# Files between stages\n",
        "Generated by `python -m tinycats.files.tables` from `src/tinycats/files/tables.py`; do not edit.\n",
    ]
    tables = {
        **TABLES,
        "stories/**.jsonl (one JSON object a line)": STORY_FIELDS,
        "stories/**.base.jsonl (one JSON object a line)": FORGETTING_FIELDS,
    }
    for name, columns in tables.items():
        parts.append(f"\n## {name}\n\n| column | meaning |\n|---|---|")
        parts += [
            f"| `{column}` | {meaning.replace('|', chr(92) + '|')} |"
            for column, meaning in columns.items()
        ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
