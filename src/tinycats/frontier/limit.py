"""The limit: the best reward that any policy can have at a given KL(policy‖base).

With p the base model over whole completions y and r(y) the reward, the policy that maximises
E_π[r] − β·KL(π‖p) is π* ∝ p·exp(r/β) (Korbak et al., arXiv 2205.11275). With λ = 1/β:

    log Z(λ) = log E_p[exp(λ r)]      R*(λ) = E_p[r·exp(λ r)] / Z      K*(λ) = λ R* − log Z

and for every policy π and every λ > 0 (Donsker and Varadhan)

    E_π[r] ≤ (KL(π‖p) + log Z(λ)) / λ,   with equality for π*, so   R*(K) = min_λ (K + log Z(λ)) / λ.

Expectations under p are taken over completions that were drawn from p, and from trained policies
with balance-heuristic weights p / Σ_k (N_k/N) π_k (Veach and Guibas 1995). The weights are
normalised to 1, so every estimate is the exact limit of a distribution on the completions drawn.
Everything is float64; exponentials are shifted by their maximum. docs/frontier.md has the methods.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinycats.completions.columns import COMPLETIONS
from tinycats.files import atomic
from tinycats.files.tables import Row, read_table
from tinycats.layout import ModelId
from tinycats.program import UserError
from tinycats.random_numbers import seed_for

Array = npt.NDArray[np.float64]

_GRID = 256  # strengths λ over which R*(K) is minimised
_POINTS = 60  # rows of limit.csv for each pool
_SMALLEST_KL = 1e-4  # nats, where the drawn curve begins


@dataclass(frozen=True)
class Samples:
    """Distinct completions: how often each model drew them, and how dense each model is there.

    models: one description (model, variant, kl_factor, seed) a model, the base first
    log_prob: (models, completions) log probability of each completion under each model, nats
    reward: (completions,)
    counts: (models, completions) how often each was drawn from each model
    others: descriptions of policies of the study that are not in the pool
    """

    models: list[dict[str, Any]]
    log_prob: Array
    reward: Array
    counts: npt.NDArray[np.int64]
    others: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (len(self.models), len(self.reward))
        for name in ("log_prob", "counts"):
            if getattr(self, name).shape != shape:
                raise UserError(f"{name} has shape {getattr(self, name).shape}, should be {shape}")
        if (self.counts < 0).any() or (self.counts.sum(axis=1) == 0).any():
            raise UserError("counts must be ≥ 0, with at least one completion of every model")
        if not np.isfinite(self.reward).all() or not np.isfinite(self.log_prob[0]).all():
            raise UserError("rewards and log probabilities under the base must be finite")
        if np.isnan(self.log_prob).any() or self.log_prob.max() > 1e-3:
            raise UserError(
                "log probabilities must be log probabilities: numbers that are at most 0"
            )
        if np.isneginf(self.log_prob[self.counts > 0]).any():
            raise UserError("a completion has probability 0 under the model that it was drawn from")


def read_samples(path: str | Path) -> Samples:
    """Read completions/log_probs.safetensors.

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
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a file of the completions stage: {error}") from error
    atomic.verify(path)
    try:
        return Samples(models, log_prob.astype(float), reward.astype(float), counts, others)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Pool:
    """Completions with the weights that make them stand for the base model.

    reward: (completions,)
    counts: (completions,) how often each was drawn; 0 where it is not in the pool
    log_weight: (completions,) log(p_base / mixture that the pool was drawn from)
    """

    reward: Array
    counts: npt.NDArray[np.int64]
    log_weight: Array


def base_pool(samples: Samples) -> Pool:
    """The base model's completions alone: every weight is 1."""
    return Pool(samples.reward, samples.counts[0], np.zeros_like(samples.reward))


def pooled(samples: Samples, without: int | None = None) -> Pool:
    """All models' completions with balance-heuristic weights, ``without`` one policy if given."""
    models = [k for k in range(len(samples.models)) if k != without]
    counts = samples.counts[models]
    drawn = counts.sum(axis=1)
    log_share = np.log(drawn / drawn.sum())
    log_mixture = np.logaddexp.reduce(log_share[:, None] + samples.log_prob[models], axis=0)
    return Pool(samples.reward, counts.sum(axis=0), samples.log_prob[0] - log_mixture)


@dataclass(frozen=True)
class Limit:
    """Points of the limit, one for each β (reward units per nat); each field is (betas,)."""

    beta: Array
    log_z: Array
    kl: Array  # of the best policy to the base, nats
    reward: Array
    effective_sample_size: Array


