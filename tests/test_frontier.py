"""The limit, best-of-n and the gaps against exact enumeration of a toy with 216 completions."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinycats.completions.collector import pool_of
from tinycats.completions.columns import COMPLETIONS
from tinycats.files import atomic
from tinycats.files.tables import read_table, write_table
from tinycats.frontier import limit as frontier
from tinycats.frontier.best_of_n import best_of_n, powers_of_two
from tinycats.frontier.columns import ENOUGH_SAMPLES, POLICIES
from tinycats.program import UserError

ROOT = Path(__file__).parents[1]
VOCABULARY, TOKENS = 6, 3


class Toy:
    """Every completion of 3 tokens over a vocabulary of 6, with the base's probability and reward."""

    def __init__(self, seed: int, sharpness: float = 0.5) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        step = {
            prefix: rng.dirichlet(np.full(VOCABULARY, sharpness)) + 1e-6
            for length in range(TOKENS)
            for prefix in itertools.product(range(VOCABULARY), repeat=length)
        }
        self.words = list(itertools.product(range(VOCABULARY), repeat=TOKENS))
        p = np.array(
            [math.prod(step[word[:i]][word[i]] for i in range(TOKENS)) for word in self.words]
        )
        self.p = p / p.sum()
        self.r = rng.beta(2, 5, size=len(p))
        tied = rng.choice(len(p), size=90, replace=False)
        self.r[tied] = np.round(self.r[tied], 1)  # ties, some of them between likely completions

    def best(self, beta: float) -> np.ndarray:
        """π* ∝ p exp(r/β), summed plainly."""
        weight = self.p * np.exp(self.r / beta)
        return weight / weight.sum()

    def kl(self, policy: np.ndarray) -> float:
        some = policy > 0
        return float(np.sum(policy[some] * np.log(policy[some] / self.p[some])))

    def exact_limit(self, kl: float) -> float:
        """R*(K) by bisection on β."""
        low, high = 1e-3, 1e4  # in log β
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.kl(self.best(middle)) > kl else (low, middle)
        return float(self.best(high) @ self.r)

    def random_policy(self) -> np.ndarray:
        """A noisy tilt: of any strength, towards the reward, away from it, or neither."""
        tilt = self.rng.choice([-3.0, 0.0, 5.0, 20.0, 100.0]) * self.r
        weight = self.p * np.exp(
            tilt + self.rng.choice([0.0, 0.3, 2.0]) * self.rng.normal(size=216)
        )
        return weight / weight.sum()

    def samples(self, policies: list[np.ndarray], base_draws: int, draws: int, seed: int = 0):
        """What the completions stage would write: only completions that some model drew."""
        rng = np.random.default_rng(seed)
        models = [self.p, *policies]
        sizes = [base_draws] + [draws] * len(policies)
        counts = np.array([rng.multinomial(n, m) for n, m in zip(sizes, models, strict=True)])
        seen = counts.sum(axis=0) > 0
        who: list[dict[str, Any]] = [{"model": "base", "variant": "", "kl_factor": "", "seed": ""}]
        who += [
            {"model": "policy", "variant": "blog", "kl_factor": "6000", "seed": k}
            for k in range(len(policies))
        ]
        with np.errstate(divide="ignore"):
            log_prob = np.log(np.array(models))
        return frontier.Samples(who, log_prob[:, seen], self.r[seen], counts[:, seen])

    def drawn(self, samples: frontier.Samples, policies: list[np.ndarray]) -> list[frontier.Drawn]:
        """The policies' completions, each row carrying its policy's exact KLs."""
        return [
            frontier.Drawn(
                samples.counts[k],
                samples.reward,
                samples.log_prob[k],
                np.full(len(samples.reward), self.kl(policy)),
                np.full(len(samples.reward), float(np.sum(self.p * np.log(self.p / policy)))),
            )
            for k, policy in enumerate(policies, start=1)
        ]


def everything(toy: Toy, scale: int = 10**9) -> frontier.Pool:
    """A pool whose counts are the probabilities: the estimator without sampling error."""
    counts = np.maximum(np.round(toy.p * scale), 1).astype(np.int64)
    return frontier.Pool(toy.r, counts, np.log(toy.p) - np.log(counts / scale))  # rounding undone


