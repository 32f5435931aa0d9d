"""The limit: the best reward that any policy can have at a given KL(policy‖base).

With p the base model over whole completions y and r(y) the reward, the policy that maximises
E_π[r] − β·KL(π‖p) is π* ∝ p·exp(r/β) (Korbak et al., arXiv 2205.11275). With λ = 1/β:

    log Z(λ) = log E_p[exp(λ r)]      R*(λ) = E_p[r·exp(λ r)] / Z      K*(λ) = λ R* − log Z

and for every policy π and every λ > 0 (Donsker and Varadhan)

    E_π[r] ≤ (KL(π‖p) + log Z(λ)) / λ,   with equality for π*, so   R*(K) = min_λ (K + log Z(λ)) / λ.

Z is a sum over completions. Those that some model drew or the search found are summed exactly, each
with its own p_base; so this part alone is a lower bound of Z, and gives a *certified* lower bound of
the limit. What is left, the completions nobody has seen, has a mass that is known (1 − Σ p) and
rewards that are estimated, by leaving out each draw in turn (:func:`known_base`). Everything is
float64. docs/frontier.md has the methods.

Of several prompts, each a base model p_x of its own and drawn equally often, a policy has the mean of
its rewards and of its KLs. The best policy at λ is π*_x for every prompt, so the same formulas hold
with the means over prompts of log Z_x, R*_x and K*_x (:class:`Mixture`): in particular
R*(K) = min_λ (K + mean_x log Z_x(λ)) / λ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinycats.files.tables import Row
from tinycats.frontier.samples import Array, Samples
from tinycats.random_numbers import seed_for

_GRID = 400  # strengths λ over which R*(K) is minimised
_POINTS = 60  # rows of limit.csv
_SMALLEST_KL = 1e-4  # nats, where the drawn curve begins


@dataclass(frozen=True)
class KnownBase:
    """The base model as a distribution over the completions seen.

    mass, reward: (seen,) exact probability and reward of each; those drawn come first, as in
        :class:`Samples`, then those that the search found
    rest_mass: probability of all others together, exact
    rest: (left out,) completions that stand for the others
    rest_weight: (left out,) their shares of the rest
    heaviest: the share that one more of them could have, at most
    twice, twice_weight: completions drawn twice, and what would be their shares: part of the error
    """

    mass: Array
    reward: Array
    rest_mass: float
    rest: npt.NDArray[np.int64]
    rest_weight: Array
    heaviest: float
    twice: npt.NDArray[np.int64]
    twice_weight: Array

    @property
    def prompts(self) -> tuple[KnownBase, ...]:
        return (self,)

    @property
    def highest(self) -> float:
        """The highest reward seen."""
        return float(self.reward.max())

    @property
    def weight(self) -> Array:
        """(seen,) estimate of the whole distribution: each one's mass and its part of the rest."""
        weight = self.mass.copy()
        weight[self.rest] += self.rest_mass * self.rest_weight
        return weight

    @property
    def mean(self) -> float:
        """The base's mean reward."""
        return float(self.weight @ self.reward)


@dataclass(frozen=True)
class Mixture:
    """The base model as a distribution for each of several prompts, which are drawn equally often."""

    prompts: tuple[KnownBase, ...]

    @classmethod
    def of(cls, samples: Samples) -> Mixture:
        return cls(tuple(known_base(own) for own in samples.of_prompts()))

    @property
    def reward(self) -> Array:
        """Of the completions of all prompts."""
        return np.concatenate([base.reward for base in self.prompts])

    @property
    def highest(self) -> float:
        """The reward of a policy that has the highest reward seen of every prompt."""
        return float(np.mean([base.highest for base in self.prompts]))

    @property
    def mean(self) -> float:
        """The base's mean reward."""
        return float(np.mean([base.mean for base in self.prompts]))


Base = KnownBase | Mixture


def known_base(samples: Samples) -> KnownBase:
    """The base model from what was drawn from all models of the pool, and what was searched.

    What is unseen is estimated by leaving one draw out (Good and Turing; Good 1953). If model k drew
    N_k times, a completion y is expected m(y) = Σ_k N_k π_k(y) times. A completion that was drawn
    once, and that the search did not reach, would be unseen without that draw. With the weight
    p(y)/m(y) such completions are, for any function f, an unbiased estimate of the sum of p·f over
    what is unseen: P(drawn once) = m·exp(−m), and P(unseen) = exp(−m). No weight exceeds
    1/N_base. The weights are then made to add up to the mass that is known to be unseen.
    """
    log_prob = samples.log_prob[0]
    mass = np.exp(np.concatenate([log_prob, samples.found_log_prob]))
    reward = np.concatenate([samples.reward, samples.found_reward])
    drawn, times = samples.counts.sum(axis=1), samples.counts.sum(axis=0)
    few = np.flatnonzero(times <= 2)
    log_expected = np.logaddexp.reduce(np.log(drawn)[:, None] + samples.log_prob[:, few], axis=0)
    weight = np.exp(log_prob[few] - log_expected)  # p/m
    once, twice = times[few] == 1, times[few] == 2
    if samples.hit is not None:
        once &= ~samples.hit[few]
    rest, rest_weight = few[once], weight[once]
    if not rest_weight.sum() > 0:  # too few draws to leave one out: all of the base's stand for it
        rest = np.flatnonzero(samples.counts[0])
        rest_weight = samples.counts[0][rest] / drawn[0] ** 2
    total = float(rest_weight.sum())
    return KnownBase(
        mass,
        reward,
        rest_mass=max(1.0 - float(mass.sum()), 0.0),
        rest=rest,
        rest_weight=rest_weight / total,
        heaviest=1.0 / drawn[0] / total,
        twice=few[twice],
        twice_weight=weight[twice] / total,
    )