def limit(pool: Pool, betas: npt.ArrayLike) -> Limit:
    """log Z, K*, R* and the effective sample size (Σw)²/Σw² at each β > 0."""
    beta = np.atleast_1d(np.asarray(betas, dtype=float))
    drawn = pool.counts > 0
    count, reward = pool.counts[drawn].astype(float), pool.reward[drawn]
    log_weight = pool.log_weight[drawn]
    log_w = reward[:, None] / beta + log_weight[:, None]  # (completions, betas)
    peak = log_w.max(axis=0)
    w = np.exp(log_w - peak)
    total = count @ w
    best = (count * reward) @ w / total
    log_z = np.log(total) + peak - np.log(count @ np.exp(log_weight))
    kl = np.maximum(best / beta - log_z, 0.0)  # ≥ 0 but for rounding
    return Limit(beta, log_z, kl, best, total**2 / (count @ w**2))


def strengths(reward: Array) -> Array:
    """Log-spaced grid of λ = 1/β from hardly any tilt to the highest rewards only, (grid,)."""
    spread = float(np.ptp(reward))
    if spread < 1e-9:
        return np.geomspace(1e-2, 1e2, _GRID)  # equal rewards: the limit is flat at every λ
    # λ·spread ≤ 500 keeps every exp(λ(r − max r)) above the smallest float64
    return np.geomspace(1e-3, 500.0, _GRID) / spread


def log_z(pool: Pool, strength: Array, counts: npt.NDArray[Any] | None = None) -> Array:
    """log Z at each λ, (…, grid), for the pool's counts or for resampled ``counts`` (…, completions)."""
    mass = (pool.counts if counts is None else counts) * np.exp(pool.log_weight)
    top = pool.reward.max()
    tilted = np.exp(np.multiply.outer(pool.reward - top, strength))
    return np.log(mass @ tilted / mass.sum(axis=-1, keepdims=True)) + strength * top