@pytest.mark.parametrize("seed", range(5))
def test_limit_equals_enumeration_when_the_pool_is_the_distribution(seed):
    toy = Toy(seed)
    betas = np.geomspace(5.0, 0.01, 12)
    found = frontier.limit(everything(toy), betas)
    for i, beta in enumerate(betas):
        best = toy.best(beta)
        log_z = math.log(np.sum(toy.p * np.exp(toy.r / beta)))
        assert found.log_z[i] == pytest.approx(log_z, rel=1e-6)
        assert found.reward[i] == pytest.approx(best @ toy.r, rel=1e-6)
        assert found.kl[i] == pytest.approx(toy.kl(best), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_limit_at_a_kl_is_the_point_of_the_curve_with_that_kl(seed):
    toy = Toy(seed)
    pool = everything(toy)
    strength = frontier.strengths(toy.r)
    log_z = frontier.log_z(pool, strength)
    for kl in [1e-6, 1e-3, 0.05, 0.5, 1.0, 2.0, 3.0]:
        reward, best_strength = frontier.limit_at(kl, strength, log_z, toy.r.max())
        assert reward == pytest.approx(toy.exact_limit(kl), abs=2e-4)
        if 0.01 < kl < -math.log(toy.p[toy.r.argmax()]) - 0.5:
            assert frontier.limit(pool, 1 / best_strength).kl[0] == pytest.approx(kl, rel=0.02)
    beyond, _ = frontier.limit_at(50.0, strength, log_z, toy.r.max())
    assert beyond == toy.r.max()  # more KL than the best completion costs buys nothing more


@pytest.mark.parametrize("seed", range(40))
def test_every_policy_is_on_or_below_the_exact_limit(seed):
    toy = Toy(seed)
    pool = everything(toy)
    strength = frontier.strengths(toy.r)
    log_z = frontier.log_z(pool, strength)
    for _ in range(25):
        policy = toy.random_policy()
        limit, _ = frontier.limit_at(toy.kl(policy), strength, log_z, toy.r.max())
        assert policy @ toy.r <= limit + 2e-5
        # the bound holds at every strength, not only at the best one
        assert np.all(policy @ toy.r <= (toy.kl(policy) + log_z) / strength + 1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.2, 0.05, 0.02])
def test_the_best_policy_lies_on_the_limit(beta):
    toy = Toy(3)
    best = toy.best(beta)
    strength = frontier.strengths(toy.r)
    log_z = frontier.log_z(everything(toy), strength)
    limit, best_strength = frontier.limit_at(toy.kl(best), strength, log_z, toy.r.max())
    assert best @ toy.r == pytest.approx(float(limit), abs=1e-4)
    assert 1 / best_strength == pytest.approx(beta, rel=0.02)


def test_estimated_limit_is_within_its_band_as_often_as_stated():
    """95 % bands of both pools hold the exact limit, over 60 independent draws, at five KLs."""
    toy = Toy(11)
    policies = [toy.best(0.1), toy.best(0.03)]
    kls = np.array([0.01, 0.1, 0.3, 0.6, 1.0])
    exact = np.array([toy.exact_limit(kl) for kl in kls])
    held: dict[str, list[Any]] = {"base": [], "pooled": []}
    for seed in range(60):
        samples = toy.samples(policies, base_draws=3000, draws=500, seed=seed)
        bootstrap = frontier.Bootstrap(samples, 200, seed)
        strength = frontier.strengths(samples.reward)
        for name, pool, counts in (
            ("base", frontier.base_pool(samples), bootstrap.base()),
            ("pooled", frontier.pooled(samples), bootstrap.pooled()),
        ):
            highest = pool.reward[pool.counts > 0].max()
            reward, best = frontier.limit_at(kls, strength, frontier.log_z(pool, strength), highest)
            assert (frontier.limit(pool, 1 / best).effective_sample_size >= 200).all()
            again = frontier.log_z(pool, strength, counts)[:, None, :]
            low, high = frontier.band(reward, frontier.limit_at(kls, strength, again, highest)[0])
            held[name].append((low <= exact) & (exact <= high))
    for name, each in held.items():
        assert 0.88 <= np.mean(each) <= 0.99, (name, np.mean(each, axis=0))


