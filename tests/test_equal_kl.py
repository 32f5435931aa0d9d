"""Policies, best-of-n, prompting and variants at equal KL, against enumeration of a toy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_frontier import Toy, exact_best_of_n, rows_of

from tinycats.files.tables import write_table
from tinycats.frontier import rivals
from tinycats.frontier.best_of_n import Pool
from tinycats.frontier.columns import POLICIES, PROMPTED
from tinycats.tables.equal_kl import equal_kl
from tinycats.tables.intervals import p_value, t_interval


def test_best_of_n_at_a_kl_is_a_policy_of_that_kl() -> None:
    toy = Toy(1)
    counts = np.random.default_rng(0).multinomial(200_000, toy.p)
    pool = Pool(toy.r, counts)
    assert pool.at(0.0) == pool.of(1)
    for kl in (0.3, 1.0, 2.0):
        best = pool.at(kl)
        assert best is not None
        assert best.kl == pytest.approx(kl)
        n, part = int(best.n), best.n % 1
        below, above = exact_best_of_n(toy, n), exact_best_of_n(toy, n + 1)
        assert best.reward == pytest.approx(below[0] + part * (above[0] - below[0]), abs=3e-3)
        assert below[1] - 0.01 <= kl <= above[1] + 0.01
        assert 0 < best.error < 0.002
    few = Pool(toy.r, np.minimum(counts, 3))
    assert few.at(few.of(few.most).kl + 1e-6) is None


def test_prompting_a_share_has_the_kl_and_reward_of_the_mixture() -> None:
    toy = Toy(2)
    text = np.array([word[0] == 3 for word in toy.words])
    q = toy.p[text].sum()
    all_of_it = np.where(text, toy.p / q, 0.0)
    prompted = rivals.Prompted(float(all_of_it @ toy.r), 0.01, (-math.log(q),))
    pool = Pool(toy.r, np.random.default_rng(0).multinomial(400_000, toy.p))
    for share in (0.0, 0.2, 0.7, 1.0):
        mixture = share * all_of_it + (1 - share) * toy.p
        kl = toy.kl(mixture)
        assert rivals.kl_of_share(share, prompted.kl) == pytest.approx(kl, abs=1e-12)
        row = rivals.columns(min(kl, prompted.kl), pool, prompted)
        assert row["prompted_share"] == pytest.approx(share, abs=1e-5)
        assert row["prompted_reward"] == pytest.approx(mixture @ toy.r, abs=1e-3)
    assert row["prompted_error"] == pytest.approx(0.01)
    assert rivals.columns(prompted.kl + 1e-6, pool, prompted)["prompted_reward"] is None


def test_regret_is_the_kl_to_the_best_policy_of_the_same_kl() -> None:
    toy = Toy(8)
    half = (toy.p + toy.best(0.02)) / 2
    _, rows = rows_of(toy, [half, toy.best(0.05)])
    for policy, row in zip((half, toy.best(0.05)), rows, strict=True):
        best = toy.best(row["beta"])
        assert toy.kl(best) == pytest.approx(toy.kl(policy), rel=0.02)
        regret = float(policy @ np.log(policy / best))
        assert row["regret_low"] - 1e-3 <= regret <= row["regret_high"] + 1e-3
        assert row["regret_nats"] == pytest.approx(regret, abs=0.1)
    assert rows[0]["regret_nats"] > 0.5 > 0.1 > abs(rows[1]["regret_nats"])


BASE, GAIN = 0.1, 0.08  # the limit of these tables is 0.1 + 0.08 nats per nat


def write(
    folder: Path, policies: dict[tuple[str, str], list[tuple[float, float]]]
) -> tuple[Path, Path]:
    """Tables of the frontier: (variant, KL factor) → for each seed KL and share of the gain."""

    def against(kl: float, share: float) -> dict[str, Any]:
        limit = BASE + GAIN * kl
        known = {"reward": BASE + share * GAIN * kl, "limit": limit, "base_reward": BASE}
        return known | {
            "kl_policy_to_base_nats": kl,
            "share_of_attainable_gain": share,
            "beta": 0.05,
        }

    rows = [
        {"variant": variant, "kl_factor": factor, "seed": seed, **against(kl, share)}
        | {"best_of_n_reward": BASE + 0.7 * GAIN * kl, "best_of_n_error": 0.001}
        for (variant, factor), own in policies.items()
        for seed, (kl, share) in enumerate(own)
    ]
    paths = folder / "policies.csv", folder / "prompted.csv"
    prompted = [{"text": " a cat", "reward_error": 0.001, **against(3.0, 0.9)}]
    for path, columns, found in zip(paths, (POLICIES, PROMPTED), (rows, prompted), strict=True):
        write_table(path, [dict.fromkeys(columns) | row for row in found], columns)
    return paths


def test_rivals_are_held_at_the_policys_own_kl(tmp_path: Path) -> None:
    noise = (0.0, 0.01, -0.01, 0.005)
    policies = {
        ("blog", "6000"): [(2.0 + e, 0.8 + e) for e in noise],
        ("a", "6000"): [(1.0 + e, 0.9 + e) for e in noise],
        ("a", "1500"): [(4.0 - e, 0.6 + e) for e in noise],
    }
    rows = equal_kl(*write(tmp_path, policies))
    found = {(r["variant"], r["kl_factor"], r["rival"], r["rival_variant"]): r for r in rows}
    # blog has one strength, so nobody is compared with it between strengths
    assert set(found) == {
        ("blog", "6000", "best_of_n", ""),
        ("a", "6000", "best_of_n", ""),
        ("a", "1500", "best_of_n", ""),
        ("blog", "6000", "variant", "a"),
        ("a", "", "prompted", ""),
    }
    row = found["blog", "6000", "variant", "a"]
    kl = [2.0 + e for e in noise]
    # of the same seed: at 1 nat 0.9 and at 4 nats 0.6
    theirs = [0.9 + e - 0.3 * (k - 1 - e) / (3 - 2 * e) for k, e in zip(kl, noise, strict=True)]
    each = [GAIN * k * (0.8 + e - t) for k, e, t in zip(kl, noise, theirs, strict=True)]
    assert row["mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert (row["low"], row["high"]) == pytest.approx(t_interval(each)[1:3], abs=1e-6)
    assert row["rival_share"] == pytest.approx(np.mean(theirs), abs=1e-6)
    assert row["rival_regret_nats"] - row["regret_nats"] == pytest.approx(row["mean"] / 0.05)
    row = found["blog", "6000", "best_of_n", ""]
    each = [GAIN * k * (0.1 + e) for k, e in zip(kl, noise, strict=True)]
    assert row["mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert row["p_value"] == pytest.approx(p_value(each, 0.001), rel=1e-3)
    assert row["verdict"] == "better"
    assert row["rival_share"] == pytest.approx(0.7)
    # prompting has 0.9 at 3 nats, where a has some 0.7
    row = found["a", "", "prompted", ""]
    assert row["rival_share"] == pytest.approx(0.9)
    assert row["share_of_attainable_gain"] == pytest.approx(0.7, abs=0.01)
    assert row["verdict"] == "worse"


def test_a_rival_that_some_seed_does_not_have_is_left_out(tmp_path: Path) -> None:
    """Over the other seeds alone, a policy's mean would not be that of its other comparisons."""
    policies = {
        ("blog", "6000"): [(2.0, 0.8), (5.0, 0.8)],
        ("a", "6000"): [(1.0, 0.9), (1.0, 0.9)],
        ("a", "1500"): [(4.0, 0.6), (4.0, 0.6)],
    }
    rows = equal_kl(*write(tmp_path, policies))
    assert [r for r in rows if (r["variant"], r["rival"]) == ("blog", "variant")] == []
    assert {row["seeds"] for row in rows} == {2}


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    (row,) = equal_kl(*write(tmp_path, {("blog", "0"): [(2.0, 0.5)]}))
    assert (row["seeds"], row["verdict"]) == (1, "undecided")
    assert math.isnan(row["low"])
    assert math.isnan(row["p_holm"])


def test_an_error_that_seeds_share_is_in_interval_and_p_value() -> None:
    """Four seeds against one rival that is off by 1 for all of them."""
    rng = np.random.default_rng(0)
    held, wrong, blind = 0, 0, 0
    for _ in range(1000):
        values = (rng.normal(size=4) + rng.normal()).tolist()
        interval = t_interval(values, shared=1.0)
        held += interval.low <= 0 <= interval.high
        wrong += p_value(values, 1.0) < 0.05
        blind += p_value(values) < 0.05
    assert held + wrong == 1000
    assert 930 <= held <= 985
    assert blind > 150
    assert t_interval([1.0, 1.0], 0.5).high == pytest.approx(1 + 0.5 * 1.959964)
