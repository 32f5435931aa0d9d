"""Who has the higher reward at equal KL(policy‖base): policies, best-of-n, prompting, variants.

Each policy's rivals are held at the KL of that very policy, seed by seed. Best-of-n and prompting
are known at every KL (frontier/policies.csv). A variant is known at its strengths; between two of
them its share of the attainable gain is interpolated along the KL axis, where it changes little;
times the attainable gain at that KL it gives the reward. Nothing is extrapolated.

The interval of a difference has two parts: between the seeds, and the error of a rival that all
seeds share. Its degrees of freedom are by Welch and Satterthwaite.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tinycats.files.tables import Row, read_table
from tinycats.frontier.columns import POLICIES, PROMPTED
from tinycats.layout import ModelId
from tinycats.tables.intervals import over_seeds, p_value, t_interval, with_verdicts
from tinycats.tables.reading import number, read
from tinycats.tables.summaries import model_of

BEST_OF_N, PROMPTING, VARIANT = "best_of_n", "prompted", "variant"


class Place(NamedTuple):
    """A KL, and what is known there: see frontier/columns.py."""

    kl: float
    limit: float
    base: float  # the base's mean reward
    beta: float

    def share(self, reward: float) -> float:
        """Share of the attainable gain."""
        gain = self.limit - self.base
        return (reward - self.base) / gain if gain > 1e-9 else math.nan

    def reward(self, share: float) -> float:
        return self.base + share * (self.limit - self.base)

    def regret(self, reward: float) -> float:
        """KL to the best policy of this KL, nats."""
        return (self.limit - reward) / self.beta


class Measured(NamedTuple):
    """A policy's reward at its place, and the reward and error of best-of-n and of prompting."""

    place: Place
    reward: float
    rivals: Mapping[str, tuple[float, float]]


#: (variant, KL factor) → seed → what was measured
Policies = dict[ModelId, dict[int, Measured]]
#: seed → place, reward of the one, reward of the other
Pairs = dict[int, tuple[Place, float, float]]


def _policies(path: str | Path) -> Policies:
    found: Policies = defaultdict(dict)
    for row in read(path, POLICIES):
        value = {name: number(row, name, path) for name in POLICIES if name != "variant"}
        model = model_of({"model": "policy", **row}, path)
        place = Place(
            *(value[n] for n in ("kl_policy_to_base_nats", "limit", "base_reward", "beta"))
        )
        rivals = {
            rival: (value[f"{rival}_reward"], value[f"{rival}_error"])
            for rival in (BEST_OF_N, PROMPTING)
        }
        found[model.without_seed][int(value["seed"])] = Measured(place, value["reward"], rivals)
    return found


def _share_at(policies: Policies, variant: str, seed: int, kl: float) -> float:
    """A variant's share of the attainable gain at a KL, from its strengths around it; else nan."""
    points = sorted(
        (own[seed].place.kl, own[seed].place.share(own[seed].reward))
        for model, own in policies.items()
        if model.variant == variant and seed in own
    )
    for (before, low), (after, high) in itertools.pairwise(points):
        if before <= kl <= after:
            part = (kl - before) / (after - before) if after > before else 0.0
            return low + part * (high - low)
    return math.nan


def _row(variant: str, factor: str, rival: str, other: str, pairs: Pairs, error: float) -> Row:
    """One comparison; ``error`` is the rival's own, the same for all seeds.

    Without seeds where the rival is not known at the KL of one of them: over the others alone, a
    policy's mean would differ from comparison to comparison.
    """
    known = [pair for _, pair in sorted(pairs.items())]
    if any(math.isnan(ours - theirs) for _, ours, theirs in known):
        known = []
    each = [ours - theirs for _, ours, theirs in known]
    if math.isnan(error):
        error = 0.0

    def mean(values: Iterator[float]) -> float:
        return t_interval(values).mean

    return {
        "variant": variant,
        "kl_factor": factor,
        "rival": rival,
        "rival_variant": other,
        "kl_policy_to_base_nats": mean(place.kl for place, _, _ in known),
        "reward": mean(ours for _, ours, _ in known),
        "rival_reward": mean(theirs for _, _, theirs in known),
        "share_of_attainable_gain": mean(place.share(ours) for place, ours, _ in known),
        "rival_share": mean(place.share(theirs) for place, _, theirs in known),
        "regret_nats": mean(place.regret(ours) for place, ours, _ in known),
        "rival_regret_nats": mean(place.regret(theirs) for place, _, theirs in known),
        **over_seeds(each, error, check=False).columns(),
        "p_value": p_value(each, error),
    }


def equal_kl(policies_path: str | Path, prompted_path: str | Path) -> list[Row]:
    """Rows of tables/equal_kl.csv.

    Args:
        policies_path: frontier/policies.csv.
        prompted_path: frontier/prompted.csv.
    """
    policies = _policies(policies_path)
    variants = list(dict.fromkeys(m.variant for m in sorted(policies, key=ModelId.order)))
    rows = []
    for model in sorted(policies, key=ModelId.order):
        own, who = policies[model], (model.variant, model.kl_factor)
        for rival in (BEST_OF_N, PROMPTING):
            pairs = {s: (m.place, m.reward, m.rivals[rival][0]) for s, m in own.items()}
            error = t_interval(m.rivals[rival][1] for m in own.values()).mean
            rows.append(_row(*who, rival, "", pairs, error))
        for other in variants:
            if other != model.variant:
                pairs = {
                    s: (
                        m.place,
                        m.reward,
                        m.place.reward(_share_at(policies, other, s, m.place.kl)),
                    )
                    for s, m in own.items()
                }
                rows.append(_row(*who, VARIANT, other, pairs, 0.0))
    seeds = sorted({seed for own in policies.values() for seed in own})
    for prompted in read_table(prompted_path, PROMPTED):  # none where the text is too long
        value = {name: number(prompted, name, prompted_path) for name in PROMPTED if name != "text"}
        columns = ("kl_policy_to_base_nats", "limit", "base_reward", "beta")
        place = Place(*(value[name] for name in columns))
        for variant in variants:
            shares = {seed: _share_at(policies, variant, seed, place.kl) for seed in seeds}
            pairs = {s: (place, place.reward(p), value["reward"]) for s, p in shares.items()}
            rows.append(_row(variant, "", PROMPTING, "", pairs, value["reward_error"]))
    return with_verdicts([row for row in rows if row["seeds"]], lambda row: "up")