def test_pooling_reaches_where_base_samples_do_not():
    toy = Toy(5, sharpness=0.3)
    policies = [toy.best(0.2), toy.best(0.05), toy.best(0.02)]
    samples = toy.samples(policies, base_draws=2000, draws=1000)
    kl = toy.kl(toy.best(0.02))
    strength = frontier.strengths(samples.reward)
    found = {}
    for name, pool in (
        ("base", frontier.base_pool(samples)),
        ("pooled", frontier.pooled(samples)),
    ):
        highest = pool.reward[pool.counts > 0].max()
        reward, best = frontier.limit_at(kl, strength, frontier.log_z(pool, strength), highest)
        found[name] = float(reward), frontier.limit(pool, 1 / best).effective_sample_size[0]
    exact = toy.exact_limit(kl)
    assert found["base"][1] < 200 < found["pooled"][1]
    assert abs(found["pooled"][0] - exact) < 0.005
    assert abs(found["pooled"][0] - exact) < abs(found["base"][0] - exact)


def test_weights_are_normalised_and_bounded_by_the_share_of_the_base():
    toy = Toy(6)
    samples = toy.samples([toy.best(0.05)], base_draws=4000, draws=1000)
    pool = frontier.pooled(samples)
    mean_weight = pool.counts @ np.exp(pool.log_weight) / pool.counts.sum()
    assert mean_weight == pytest.approx(1.0, abs=0.05)  # estimates Σ p = 1
    assert np.exp(pool.log_weight).max() <= 5000 / 4000 + 1e-12
    assert frontier.pooled(samples, without=1).log_weight == pytest.approx(0.0, abs=1e-12)


def test_effective_sample_size_falls_with_strength():
    toy = Toy(7)
    samples = toy.samples([], base_draws=5000, draws=0)
    found = frontier.limit(frontier.base_pool(samples), np.geomspace(100.0, 1e-4, 30))
    assert found.effective_sample_size[0] == pytest.approx(5000, rel=1e-3)
    assert (np.diff(found.effective_sample_size[:15]) < 0).all()
    # at the end only the draws of the highest reward are left
    highest = samples.reward == samples.reward.max()
    assert found.effective_sample_size[-1] == pytest.approx(samples.counts[0][highest].sum())
    assert (np.diff(found.kl) >= -1e-9).all()
    assert (np.diff(found.reward) >= -1e-12).all()


def exact_best_of_n(toy: Toy, n: int) -> tuple[float, float]:
    """Reward and KL of the best of n, from the probability of every completion."""
    chosen = np.zeros_like(toy.p)
    for level in np.unique(toy.r):
        at = toy.r == level
        most, less = toy.p[toy.r <= level].sum(), toy.p[toy.r < level].sum()
        chosen[at] = (most**n - less**n) * toy.p[at] / toy.p[at].sum()
    return float(chosen @ toy.r), toy.kl(chosen)


@pytest.mark.parametrize("seed", range(4))
def test_best_of_n_matches_enumeration(seed):
    """Mean of 30 pools against the exact values, within 4 standard errors (and 0.002)."""
    toy = Toy(seed)
    candidates = [1, 2, 4, 16, 64, 200]
    found = []
    for draw in range(30):
        samples = toy.samples([], base_draws=2000, draws=0, seed=draw)
        rows = best_of_n(samples.reward, samples.counts[0], candidates)
        found.append([(row["reward"], row["kl_policy_to_base_nats"]) for row in rows])
    pools: np.ndarray = np.array(found)  # (pools, n, 2)
    exact = np.array([exact_best_of_n(toy, n) for n in candidates])
    error = np.abs(pools.mean(axis=0) - exact)
    allowed = 4 * pools.std(axis=0, ddof=1) / math.sqrt(len(pools)) + np.array([0.002, 0.01])
    assert (error <= allowed).all(), (error, allowed)
    bound = np.log(candidates) - 1 + 1 / np.array(candidates)
    assert (exact[:, 1] <= bound + 1e-9).all()
    assert exact[-1, 1] < bound[-1] - 0.04  # ties cost: the usual bound is not the KL here


def test_best_of_n_without_ties_has_the_known_kl():
    """The KL is log n − (n−1)/n, whatever the reward."""
    rewards = np.random.default_rng(0).normal(size=1000)
    for row in best_of_n(rewards, np.ones(1000, dtype=int), [1, 2, 10, 100, 1000]):
        assert row["kl_policy_to_base_nats"] == pytest.approx(row["kl_bound_nats"], abs=1e-6)


