"""What a story may begin with at a given KL: the optimal policy, and best of n.

Both are distributions on the completions that the study has seen, whose weights w stand for the base
model p (:attr:`tinycats.frontier.limit.KnownBase.weight`). With r the reward:

    optimal      π*(y) ∝ w(y) · exp(r(y)/β)
    best of n    π(y) = w(y) / W(r(y)) · [F(r(y))ⁿ − F(r(y)⁻)ⁿ]

where F is the distribution function of the reward under w, F(a⁻) its value just below a, and W(a) =
F(a) − F(a⁻) the weight of the level a: the best of n draws has reward a with the probability in
brackets, and within a level it is divided as p divides it (Beirami et al., arXiv 2401.01879). The
formula holds for every n ≥ 1, also between whole numbers. The KL of both to w, which estimates their
KL(π‖p), grows with 1/β and with n, so each is found at a given KL by a search for a root. Of several
prompts each has its own distribution, of one β or one n for all, and the KL is the mean over prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from tinycats.completions.columns import SEARCHED
from tinycats.files.tables import Row, read_table
from tinycats.frontier.limit import KnownBase, known_base, strengths
from tinycats.frontier.samples import read_samples
from tinycats.layout import OPTIMAL_PROMPTED, ModelId
from tinycats.program import UserError
from tinycats.stories.openings import Openings

Array = npt.NDArray[np.float64]

#: The largest n among which best of n is sought: its KL is 27 nats, or the most that the pool has.
_LARGEST_N = 1e12


@dataclass(frozen=True)
class Support:
    """The completions seen, each field ``(completions,)``.

    log_base: log w
    reward: of each
    level: place of the reward among the distinct rewards, ascending
    """

    log_base: Array
    reward: Array
    level: npt.NDArray[np.int64]

    @classmethod
    def of(cls, base: KnownBase) -> Support:
        weight = base.weight
        log_base = np.log(weight / weight.sum())
        return cls(log_base, base.reward, np.unique(base.reward, return_inverse=True)[1])

    def optimal(self, strength: float) -> Array:
        """log π* at λ = 1/β, ``(completions,)``."""
        log_mass = self.log_base + strength * self.reward
        return np.asarray(log_mass - np.logaddexp.reduce(log_mass))

    def best_of_n(self, n: float) -> Array:
        """log π of best of n, ``(completions,)``."""
        weight = np.bincount(self.level, weights=np.exp(self.log_base))
        at_most, above = weight.cumsum(), weight[::-1].cumsum()[::-1] - weight
        # near 1 by what lies above, which is then exact
        log_f = np.where(above < 0.5, np.log1p(-above), np.log(at_most))
        # log [F(a)ⁿ − F(a⁻)ⁿ] = n log F(a) + log[1 − (1 − W(a)/F(a))ⁿ]
        with np.errstate(divide="ignore"):  # log 0 at the lowest level, where F(a⁻) = 0
            ratio = np.log1p(-np.minimum(weight / np.exp(log_f), 1.0))
        kept = n * log_f + np.log(-np.expm1(n * ratio))
        return np.asarray((kept - np.log(weight))[self.level] + self.log_base)

    def kl(self, log_mass: Array) -> float:
        """Σ π (log π − log w), nats."""
        return float(np.exp(log_mass) @ (log_mass - self.log_base))

    def describe(self, log_mass: Array) -> Row:
        """KL, reward and effective number of completions of a distribution, 1 / Σ π²."""
        p = np.exp(log_mass)
        return {
            "kl_policy_to_base_nats": self.kl(log_mass),
            "reward": float(p @ self.reward),
            "effective_completions": float(1 / (p**2).sum()),
        }


def at_kl(kl: float, low: float, high: float, kl_of: Callable[[float], float]) -> float:
    """The value between ``low`` and ``high`` at which ``kl_of``, which grows, is ``kl``; else an end."""
    if kl_of(low) >= kl:
        return low
    if kl_of(high) <= kl:
        return high
    root = brentq(lambda log: kl_of(float(np.exp(log))) - kl, np.log(low), np.log(high), xtol=1e-9)
    return float(np.exp(root))


def opening_rows(
    supports: Sequence[Support],
    policies: Sequence[Mapping[str, object]],
    prompted_kl: float | None,
) -> list[Row]:
    """Rows of frontier/openings.csv.

    Args:
        supports: of each prompt.
        policies: rows of frontier/policies.csv, of which each has its optimal policy and best of n.
        prompted_kl: KL of the prompted base, which has its optimal policy; ``None`` without it.
    """
    grid = strengths(np.concatenate([support.reward for support in supports]))
    # between λ and n that have hardly any KL and those that have as much as the pool allows
    ends = {"optimal": (grid[0] / 1e3, grid[-1]), "best_of_n": (1.0, _LARGEST_N)}
    functions = {"optimal": Support.optimal, "best_of_n": Support.best_of_n}
    wanted: list[tuple[ModelId, str, float]] = []
    for row in policies:
        for kind in functions:
            who = ModelId.from_row({**row, "model": kind})
            wanted.append((who, kind, float(str(row["kl_policy_to_base_nats"]))))
    if prompted_kl is not None:
        wanted.append((OPTIMAL_PROMPTED, "optimal", prompted_kl))
    rows = []
    for who, kind, kl in wanted:

        def described(value: float, kind: str = kind) -> Row:
            each = [own.describe(functions[kind](own, value)) for own in supports]
            return {name: float(np.mean([row[name] for row in each])) for name in each[0]}

        found = at_kl(kl, *ends[kind], lambda value: described(value)["kl_policy_to_base_nats"])
        rows.append(
            {
                **who.columns(),
                "wanted_kl_nats": kl,
                "beta": 1 / found if kind == "optimal" else "",
                "n": found if kind == "best_of_n" else "",
                **described(found),
            }
        )
    return rows


def read_supports(
    path: str | Path, searched: str | Path
) -> dict[str, tuple[npt.NDArray[np.int64], Support]]:
    """The completions seen, from completions/log_probs.safetensors and searched.csv.

    Returns:
        Prompt → their token ids, ``(completions, T)``, −1 after the end; and the support.

    Raises:
        UserError: a file is not one of the completions stage.
    """
    from safetensors import safe_open

    samples = read_samples(path, searched)
    with safe_open(path, "numpy") as file:
        if "token_ids" not in file.keys():  # noqa: SIM118 (no mapping)
            raise UserError(f"{path}: lacks token_ids; the completions stage writes them")
        drawn, prompt = file.get_tensor("token_ids"), file.get_tensor("prompt")
        prompts = json.loads(file.metadata()["prompts"])
    rows = read_table(searched, SEARCHED)
    supports = {}
    for index, (text, own) in enumerate(zip(prompts, samples.of_prompts(), strict=True)):
        ids = [[int(i) for i in row["token_ids"].split()] for row in rows if row["prompt"] == text]
        found = np.full((len(ids), drawn.shape[1]), -1, dtype=np.int64)
        for row, tokens in zip(found, ids, strict=True):
            row[: len(tokens)] = tokens
        support = Support.of(known_base(own))
        supports[text] = np.concatenate([drawn[prompt == index], found]), support
    return supports


def distribution(
    token_ids: npt.NDArray[np.int64], support: Support, row: Mapping[str, str]
) -> Openings:
    """The openings that a row of frontier/openings.csv describes.

    Args:
        token_ids, support: as :func:`read_supports` gives them.

    Raises:
        UserError: the row has neither β nor n.
    """
    try:
        if row["n"]:
            log_mass = support.best_of_n(float(row["n"]))
        else:
            log_mass = support.optimal(1 / float(row["beta"]))
    except ValueError as error:
        raise UserError(f"frontier/openings.csv: beta or n is no number ({error})") from None
    order = np.lexsort(token_ids.T[::-1])
    return Openings(token_ids[order], log_mass[order], support.log_base[order])