@dataclass(frozen=True)
class Limit:
    """Points of the limit, one for each β (reward units per nat); each field is (betas,)."""

    beta: Array
    log_z: Array
    kl: Array  # of the best policy to the base, nats
    reward: Array
    seen: Array  # share of Z that is summed exactly


def limit(base: Base, betas: npt.ArrayLike) -> Limit:
    """log Z, K*, R* and the exact share of Z at each β > 0, the means over prompts."""
    beta = np.atleast_1d(np.asarray(betas, dtype=float))
    each = np.array([_limit(own, beta) for own in base.prompts])  # (prompts, 4, betas)
    return Limit(beta, *each.mean(axis=0))


def _limit(base: KnownBase, beta: Array) -> Array:
    """log Z, K*, R* and the exact share of Z of one prompt, (4, betas)."""
    tilt = np.exp((base.reward[:, None] - base.highest) / beta)  # (completions, betas)
    total = base.weight @ tilt
    best = (base.weight * base.reward) @ tilt / total
    log_z = np.log(total) + base.highest / beta
    kl = np.maximum(best / beta - log_z, 0.0)  # ≥ 0 but for rounding
    return np.stack([log_z, kl, best, base.mass @ tilt / total])


def strengths(reward: Array) -> Array:
    """Log-spaced grid of λ = 1/β from hardly any tilt to the highest rewards only, (grid,)."""
    spread = float(np.ptp(reward))
    if spread < 1e-9:
        return np.geomspace(1e-2, 1e2, _GRID)  # equal rewards: the limit is flat at every λ
    # up to where only the very highest reward counts; exp(λ(r − max r)) of others may become 0
    return np.geomspace(1e-3, 1e6, _GRID) / spread


def log_z(mass: Array, reward: Array, strength: Array) -> Array:
    """log Σ mass·exp(λ·reward) at each λ, (…, grid), of masses (…, completions)."""
    top = reward.max()
    tilted = np.exp(np.multiply.outer(reward - top, strength))
    with np.errstate(divide="ignore"):  # log 0 = −∞ where nothing has any mass
        return np.asarray(np.log(mass @ tilted) + strength * top)


def mean_log_z(base: Base, strength: Array) -> Array:
    """The estimate of log Z, the mean over prompts, (grid,)."""
    each = [log_z(own.weight, own.reward, strength) for own in base.prompts]
    return np.asarray(np.mean(each, axis=0))


def certified_log_z(base: Base, strength: Array) -> Array:
    """log of the exact part of Z, the mean over prompts, (grid,): a lower bound of log Z."""
    each = [log_z(own.mass, own.reward, strength) for own in base.prompts]
    return np.asarray(np.mean(each, axis=0))


@dataclass(frozen=True)
class Replicates:
    """What the base's rewards could be, given what was left out: see :func:`replicates`.

    log_z_low, log_z_high: (replicates, grid)
    mean_low, mean_high: (replicates,) the base's mean reward
    """

    log_z_low: Array
    log_z_high: Array
    mean_low: Array
    mean_high: Array


def replicates(base: Base, strength: Array, number: int, seed: int) -> Replicates:
    """Replicates of what is unseen of each prompt, by itself; each field is the mean over prompts."""
    each = [
        _replicates(own, strength, number, seed, () if index == 0 else (index,))
        for index, own in enumerate(base.prompts)
    ]
    return Replicates(*(np.mean(values, axis=0) for values in zip(*each, strict=True)))