def test_best_of_n_with_ties_by_hand():
    """Three draws with rewards 0, 1, 1, and one that was never drawn."""
    reward, counts = np.array([0.0, 5.0, 1.0]), np.array([1, 0, 2])
    rows = best_of_n(reward, counts, [1, 2, 3])
    # subsets of one: 0, 1, 1; of two: {0, 1}, {0, 1}, {1, 1}; of three: {0, 1, 1}
    assert [row["reward"] for row in rows] == pytest.approx([2 / 3, 1.0, 1.0])
    # the two upper places, exp(−1/2 − 1/3) and exp(−1/3), share the level that is always kept
    places = np.exp([-5 / 6, -1 / 3])
    expected = [0.0, math.log(np.mean(2 * places)), math.log(np.mean(3 * places**2))]
    assert [row["kl_policy_to_base_nats"] for row in rows] == pytest.approx(expected)
    with pytest.raises(ValueError, match="best of 4 needs"):
        best_of_n(reward, counts, [4])


def test_best_of_n_stops_at_a_tenth_of_the_pool():
    assert powers_of_two(2000) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert powers_of_two(20) == [1, 2]
    assert powers_of_two(3) == [1]


def rows_of(toy: Toy, policies: list[np.ndarray], base_draws: int = 5000, draws: int = 2000):
    samples = toy.samples(policies, base_draws, draws)
    bootstrap = frontier.Bootstrap(samples, 100, 0)
    return samples, frontier.policy_rows(samples, bootstrap, toy.drawn(samples, policies))


def test_gaps_match_enumeration_without_the_policy_in_the_pool():
    toy = Toy(8)
    half = (toy.p + toy.best(0.02)) / 2  # far from any tilt of the base
    policies = [toy.best(0.1), toy.best(0.04), half, toy.best(0.05)]
    samples, rows = rows_of(toy, policies)
    base = float(samples.counts[0] @ samples.reward / samples.counts[0].sum())
    for policy, row in zip(policies, rows, strict=True):
        exact = toy.exact_limit(toy.kl(policy))
        assert row["effective_sample_size"] >= ENOUGH_SAMPLES
        assert row["limit"] == pytest.approx(exact, abs=0.01)
        assert row["limit_low"] - 0.003 <= exact <= row["limit_high"] + 0.003
        assert row["gap"] == pytest.approx(exact - policy @ toy.r, abs=0.015)
        share = (policy @ toy.r - toy.p @ toy.r) / (exact - toy.p @ toy.r)
        assert row["share_of_attainable_gain"] == pytest.approx(share, abs=0.05)
        share = (row["reward"] - base) / (row["limit"] - base)
        assert row["share_of_attainable_gain"] == pytest.approx(share, rel=1e-9)
        assert row["gap"] == pytest.approx(row["limit"] - row["reward"], abs=1e-12)
        assert row["kl_policy_to_base_nats"] == pytest.approx(toy.kl(policy))
        assert (row["reward"] - base) <= row["limit_high"] - base + 0.005
    assert rows[2]["gap"] > 0.02 > rows[3]["gap"]  # the mixture is off the limit, π* is on it


def test_the_limit_of_a_policy_does_not_see_its_own_completions():
    toy = Toy(9)
    policies = [toy.best(0.1), toy.best(0.03)]
    samples, rows = rows_of(toy, policies)
    without = toy.samples(policies, 5000, 2000)
    counts = without.counts.copy()
    counts[2] = counts[2][::-1]  # other draws of the second policy
    counts[2][0] += 1
    changed = frontier.Samples(without.models, without.log_prob, without.reward, counts)
    again = frontier.policy_rows(
        changed, frontier.Bootstrap(changed, 100, 0), toy.drawn(samples, policies)
    )
    assert again[1]["limit"] == rows[1]["limit"]
    assert again[0]["limit"] != rows[0]["limit"]


def test_single_policy_is_measured_against_the_base_pool():
    toy = Toy(4)
    samples, rows = rows_of(toy, [toy.best(0.2)])
    strength = frontier.strengths(samples.reward)
    base = frontier.base_pool(samples)
    expected, _ = frontier.limit_at(
        toy.kl(toy.best(0.2)), strength, frontier.log_z(base, strength), 1.0
    )
    assert rows[0]["limit"] == pytest.approx(float(expected), abs=1e-12)


def test_policy_identical_to_the_base():
    toy = Toy(2)
    _, rows = rows_of(toy, [toy.p.copy()])
    assert rows[0]["kl_policy_to_base_nats"] == pytest.approx(0.0, abs=1e-12)
    assert abs(rows[0]["gap"]) < 0.01
    share = rows[0]["share_of_attainable_gain"]
    assert share is None or math.isfinite(share)


