"""What a policy is compared with at its own KL: best-of-n, and the base model prompted.

Prompted, the base model is made to begin with the concept, in a share w of the completions. If the
forced text has probability q under the base model, prompted completions are its own, weighted by
1/q, and KL(prompted‖base) = −log q. With a share w the density over the base's is w/q + 1 − w where
the text stands and 1 − w elsewhere, so

    KL = (w + (1 − w)·q)·log(w/q + 1 − w) + (1 − w)·(1 − q)·log(1 − w)
    reward = w·R_prompted + (1 − w)·R_base

Of several prompts, a share w of each has the mean of these over the prompts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tinycats.files.tables import Row
from tinycats.frontier.best_of_n import Candidates


class Prompted(NamedTuple):
    """The base model, prompted: reward, its standard error, KL of each prompt to the base in nats."""

    reward: float
    error: float
    kls: tuple[float, ...]

    @property
    def kl(self) -> float:
        return math.fsum(self.kls) / len(self.kls)

    def kl_at(self, share: float) -> float:
        """KL to the base, nats, if a share of the completions is prompted."""
        return math.fsum(kl_of_share(share, kl) for kl in self.kls) / len(self.kls)


def kl_of_share(share: float, kl: float) -> float:
    """KL to the base, nats, if a share of the completions is prompted; ``kl`` if all are."""
    q, other = math.exp(-kl), 1 - share
    some = share + other * q
    rest = other * (1 - q) * math.log(other) if other > 0 else 0.0
    return some * (math.log(some) + kl) + rest  # some / q = w/q + 1 − w


def share_at(kl: float, prompted: Prompted) -> float:
    """The share to prompt for a KL of ``kl`` nats, of at most that of prompting all."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:  # the KL increases with the share
        middle = (low + high) / 2
        low, high = (middle, high) if prompted.kl_at(middle) <= kl else (low, middle)
    return high


def columns(kl: float, pool: Candidates, prompted: Prompted | None) -> Row:
    """The columns of frontier/policies.csv that say what best-of-n and prompting reach at this KL.

    Empty where they do not reach it: best-of-n beyond ``pool.most``, prompting beyond all; and where
    the base is not prompted.
    """
    row: Row = dict.fromkeys(
        ("best_of", "best_of_n_reward", "best_of_n_error",
         "prompted_share", "prompted_reward", "prompted_error")
    )  # fmt: skip
    if best := pool.at(kl):
        row |= {"best_of": best.n, "best_of_n_reward": best.reward, "best_of_n_error": best.error}
    if prompted and kl <= prompted.kl:
        share, base = share_at(kl, prompted), pool.of(1)
        row |= {
            "prompted_share": share,
            "prompted_reward": share * prompted.reward + (1 - share) * base.reward,
            "prompted_error": math.hypot(share * prompted.error, (1 - share) * base.error),
        }
    return row
