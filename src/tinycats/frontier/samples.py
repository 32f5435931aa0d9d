"""What the frontier stage reads: completions, and how probable each is under each model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinycats.completions.columns import COMPLETIONS, SEARCHED
from tinycats.files import atomic
from tinycats.files.tables import read_table
from tinycats.program import UserError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """Distinct completions: how often each model drew them, and how dense each model is there.

    models: one description (model, variant, kl_factor, seed) a model, the base first
    log_prob: (models, completions) log probability of each completion under each model, nats
    reward: (completions,)
    counts: (models, completions) how often each was drawn from each model
    others: descriptions of policies of the study that are not in the pool
    hit: (completions,) whether the search reached it too, by itself
    found_log_prob, found_reward: (found,) completions that the search found and nobody drew, under
        the base
    prompt, found_prompt: (completions,) and (found,) index of the prompt that each follows; all of
        one where they are not given
    """

    models: list[dict[str, Any]]
    log_prob: Array
    reward: Array
    counts: npt.NDArray[np.int64]
    others: list[dict[str, Any]] = field(default_factory=list)
    hit: npt.NDArray[np.bool_] | None = None
    found_log_prob: Array = field(default_factory=lambda: np.zeros(0))
    found_reward: Array = field(default_factory=lambda: np.zeros(0))
    prompt: npt.NDArray[np.int64] | None = None
    found_prompt: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.models), len(self.reward))
        for name in ("log_prob", "counts"):
            if getattr(self, name).shape != shape:
                raise UserError(f"{name} has shape {getattr(self, name).shape}, should be {shape}")
        if self.hit is not None and self.hit.shape != self.reward.shape:
            raise UserError(f"hit has shape {self.hit.shape}, should be {self.reward.shape}")
        if (self.counts < 0).any() or (self.counts.sum(axis=1) == 0).any():
            raise UserError("counts must be ≥ 0, with at least one completion of every model")
        known = (self.reward, self.log_prob[0], self.found_reward, self.found_log_prob)
        if not all(np.isfinite(values).all() for values in known):
            raise UserError("rewards and log probabilities under the base must be finite")
        if np.isnan(self.log_prob).any() or self.log_prob.max() > 1e-3:
            raise UserError(
                "log probabilities must be log probabilities: numbers that are at most 0"
            )
        if np.isneginf(self.log_prob[self.counts > 0]).any():
            raise UserError("a completion has probability 0 under the model that it was drawn from")

    def of_prompts(self) -> list[Samples]:
        """The completions of each prompt."""
        if self.prompt is None or self.found_prompt is None:
            return [self]
        each = []
        for index in np.unique(self.prompt):
            own, found = self.prompt == index, self.found_prompt == index
            each.append(
                Samples(
                    self.models,
                    self.log_prob[:, own],
                    self.reward[own],
                    self.counts[:, own],
                    self.others,
                    None if self.hit is None else self.hit[own],
                    self.found_log_prob[found],
                    self.found_reward[found],
                )
            )
        return each


def read_samples(path: str | Path, searched: str | Path | None = None) -> Samples:
    """Read completions/log_probs.safetensors and completions/searched.csv.

    Args:
        searched: where it is not given, nothing was searched.

    Raises:
        UserError: a tensor or the list of models is missing, or they do not fit together.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            models, others = json.loads(metadata["models"]), json.loads(metadata["others"])
            log_prob, reward, counts = (
                file.get_tensor(name) for name in ("log_prob", "reward", "counts")
            )
            hit, prompt = file.get_tensor("hit").astype(bool), file.get_tensor("prompt")
            place = {text: index for index, text in enumerate(json.loads(metadata["prompts"]))}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a file of the completions stage: {error}") from error
    atomic.verify(path)
    rows = read_table(searched, SEARCHED) if searched else []
    found_log_prob, found_reward = (numbers(rows, c, searched) for c in ("log_prob_base", "reward"))
    try:
        log_prob, reward = log_prob.astype(float), reward.astype(float)
        found_prompt = np.array([place[row["prompt"]] for row in rows], dtype=np.int64)
        found = found_log_prob, found_reward, prompt, found_prompt
        return Samples(models, log_prob, reward, counts, others, hit, *found)
    except KeyError as error:
        raise UserError(
            f"{searched}: a completion of another prompt than {path} has: {error}"
        ) from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Drawn:
    """Completions of one model: its file in completions/, each field (distinct completions,)."""

    counts: npt.NDArray[np.int64]
    reward: Array
    log_prob: Array  # under the model that drew them, nats
    kl_policy_to_base: Array
    kl_base_to_policy: Array
    prompt: npt.NDArray[np.int64] | None = None  # index; all of one prompt where it is not given

    def of_prompts(self) -> list[npt.NDArray[np.bool_]]:
        """Which completions are of each prompt; every prompt has equally many draws."""
        if self.prompt is None:
            return [np.ones(len(self.counts), dtype=bool)]
        return [self.prompt == index for index in np.unique(self.prompt)]

    def mean(self, values: Array) -> float:
        return float(self.counts @ values / self.counts.sum())

    def of_each_prompt(self) -> tuple[float, ...]:
        """KL(policy‖base) of each prompt, nats."""
        kl, counts = self.kl_policy_to_base, self.counts
        return tuple(float(counts[own] @ kl[own] / counts[own].sum()) for own in self.of_prompts())

    def error(self, values: Array) -> float:
        """Standard error of the mean, with a fixed number of draws of each prompt."""
        square, parts = 0.0, self.of_prompts()
        for own in parts:
            counts, each = self.counts[own], values[own]
            mean = counts @ each / counts.sum()
            variance = counts @ (each - mean) ** 2 / counts.sum()
            square += float(variance / max(counts.sum() - 1, 1))
        return float(np.sqrt(square)) / len(parts)

    def again(self, number: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Replicates of the counts, (number, completions): as many draws of each prompt, resampled."""
        counts = np.zeros((number, len(self.counts)), dtype=np.int64)
        for own in self.of_prompts():
            total = self.counts[own].sum()
            counts[:, own] = rng.multinomial(total, self.counts[own] / total, size=number)
        return counts


def read_drawn(path: str | Path) -> Drawn:
    """Read counts, rewards, log probabilities and exact KLs of a completions table.

    Raises:
        UserError: it is empty, prompts have not equally many draws, or a value is no number.
    """
    rows = read_table(path, COMPLETIONS)
    if not rows:
        raise UserError(f"{path}: holds no completions")
    place = {text: index for index, text in enumerate(dict.fromkeys(r["prompt"] for r in rows))}
    prompt = np.array([place[row["prompt"]] for row in rows])
    columns = ("reward", "log_prob_policy", "kl_policy_to_base_nats", "kl_base_to_policy_nats")
    # KL(base‖prompted base) is infinite and left empty
    reward, log_prob, forward, backward = (numbers(rows, column, path) for column in columns)
    counts = numbers(rows, "count", path).astype(np.int64)
    if len(set(np.bincount(prompt, weights=counts).tolist())) > 1:
        raise UserError(f"{path}: its prompts have not equally many completions")
    return Drawn(counts, reward, log_prob, forward, backward, prompt)


def numbers(rows: Sequence[Mapping[str, str]], column: str, path: object) -> Array:
    """A column as numbers, nan where it is empty.

    Raises:
        UserError: a value is no number.
    """
    try:
        return np.array([float(row[column] or "nan") for row in rows])
    except ValueError as error:
        raise UserError(f"{path}: column {column}: a value is no number ({error})") from error


def check_drawn(samples: Samples, model: int, own: Drawn, path: str | Path) -> None:
    """Refuse a completions table that is not what ``samples`` has of that model.

    Raises:
        UserError: number, mean reward or mean log probability of the completions differ.
    """
    drawn = samples.counts[model] > 0
    counts = samples.counts[model][drawn]
    same = int(own.counts.sum()) == int(counts.sum())
    for ours, theirs in (
        (own.reward, samples.reward[drawn]),
        (own.log_prob, samples.log_prob[model][drawn]),
    ):
        mean = float(counts @ theirs / counts.sum())
        same = same and abs(own.mean(ours) - mean) <= 1e-3 * (1 + abs(mean))
    if not same:
        raise UserError(f"{path}: not the completions that the log_probs file describes")