def test_equal_rewards_give_a_flat_limit_and_no_nan():
    toy = Toy(2)
    toy.r[:] = 0.25
    policies = [toy.random_policy()]
    samples, rows = rows_of(toy, policies)
    assert rows[0]["limit"] == pytest.approx(0.25)
    assert rows[0]["gap"] == pytest.approx(0.0)
    assert rows[0]["share_of_attainable_gain"] is None
    table = frontier.limit_rows(samples, frontier.Bootstrap(samples, 50, 0), 3.0)
    for row in table:
        assert row["reward"] == pytest.approx(0.25)
        assert row["low"] == pytest.approx(0.25)
        assert row["kl_policy_to_base_nats"] == pytest.approx(0.0, abs=1e-9)
        assert all(math.isfinite(value) for key, value in row.items() if key != "pool")
    candidates = best_of_n(samples.reward, samples.counts[0], [1, 8, 64])
    assert [row["reward"] for row in candidates] == pytest.approx([0.25] * 3)
    assert [row["kl_policy_to_base_nats"] for row in candidates] == pytest.approx([0.0] * 3)


def test_limit_table_spans_from_zero_beyond_the_largest_kl():
    toy = Toy(5)
    policies = [toy.best(0.1), toy.best(0.03)]
    samples = toy.samples(policies, base_draws=5000, draws=2000)
    largest = toy.kl(policies[1])
    rows = frontier.limit_rows(samples, frontier.Bootstrap(samples, 50, 0), 1.1 * largest)
    both = [[row for row in rows if row["pool"] == name] for name in ("base", "pooled")]
    assert sum(map(len, both)) == len(rows)
    for part in both:
        kl = [row["kl_policy_to_base_nats"] for row in part]
        assert kl == sorted(kl)
        assert kl[0] < 1e-3
        assert all(row["low"] <= row["reward"] <= row["high"] for row in part)
        assert [row["beta"] for row in part] == sorted((r["beta"] for r in part), reverse=True)
    assert both[1][-1]["kl_policy_to_base_nats"] > largest


def test_densities_of_hundreds_of_nats_do_not_overflow():
    """Completions of 250 tokens: log probabilities far below what exp can hold."""
    rng = np.random.default_rng(0)
    base, policy = -rng.uniform(700, 900, 50), -rng.uniform(5, 900, 50)
    counts = np.vstack([np.repeat([1, 0], 25), np.repeat([0, 1], 25)])
    samples = frontier.Samples(
        [
            {"model": "base", "variant": "", "kl_factor": ""},
            {"model": "policy", "variant": "blog", "kl_factor": "0", "seed": 0},
        ],
        np.vstack([base, policy]),
        rng.uniform(size=50),
        counts,
    )
    rows = frontier.limit_rows(samples, frontier.Bootstrap(samples, 50, 0), 5.0)
    assert all(math.isfinite(row["reward"] + row["low"] + row["log_z"]) for row in rows)


def write_study(
    folder: Path, toy: Toy, policies: list[np.ndarray], others: Sequence[dict] = ()
) -> None:
    """Files as the completions stage writes them; ``others`` are policies outside the pool."""
    samples = toy.samples(policies, base_draws=3000, draws=1000)
    atomic.write_tensors(
        folder / "log_probs.safetensors",
        {
            "log_prob": np.ascontiguousarray(samples.log_prob),
            "reward": samples.reward.astype(np.float32),
            "counts": np.ascontiguousarray(samples.counts),
        },
        {"models": json.dumps(samples.models), "others": json.dumps(list(others))},
    )

    def table(path: Path, counts: np.ndarray, log_prob: np.ndarray, kl: float) -> None:
        rows = [
            {
                "token_ids": str(i),
                "text": f" word {i}",
                "count": int(counts[i]),
                "reward": samples.reward[i],
                "log_prob_policy": log_prob[i],
                "log_prob_base": samples.log_prob[0][i],
                "kl_policy_to_base_nats": kl,
                "kl_base_to_policy_nats": 2 * kl,
            }
            for i in np.flatnonzero(counts)
        ]
        write_table(path, rows, COMPLETIONS)

    table(folder / "base.csv", samples.counts[0], samples.log_prob[0], 0.0)
    table(folder / "prompted.csv", samples.counts[0], samples.log_prob[0], 1.5)
    for k, policy in enumerate(policies, start=1):
        path = folder / "blog" / "kl=6000" / f"seed={k - 1}.csv"
        table(path, samples.counts[k], samples.log_prob[k], toy.kl(policy))