def _replicates(
    base: KnownBase, strength: Array, number: int, seed: int, which: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    """Replicates of the unseen part, by exponential weights (the Bayesian bootstrap, Rubin 1981).

    The estimate errs by Σ p·f [unseen] − Σ (p/m)·f [drawn once] over all completions, whose variance
    is Σ (p·f/m)²·(m + m²)·exp(−m) (Robbins 1968, Esty 1982): what was drawn once and, doubly, what
    was drawn twice. So the former get weights of mean 1, the latter √2 times weights of mean 0.

    A sample does not show what it happens to lack. For the upper end one more draw is added, with the
    largest weight that a draw can have and the highest reward seen. With equal weights that is
    Gaffke's upper bound for the mean of a bounded variable (Learned-Miller and Thomas, arXiv
    1905.06208). It presumes that no unseen completion has a higher reward.
    """
    rng = np.random.default_rng(seed_for("bootstrap", "unseen", seed, *which))
    once = rng.standard_exponential((number, len(base.rest))) * base.rest_weight
    more = rng.standard_exponential((number, 1)) * base.heaviest
    twice = np.sqrt(2) * (rng.standard_exponential((number, len(base.twice))) - 1)
    known = np.concatenate([once, twice * base.twice_weight], axis=1)
    reward = base.reward[np.concatenate([base.rest, base.twice])]
    exact = np.exp(log_z(base.mass, base.reward, strength) - strength * base.highest)
    exact_mean = base.mass @ base.reward
    found = []
    for weight, rewards in (
        (known, reward),
        (np.concatenate([known, more], axis=1), np.append(reward, base.highest)),
    ):
        # with only a few of them the weights may hardly add up to anything
        total = np.maximum(weight.sum(axis=1, keepdims=True), 0.05)
        mass = base.rest_mass * weight / total
        rest = mass @ np.exp(np.multiply.outer(rewards - base.highest, strength))
        z = exact + np.maximum(rest, 0.0)
        with np.errstate(divide="ignore"):
            found.append(np.log(z) + strength * base.highest)
        found.append(exact_mean + mass @ rewards)
    low, mean_low, high, mean_high = found
    return low, high, mean_low, mean_high


def limit_at(
    kl: npt.ArrayLike, strength: Array, log_z_at: Array, highest: float
) -> tuple[Array, Array]:
    """R*(K) = min_λ (K + log Z)/λ and the λ that attains it.

    Args:
        kl: K ≥ 0 in nats, broadcast against the leading dimensions of ``log_z_at``.
        strength: (grid,) log-spaced λ.
        log_z_at: (…, grid) log Z at each λ.
        highest: the highest reward seen, which no policy is taken to exceed.
    """
    bound = (np.asarray(kl, dtype=float)[..., None] + log_z_at) / strength
    least = np.clip(bound.argmin(axis=-1), 1, len(strength) - 2)[..., None]
    before, at, after = (
        np.take_along_axis(bound, least + step, axis=-1)[..., 0] for step in (-1, 0, 1)
    )
    # parabola through the least point and its neighbours, in log λ
    with np.errstate(invalid="ignore"):  # −∞ where nothing has any mass: the result is nan there
        bend = before - 2 * at + after
    shift = np.divide(before - after, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    shift = np.clip(shift, -1, 1)
    with np.errstate(invalid="ignore"):
        value = at - (before - after) * shift / 2 + bend * shift**2 / 2
    spacing = np.log(strength[1] / strength[0])
    return np.minimum(value, highest), strength[least[..., 0]] * np.exp(shift * spacing)


def ends(low: Array, point: Array, high: Array) -> tuple[Array, Array]:
    """95 % interval from replicates (replicates, …) of its lower and upper end; it holds the point."""
    lower, upper = np.quantile(low, 0.025, axis=0), np.quantile(high, 0.975, axis=0)
    return np.minimum(lower, point), np.maximum(upper, point)


def limit_rows(base: Base, number: int, seed: int, largest_kl: float) -> list[Row]:
    """Rows of frontier/limit.csv, from weak to strong until K passes ``largest_kl`` (nats)."""
    strength = strengths(base.reward)
    reached = limit(base, 1 / strength).kl  # increases with λ
    span = np.interp([_SMALLEST_KL, min(largest_kl, 0.99 * reached[-1])], reached, strength)
    if reached[-1] <= _SMALLEST_KL:
        span = strength[[0, -1]]
    points = limit(base, 1 / np.geomspace(span[0], span[1], _POINTS))
    again = replicates(base, strength, number, seed)
    each = [
        limit_at(points.kl, strength, values[:, None, :], base.highest)[0]
        for values in (again.log_z_low, again.log_z_high)
    ]  # (replicates, points)
    low, high = ends(each[0], points.reward, each[1])
    certified = limit_at(points.kl, strength, certified_log_z(base, strength), base.highest)[0]
    return [
        {
            "beta": points.beta[i],
            "log_z": points.log_z[i],
            "kl_policy_to_base_nats": points.kl[i],
            "reward": points.reward[i],
            "low": low[i],
            "high": high[i],
            "certified": certified[i] if certified[i] > base.mean else None,
            "exact_share": points.seen[i],
        }
        for i in range(_POINTS)
    ]
