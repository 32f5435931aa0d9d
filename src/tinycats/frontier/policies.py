"""Each policy against the limit at its own KL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinycats.files.tables import Row
from tinycats.frontier.limit import (
    Base,
    certified_log_z,
    ends,
    limit_at,
    mean_log_z,
    replicates,
    strengths,
)
from tinycats.frontier.samples import Drawn
from tinycats.layout import ModelId
from tinycats.random_numbers import seed_for

#: reward units below which there is nothing to attain: KL 0, or equal rewards
_NOTHING = 1e-9


class AgainstLimit:
    """Holds a model's completions against the limit at its KL.

    Args:
        number, seed: of the replicates.
    """

    def __init__(self, base: Base, number: int, seed: int) -> None:
        self.base, self.number, self.seed = base, number, seed
        self.strength = strengths(base.reward)
        self.point = mean_log_z(base, self.strength)
        self.certified = certified_log_z(base, self.strength)
        self.again = replicates(base, self.strength, number, seed)

    def row(self, name: str, own: Drawn) -> Row:
        """The columns that frontier/policies.csv and prompted.csv share.

        Args:
            name: of the model, for its random numbers.
            own: its completions.
        """
        base, strength, again = self.base, self.strength, self.again
        reward = own.mean(own.reward)
        kl = max(own.mean(own.kl_policy_to_base), 0.0)
        best, inverse = (float(v) for v in limit_at(kl, strength, self.point, base.highest))
        # the model's own reward and KL are estimates too: its completions are drawn again
        rng = np.random.default_rng(seed_for("bootstrap", "own completions", self.seed, name))
        total, counts = own.counts.sum(), own.again(self.number, rng)
        reward_again = counts @ own.reward / total
        kl_again = np.maximum(counts @ own.kl_policy_to_base / total, 0.0)
        (low, inverse_low), (high, inverse_high) = (
            limit_at(kl_again, strength, values, base.highest)
            for values in (again.log_z_low, again.log_z_high)
        )
        limit_low, limit_high = ends(low, np.asarray(best), high)
        proven = limit_at(kl, strength, self.certified, base.highest)[0]
        row: Row = {
            "reward": reward,
            "kl_policy_to_base_nats": kl,
            "limit": best,
            "limit_low": float(limit_low),
            "limit_high": float(limit_high),
            "limit_certified": float(proven) if proven > base.mean else None,
            "gap": best - reward,
            "base_reward": base.mean,
            **dict.fromkeys(
                ("share_of_attainable_gain", "share_low", "share_high",
                 "beta", "regret_nats", "regret_low", "regret_high")
            ),
        }  # fmt: skip
        # the base's mean is in every share, and its error is the same in all
        gain = best - base.mean
        gains = low - again.mean_low, high - again.mean_high
        if gain > _NOTHING:
            share = row["share_of_attainable_gain"] = (reward - base.mean) / gain
        if gain > _NOTHING and all((values > _NOTHING).all() for values in gains):
            each = [
                (reward_again - mean) / values
                for mean, values in zip((again.mean_high, again.mean_low), gains[::-1], strict=True)
            ]
            share_low, share_high = ends(each[0], np.asarray(share), each[1])
            row |= {"share_low": float(share_low), "share_high": float(share_high)}
        if strength[1] < inverse < strength[-2]:
            regret = inverse * (best - reward)
            each = [inverse_low * (low - reward_again), inverse_high * (high - reward_again)]
            regret_low, regret_high = ends(each[0], np.asarray(regret), each[1])
            row |= {"beta": 1 / inverse, "regret_nats": regret}
            row |= {"regret_low": float(regret_low), "regret_high": float(regret_high)}
        return row


def policy_rows(against: AgainstLimit, who: Sequence[Row], drawn: Sequence[Drawn]) -> list[Row]:
    """Rows of frontier/policies.csv, without the columns of :mod:`tinycats.frontier.rivals`.

    Args:
        who: description (variant, kl_factor, seed) of each policy.
        drawn: its completions.
    """
    return [
        {
            **{name: model[name] for name in ("variant", "kl_factor", "seed")},
            **against.row(ModelId.from_row(model).stem, own),
            "kl_base_to_policy_nats": own.mean(own.kl_base_to_policy),
        }
        for model, own in zip(who, drawn, strict=True)
    ]