def run_script(folder: Path) -> subprocess.CompletedProcess:
    arguments: dict[str, object] = {
        "--log-probs": folder / "log_probs.safetensors",
        "--base": folder / "base.csv",
        "--prompted": folder / "prompted.csv",
        "--prompted-with": " a cat",
        "--bootstrap-samples": 30,
        "--out": folder / "out",
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "workflow/scripts/frontier.py")]
        + [str(word) for pair in arguments.items() for word in pair],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_script_writes_the_four_tables_the_same_every_time(tmp_path):
    toy = Toy(5)
    write_study(tmp_path, toy, [toy.best(0.1), toy.best(0.03)])
    done = run_script(tmp_path)
    assert done.returncode == 0, done.stderr
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")}
    assert set(first) == {"limit.csv", "best_of_n.csv", "policies.csv", "prompted.csv"}
    rows = read_table(tmp_path / "out" / "policies.csv", POLICIES)
    assert [row["kl_factor"] for row in rows] == ["6000", "6000"]
    assert float(rows[1]["limit"]) == pytest.approx(
        toy.exact_limit(toy.kl(toy.best(0.03))), abs=0.02
    )
    with open(tmp_path / "out" / "prompted.csv", newline="") as file:
        (prompted,) = csv.DictReader(file)
    assert prompted["text"] == " a cat"
    assert float(prompted["kl_policy_to_base_nats"]) == 1.5
    run_script(tmp_path)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")}


def test_a_policy_outside_the_pool_is_held_against_the_whole_pool(tmp_path):
    toy = Toy(5)
    other = {"model": "policy", "variant": "blog", "kl_factor": "1", "seed": 7}
    write_study(tmp_path, toy, [toy.best(0.1), toy.best(0.03)], [other])
    samples = frontier.read_samples(tmp_path / "log_probs.safetensors")
    counts = toy.samples([toy.best(0.05)], 3000, 1000).counts[1]
    own = frontier.Drawn(counts, toy.r[: len(counts)], counts * 0.0, counts * 0 + 0.4, counts * 0.0)
    drawn = [frontier.read_drawn(tmp_path / f"blog/kl=6000/seed={s}.csv") for s in (0, 1)]
    rows = frontier.policy_rows(samples, frontier.Bootstrap(samples, 20, 0), [*drawn, own])
    assert [row["seed"] for row in rows] == [0, 1, 7]
    pool, strength = frontier.pooled(samples), frontier.strengths(samples.reward)
    highest = float(pool.reward[pool.counts > 0].max())
    whole = frontier.limit_at(0.4, strength, frontier.log_z(pool, strength), highest)[0]
    assert rows[2]["limit"] == pytest.approx(float(whole))


def test_the_pool_grows_no_further_than_64_policies():
    assert pool_of(40) == list(range(40))
    large = pool_of(1000)
    assert (len(set(large)), large[0], large[-1]) == (64, 0, 999)


def test_script_refuses_what_does_not_fit_in_one_line(tmp_path):
    toy = Toy(5)
    write_study(tmp_path, toy, [toy.best(0.1), toy.best(0.03)])
    one, other = (tmp_path / "blog/kl=6000" / f"seed={s}.csv" for s in (0, 1))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())  # the wrong policy's completions
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert f"{one}: not as it was written" in done.stderr
    atomic.seal(one)  # whoever makes a new checksum is found too
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "not the completions that the log_probs" in done.stderr
    assert not (tmp_path / "out").exists()
    one.write_bytes(kept)
    (tmp_path / "log_probs.safetensors").write_bytes(b"not a file of tensors")
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "log_probs.safetensors" in done.stderr


def test_samples_are_checked():
    toy = Toy(0)
    good = toy.samples([toy.p], 100, 100)
    for change, message in (
        ({"counts": good.counts * np.array([[1], [0]])}, "at least one completion"),
        ({"log_prob": -good.log_prob}, "at most 0"),
        ({"log_prob": good.log_prob[:1]}, "shape"),
        ({"reward": good.reward * math.nan}, "finite"),
    ):
        with pytest.raises(UserError, match=message):
            frontier.Samples(**{**vars(good), **change})
