"""Each policy against the limit at its own KL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinycats.files.tables import Row
from tinycats.frontier.limit import (
    KnownBase,
    certified_log_z,
    ends,
    limit_at,
    log_z,
    replicates,
    strengths,
)
from tinycats.frontier.samples import Drawn
from tinycats.layout import ModelId
from tinycats.random_numbers import seed_for

#: reward units below which there is nothing to attain: KL 0, or equal rewards
_NOTHING = 1e-9


def policy_rows(
    base: KnownBase, number: int, seed: int, who: Sequence[Row], drawn: Sequence[Drawn]
) -> list[Row]:
    """Rows of frontier/policies.csv.

    Args:
        number, seed: of the replicates.
        who: description (variant, kl_factor, seed) of each policy.
        drawn: its completions.
    """
    strength = strengths(base.reward)
    point = log_z(base.weight, base.reward, strength)
    certified = certified_log_z(base, strength)
    again = replicates(base, strength, number, seed)
    rows = []
    for model, own in zip(who, drawn, strict=True):
        reward = own.mean(own.reward)
        kl = max(own.mean(own.kl_policy_to_base), 0.0)
        best, _ = limit_at(kl, strength, point, base.highest)
        # the policy's own reward and KL are estimates too: its completions are drawn again
        name = ModelId.from_row(model).stem
        rng = np.random.default_rng(seed_for("bootstrap", "own completions", seed, name))
        total = own.counts.sum()
        counts = rng.multinomial(total, own.counts / total, size=number)
        reward_again = counts @ own.reward / total
        kl_again = np.maximum(counts @ own.kl_policy_to_base / total, 0.0)
        low, high = (
            limit_at(kl_again, strength, values, base.highest)[0]
            for values in (again.log_z_low, again.log_z_high)
        )
        limit_low, limit_high = ends(low, best, high)
        proven = limit_at(kl, strength, certified, base.highest)[0]
        row: Row = {
            **{name: model[name] for name in ("variant", "kl_factor", "seed")},
            "reward": reward,
            "kl_policy_to_base_nats": kl,
            "kl_base_to_policy_nats": own.mean(own.kl_base_to_policy),
            "limit": float(best),
            "limit_low": float(limit_low),
            "limit_high": float(limit_high),
            "limit_certified": float(proven) if proven > base.mean else None,
            "gap": float(best) - reward,
            "share_of_attainable_gain": None,
            "share_low": None,
            "share_high": None,
        }
        # the base's mean is in every share, and its error is the same in all
        gain = float(best) - base.mean
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
        rows.append(row)
    return rows