def limit_at(
    kl: npt.ArrayLike, strength: Array, log_z_at: Array, highest: float
) -> tuple[Array, Array]:
    """R*(K) = min_λ (K + log Z)/λ and the λ that attains it.

    Args:
        kl: K ≥ 0 in nats, broadcast against the leading dimensions of ``log_z_at``.
        strength: (grid,) log-spaced λ.
        log_z_at: (…, grid) log Z at each λ.
        highest: the highest reward of the pool, which no policy exceeds.
    """
    bound = (np.asarray(kl, dtype=float)[..., None] + log_z_at) / strength
    least = np.clip(bound.argmin(axis=-1), 1, len(strength) - 2)[..., None]
    before, at, after = (
        np.take_along_axis(bound, least + step, axis=-1)[..., 0] for step in (-1, 0, 1)
    )
    # parabola through the least point and its neighbours, in log λ
    bend = before - 2 * at + after
    shift = np.divide(before - after, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    shift = np.clip(shift, -1, 1)
    value = at - (before - after) * shift / 2 + bend * shift**2 / 2
    spacing = np.log(strength[1] / strength[0])
    return np.minimum(value, highest), strength[least[..., 0]] * np.exp(shift * spacing)


class Bootstrap:
    """Counts drawn anew (multinomial) within each model, a few hundred times.

    Each model's random numbers follow from its name, so that the other models change none of them.
    """

    def __init__(self, samples: Samples, replicates: int, seed: int) -> None:
        self.seed = seed
        self.shape = (replicates, len(samples.reward))
        self._drawn: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        self._total = np.zeros(self.shape, dtype=np.int64)
        for who, counts in zip(samples.models, samples.counts, strict=True):
            where = np.flatnonzero(counts)
            drawn = self.resample(who, counts[where], "pool")
            self._drawn.append((where, drawn))
            self._total[:, where] += drawn

    def resample(
        self, who: Row, counts: npt.NDArray[np.int64], purpose: str
    ) -> npt.NDArray[np.int64]:
        """(replicates, completions) counts of as many draws from the empirical distribution.

        Args:
            who: the model whose completions they are.
            purpose: what they are for; each has random numbers of its own.
        """
        model, total = ModelId.from_row(who).stem, counts.sum()
        rng = np.random.default_rng(seed_for("bootstrap", purpose, self.seed, model))
        return rng.multinomial(total, counts / total, size=self.shape[0])

    def base(self) -> npt.NDArray[np.int64]:
        counts = np.zeros(self.shape, dtype=np.int64)
        where, drawn = self._drawn[0]
        counts[:, where] = drawn
        return counts

    def pooled(self, without: int | None = None) -> npt.NDArray[np.int64]:
        if without is None:
            return self._total
        counts = self._total.copy()
        where, drawn = self._drawn[without]
        counts[:, where] -= drawn
        return counts


def band(point: Array, replicates: Array) -> tuple[Array, Array]:
    """95 % basic bootstrap band of ``point`` (…,) from ``replicates`` (replicates, …).

    Basic, not percentile: an estimated limit is biased low, its replicates twice as much, and
    reflecting them about the estimate takes the bias out. The band always holds the estimate.
    """
    lower, upper = np.quantile(replicates, [0.025, 0.975], axis=0)
    return np.minimum(2 * point - upper, point), np.maximum(2 * point - lower, point)


def limit_rows(samples: Samples, bootstrap: Bootstrap, largest_kl: float) -> list[Row]:
    """Rows of frontier/limit.csv, from weak to strong until K passes ``largest_kl`` (nats)."""
    strength, rows = strengths(samples.reward), []
    for name, pool, counts in (
        ("base", base_pool(samples), bootstrap.base()),
        ("pooled", pooled(samples), bootstrap.pooled()),
    ):
        reached = limit(pool, 1 / strength).kl  # increases with λ
        ends = np.interp([_SMALLEST_KL, min(largest_kl, 0.99 * reached[-1])], reached, strength)
        if reached[-1] <= _SMALLEST_KL:
            ends = strength[[0, -1]]
        points = limit(pool, 1 / np.geomspace(ends[0], ends[1], _POINTS))
        highest = float(pool.reward[pool.counts > 0].max())
        drawn = log_z(pool, strength, counts)[:, None, :]  # (replicates, 1, grid)
        low, high = band(points.reward, limit_at(points.kl, strength, drawn, highest)[0])
        for i in range(_POINTS):
            rows.append(
                {
                    "beta": points.beta[i],
                    "log_z": points.log_z[i],
                    "kl_policy_to_base_nats": points.kl[i],
                    "reward": points.reward[i],
                    "low": low[i],
                    "high": high[i],
                    "effective_sample_size": points.effective_sample_size[i],
                    "pool": name,
                }
            )
    return rows


@dataclass(frozen=True)
class Drawn:
    """Completions of one model: its file in completions/, each field (distinct completions,)."""

    counts: npt.NDArray[np.int64]
    reward: Array
    log_prob: Array  # under the model that drew them, nats
    kl_policy_to_base: Array
    kl_base_to_policy: Array

    def mean(self, values: Array) -> float:
        return float(self.counts @ values / self.counts.sum())


def read_drawn(path: str | Path) -> Drawn:
    """Read counts, rewards, log probabilities and exact KLs of a completions table.

    Raises:
        UserError: it is empty, or a value is no number.
    """
    rows = read_table(path, COMPLETIONS)
    if not rows:
        raise UserError(f"{path}: holds no completions")
    kls = ("kl_policy_to_base_nats", "kl_base_to_policy_nats")
    try:
        return Drawn(
            np.array([int(row["count"]) for row in rows]),
            # KL(base‖prompted base) is infinite and left empty
            *(
                np.array([float(row[column] or "nan") for row in rows])
                for column in ("reward", "log_prob_policy", *kls)
            ),
        )
    except ValueError as error:
        raise UserError(f"{path}: a value is no number ({error})") from error


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


def policy_rows(samples: Samples, bootstrap: Bootstrap, drawn: Sequence[Drawn]) -> list[Row]:
    """Rows of frontier/policies.csv: each policy against the limit of a pool without it.

    Args:
        drawn: the completions of each policy, first of ``samples.models[1:]``, then of
            ``samples.others``, which the whole pool is without.
    """
    strength, rows = strengths(samples.reward), []
    base = float(samples.counts[0] @ samples.reward / samples.counts[0].sum())
    for number, own in enumerate(drawn, start=1):
        k = number if number < len(samples.models) else None
        who = [*samples.models, *samples.others][number]
        mean = own.mean(own.reward)
        pool = pooled(samples, without=k)
        highest = float(pool.reward[pool.counts > 0].max())
        kl = max(own.mean(own.kl_policy_to_base), 0.0)
        reward, best_strength = limit_at(kl, strength, log_z(pool, strength), highest)
        # the policy's KL is estimated too: its completions are resampled with the pool's
        own_again = bootstrap.resample(who, own.counts, "own KL")
        kl_again = own_again @ own.kl_policy_to_base / own.counts.sum()
        log_z_again = log_z(pool, strength, bootstrap.pooled(without=k))
        again, _ = limit_at(np.maximum(kl_again, 0.0), strength, log_z_again, highest)
        low, high = band(reward, again)
        gain = float(reward) - base
        rows.append(
            {
                **{name: who[name] for name in ("variant", "kl_factor", "seed")},
                "reward": mean,
                "kl_policy_to_base_nats": kl,
                "kl_base_to_policy_nats": own.mean(own.kl_base_to_policy),
                "limit": float(reward),
                "limit_low": float(low),
                "limit_high": float(high),
                "gap": float(reward) - mean,
                # nothing to attain at KL 0, or where all rewards are equal
                "share_of_attainable_gain": (mean - base) / gain if gain > 1e-9 else None,
                "effective_sample_size": limit(pool, 1 / best_strength).effective_sample_size[0],
            }
        )
    return rows
