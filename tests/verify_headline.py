"""The headline again, from stored files and without the library: limit, shares, rivals, verdicts.

The best achievable reward at each policy's KL is computed from log probabilities by scipy's minimiser;
best-of-n and its KL by digamma functions; intervals and verdicts from the scores of single stories. What
no second computation gives, the ends of the limit's interval, is held against what must be true of them.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import safe_open
from scipy import optimize, special, stats

Row = dict[str, str]
KL = "kl_policy_to_base_nats"
#: metrics that are plain means over stories, and which way is better
MEANS = {
    "story_reward": 1, "mentions_concept": 1, "mentions_per_100_words": 0, "line_breaks": 0, "ended": 1,
    "distinct_2": 1, "repeated_4_grams": -1, "words": 0,
}  # fmt: skip
#: which way is better of the others; costs and what is neither have 0
OTHERS = {
    "completion_reward": 1, "perplexity_under_base": 0, "base_perplexity_under_policy": 0, KL: 0,
    "kl_base_to_policy_nats": 0, "self_bleu": -1, "vendi_score": 1, "compression_ratio": -1,
    "distinct_completions": 1,
}  # fmt: skip
SHARES = ("mentions_concept", "ended")
FRACTIONS = ("distinct_2", "repeated_4_grams")


class Wrong(Protocol):
    """Counts what differs."""

    def expect(self, what: str, found: object, expected: object, near: float = 0) -> None: ...


def read(path: Path) -> list[Row]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Base:
    """The base model over completions: those seen exactly, the rest by those drawn once."""

    def __init__(self, results: Path) -> None:
        with safe_open(results / "completions/log_probs.safetensors", "numpy") as file:
            log_prob = file.get_tensor("log_prob").astype(float)
            reward = file.get_tensor("reward").astype(float)
            counts = file.get_tensor("counts")
            hit = file.get_tensor("hit").astype(bool)
            self.models = json.loads(file.metadata()["models"])
        found = read(results / "completions/searched.csv")
        self.p = np.exp([*log_prob[0], *(float(row["log_prob_base"]) for row in found)])
        self.r = np.array([*reward, *(float(row["reward"]) for row in found)])
        once = np.flatnonzero((counts.sum(0) == 1) & ~hit)
        drawn = counts.sum(1)
        expected = (drawn[:, None] * np.exp(log_prob[:, once])).sum(0)
        weight = np.exp(log_prob[0][once]) / expected
        if not weight.sum() > 0:
            once = np.flatnonzero(counts[0])
            weight = counts[0][once] / drawn[0]
        self.whole = self.p.copy()  # with the rest of the mass on what was drawn once
        self.whole[once] += (1 - self.p.sum()) * weight / weight.sum()
        self.mean = float(self.whole @ self.r)

    def limit(self, kl: float, mass: np.ndarray) -> float:
        """min over λ of (KL + log Σ mass·exp(λ r)) / λ, at most the highest reward."""
        top = self.r.max()

        def bound(log_strength: float) -> float:
            strength = math.exp(log_strength)
            z = float(mass @ np.exp(strength * (self.r - top)))
            return top + (kl + math.log(z)) / strength

        grid = np.linspace(math.log(1e-3), math.log(1e5), 200) - math.log(np.ptp(self.r))
        at = int(np.argmin([bound(x) for x in grid]))
        around = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
        least = optimize.minimize_scalar(bound, bounds=around, method="bounded")
        return min(float(least.fun), top)


class BestOf:
    """Best-of-n of the base's draws, by the distribution of ranks."""

    def __init__(self, rows: list[Row]) -> None:
        rewards = np.repeat(
            [float(row["reward"]) for row in rows], [int(row["count"]) for row in rows]
        )
        self.sorted = np.sort(rewards)
        self.draws = len(rewards)

    def of(self, n: int) -> tuple[float, float]:
        """Expected reward, and KL to the base."""
        i = np.arange(1, self.draws + 1)
        with np.errstate(divide="ignore"):
            share = np.exp(
                special.gammaln(i) - special.gammaln(np.maximum(i - n + 1, 1e-300))
                - special.gammaln(self.draws + 1) + special.gammaln(self.draws - n + 1)
            ) * n  # fmt: skip
        share[: n - 1] = 0  # of the subsets of n whose maximum is the i-th draw
        place = special.digamma(i) - special.digamma(self.draws + 1)  # E[log u] of the i-th
        density = n * np.exp((n - 1) * place)
        kl = 0.0
        for level in np.unique(self.sorted):
            own = self.sorted == level
            kept = share[own].sum()
            if kept > 0:
                kl += kept * math.log(density[own].mean())
        return float(share @ self.sorted), max(kl, 0.0)


def check_limit(results: Path, base: Base, wrong: Wrong) -> None:
    """frontier/policies.csv: the limit and its certified bound, share, and where the interval lies."""
    for row in read(results / "frontier/policies.csv"):
        where = f"{row['variant']} {row['kl_factor']} seed {row['seed']}"
        kl, reward = float(row[KL]), float(row["reward"])
        limit, proven = base.limit(kl, base.whole), base.limit(kl, base.p)
        wrong.expect(f"limit of {where}", float(row["limit"]), limit, 2e-4)
        if row["limit_certified"]:
            certified = float(row["limit_certified"])
            wrong.expect(f"certified bound of {where}", certified, proven, 2e-4)
            inside = certified <= float(row["limit_high"]) + 1e-6
            wrong.expect(f"certified bound of {where} below the upper end", inside, True)
        low, high = float(row["limit_low"]) - 2e-4, float(row["limit_high"]) + 2e-4
        wrong.expect(f"limit of {where} within its interval", low <= limit <= high, True)
        wrong.expect(f"base reward of {where}", float(row["base_reward"]), base.mean, 1e-4)
        gain = limit - base.mean
        if row["share_of_attainable_gain"] and gain > 0.01:
            share = (reward - base.mean) / gain
            stated = float(row["share_of_attainable_gain"])
            wrong.expect(f"share of {where}", stated, share, 5e-4 / gain)
            low, high = (float(row[f"share_{end}"] or "nan") for end in ("low", "high"))
            wrong.expect(f"share of {where} within its interval", not low > stated and not high < stated, True)  # fmt: skip


def check_rivals(results: Path, best: BestOf, wrong: Wrong) -> None:
    """Best-of-n, its KL, and both rivals at every policy's KL."""
    for row in read(results / "frontier/best_of_n.csv"):
        reward, kl = best.of(int(row["n"]))
        wrong.expect(f"best of {row['n']}", float(row["reward"]), reward, 1e-5)
        wrong.expect(f"KL of best of {row['n']}", float(row[KL]), kl, 1e-4)
    (prompted,) = read(results / "frontier/prompted.csv")
    most = float(prompted[KL])
    for row in read(results / "frontier/policies.csv"):
        where = f"{row['variant']} {row['kl_factor']} seed {row['seed']}"
        if row["best_of"]:
            n = float(row["best_of"])
            (r0, k0), (r1, k1) = best.of(math.floor(n)), best.of(math.floor(n) + 1)
            part = n - math.floor(n)
            wrong.expect(f"KL of the best-of-n beside {where}", k0 + part * (k1 - k0), float(row[KL]), 1e-4)  # fmt: skip
            reward = float(row["best_of_n_reward"])
            wrong.expect(f"best-of-n beside {where}", reward, r0 + part * (r1 - r0), 1e-5)
        if row["prompted_share"]:
            w, q = float(row["prompted_share"]), math.exp(-most)
            kl = special.xlogy(w + (1 - w) * q, w / q + 1 - w) + special.xlogy((1 - w) * (1 - q), 1 - w)  # fmt: skip
            wrong.expect(f"KL of prompting beside {where}", float(kl), float(row[KL]), 1e-4)
            mean = w * float(prompted["reward"]) + (1 - w) * float(best.sorted.mean())
            wrong.expect(f"prompting beside {where}", float(row["prompted_reward"]), mean, 1e-5)


def spread(each: list[float], metric: str, stories: int) -> tuple[float, float] | None:
    """The interval over seeds that is shown, or none."""
    k, mean = len(each), float(np.mean(each))
    if k < 4:
        return None
    if metric not in SHARES and np.ptp(each) > 1e-9 * max(map(abs, each)):
        logarithms = "reward" not in metric and metric not in FRACTIONS and min(each) > 0
        if stats.shapiro(np.log(each) if logarithms else each).pvalue < 0.05:
            return None
    error, t = stats.sem(each), stats.t.ppf(0.975, k - 1)
    if metric in SHARES:
        n = min(stories, mean * (1 - mean) / error**2) if error > 1e-12 else stories
        middle, half = (mean + t**2 / (2 * n)) / (1 + t**2 / n), t / (1 + t**2 / n)
        half *= math.sqrt(mean * (1 - mean) / n + t**2 / (4 * n**2))
        return max(middle - half, 0), min(middle + half, 1)
    if metric in FRACTIONS and 0 < mean < 1:
        wide = t * error / (mean * (1 - mean))
        return tuple(special.expit(special.logit(mean) + s * wide) for s in (-1, 1))
    if "reward" not in metric and mean > 0:
        return mean * math.exp(-t * error / mean), mean * math.exp(t * error / mean)
    return mean - t * error, mean + t * error


def check_intervals(results: Path, wrong: Wrong) -> None:
    """summary.csv and paired_differences.csv from scores/stories.csv; Holm's method; verdicts."""
    each: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    number: dict[tuple[str, ...], int] = defaultdict(int)
    of: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in read(results / "scores/stories.csv"):
        if row["prompt_group"] == "training":
            of[row["model"], row["variant"], row["kl_factor"], row["seed"]].append(row)
    for (*who, seed), rows in of.items():
        number[tuple(who)] += len(rows)
        for metric in MEANS:
            known = [float(row[metric]) for row in rows if row[metric]]
            if known:
                each[(*who, metric)][int(seed)] = float(np.mean(known))
    for row in read(results / "tables/summary.csv"):
        key = (row["model"], row["variant"], row["kl_factor"])
        values = [float(value) for value in row["each"].split()]
        where = f"summary {' '.join(filter(None, key))} {row['metric']}"
        wrong.expect(f"{where}: mean", float(row["mean"]), float(np.mean(values)), 1e-5 * (1 + abs(float(row["mean"]))))  # fmt: skip
        if row["metric"] not in MEANS:
            continue
        own = [value for _, value in sorted(each[(*key, row["metric"])].items())]
        wrong.expect(f"{where}: seeds", bool(np.allclose(values, own, rtol=1e-5, atol=1e-6)), True)
        ends = spread(own, row["metric"], number[key])
        stated = (row["low"], row["high"])
        if ends is None:
            wrong.expect(f"{where}: no interval", stated, ("", ""))
        else:
            near = bool(
                np.allclose(ends, [float(end or "nan") for end in stated], rtol=1e-4, atol=1e-6)
            )
            wrong.expect(f"{where}: interval {stated} of {ends}", near, True)
    differences = read(results / "tables/paired_differences.csv")
    for row in differences:
        if row["metric"] in MEANS and row["metric"] not in SHARES:
            a, b = (_who(row[name], row[v]) for name, v in (("minuend", "variant"), ("subtrahend", "subtrahend_variant")))  # fmt: skip
            ours, theirs = each[(*a, row["metric"])], each[(*b, row["metric"])]
            own = [ours[s] - theirs[s] for s in sorted({*ours} & {*theirs})]
            where = f"{row['comparison']} {row['metric']}"
            wrong.expect(f"{where}: mean", float(row["mean"]), float(np.mean(own)), 1e-5 * (1 + abs(float(np.mean(own)))))  # fmt: skip
            if len(own) > 1 and np.ptp(own) > 1e-9:
                p = float(stats.ttest_1samp(own, 0).pvalue)
                wrong.expect(f"{where}: p", float(row["p_value"]), p, 1e-3 * p + 1e-6)
    check_verdicts("paired_differences", differences, {**MEANS, **OTHERS}, wrong)


def _who(short: str, variant: str) -> tuple[str, str, str]:
    return (short, "", "") if short in ("base", "prompted") else ("policy", variant, short)


def check_verdicts(table: str, rows: list[Row], better: dict[str, int], wrong: Wrong) -> None:
    """Holm's method over the table, and what each verdict says."""
    known = sorted((float(row["p_value"]), i) for i, row in enumerate(rows) if row["p_value"])
    adjusted, running = [math.nan] * len(rows), 0.0
    for rank, (p, i) in enumerate(known):
        running = max(running, min((len(known) - rank) * p, 1.0))
        adjusted[i] = running
    for row, p in zip(rows, adjusted, strict=True):
        where = f"{table} {row.get('comparison') or [row[c] for c in list(row)[:4]]} {row.get('metric', '')}"
        if row["p_value"]:
            wrong.expect(f"{where}: Holm", float(row["p_holm"]), p, 1e-5 + 1e-5 * p)
        way, up = better[row.get("metric", "")], float(row["mean"]) > 0
        words = {1: ("worse", "better"), -1: ("better", "worse"), 0: ("lower", "higher")}[way]
        wrong.expect(f"{where}: verdict", row["verdict"], words[up] if p < 0.05 else "undecided")


def check_equal_kl(results: Path, wrong: Wrong) -> None:
    """tables/equal_kl.csv from frontier/policies.csv: against best-of-n, prompting and other variants."""
    runs: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in read(results / "frontier/policies.csv"):
        runs[row["variant"], row["kl_factor"]].append(row)
    rows = read(results / "tables/equal_kl.csv")
    for row in rows:
        if not row["kl_factor"]:
            continue
        mine = runs[row["variant"], row["kl_factor"]]
        if row["rival"] == "variant":
            check_variant(row, mine, [r for own in runs.values() for r in own], wrong)
            continue
        each = [float(r["reward"]) - float(r[f"{row['rival']}_reward"]) for r in mine]
        where = f"{row['variant']} {row['kl_factor']} against {row['rival']}"
        wrong.expect(f"{where}: mean", float(row["mean"]), float(np.mean(each)), 1e-5)
        if len(each) < 2:
            continue
        shared = float(np.mean([float(r[f"{row['rival']}_error"] or 0) for r in mine]))
        own = float(stats.sem(each)) ** 2
        error = math.sqrt(own + shared**2)
        freedom = (len(each) - 1) * (error**2 / own) ** 2 if own > 1e-12 * error**2 else 1e9
        p = float(2 * stats.t.sf(abs(np.mean(each)) / error, freedom))
        wrong.expect(f"{where}: p", float(row["p_value"]), p, 2e-3 * p + 1e-6)
        if len(each) < 4:
            wrong.expect(f"{where}: no interval", (row["low"], row["high"]), ("", ""))
        else:
            half = float(stats.t.ppf(0.975, freedom)) * error
            ends = np.mean(each) - half, np.mean(each) + half
            stated = [float(row[end]) for end in ("low", "high")]
            wrong.expect(f"{where}: interval", bool(np.allclose(stated, ends, atol=2e-5)), True)
    check_verdicts("equal_kl", rows, {"": 1}, wrong)


def check_variant(row: Row, mine: list[Row], every: list[Row], wrong: Wrong) -> None:
    """A policy against another variant at its KL: that one's share of the gain, between its strengths."""

    def gain(run: Row) -> float:
        return float(run["limit"]) - float(run["base_reward"])

    each = []
    for run in mine:
        rivals = [
            r for r in every if (r["variant"], r["seed"]) == (row["rival_variant"], run["seed"])
        ]
        points = sorted(
            (float(r[KL]), (float(r["reward"]) - float(r["base_reward"])) / gain(r)) for r in rivals
        )
        kls, shares = np.array(points).T
        share = np.interp(float(run[KL]), kls, shares)
        each.append(float(run["reward"]) - float(run["base_reward"]) - float(share) * gain(run))
    where = f"{row['variant']} {row['kl_factor']} against {row['rival_variant']}"
    wrong.expect(f"{where}: mean", float(row["mean"]), float(np.mean(each)), 1e-5)
    if len(each) < 2:
        return
    p = float(stats.ttest_1samp(each, 0).pvalue)
    wrong.expect(f"{where}: p", float(row["p_value"]), p, 2e-3 * p + 1e-6)
    if len(each) >= 4:
        ends = stats.t.interval(0.95, len(each) - 1, np.mean(each), stats.sem(each))
        stated = [float(row[end]) for end in ("low", "high")]
        wrong.expect(f"{where}: interval", bool(np.allclose(stated, ends, atol=2e-5)), True)


def check_decomposition(results: Path, wrong: Wrong) -> None:
    """tables/decomposition.csv: scores of sets from scores/opening_sets.csv, and the sum of all parts."""
    sets = {
        (row["model"], row["variant"], row["kl_factor"], int(row["seed"])): row
        for row in read(results / "scores/opening_sets.csv")
    }
    chains = {
        "policy": ("base", "optimal", "opening_only", "policy"),
        "best_of_n": ("base", "optimal", "best_of_n", "best_of_n"),
        "prompted": ("base", "optimal_prompted", "prompted", "prompted"),
    }
    places = {"necessary": (0, 1), "off_frontier": (1, 2), "spillover": (2, 3), "whole": (0, 3)}
    found: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(dict)
    for row in read(results / "tables/decomposition.csv"):
        key = (row["model"], row["variant"], row["kl_factor"], row["metric"])
        each = [float(value) for value in row["each"].lstrip("'").split()]
        found[key][row["part"]] = each
        if row["metric"] not in ("self_bleu", "vendi_score", "compression_ratio"):
            continue
        seeds = sorted({seed for *_, seed in sets})
        ends = []
        for kind in (chains[row["model"]][place] for place in places[row["part"]]):
            beside = ("", "") if kind in ("base", "prompted", "optimal_prompted") else key[1:3]
            ends.append([float(sets[kind, *beside, seed][row["metric"]]) for seed in seeds])
        own = np.subtract(ends[1], ends[0])
        where = f"decomposition {' '.join(filter(None, key))} {row['part']}"
        wrong.expect(f"{where}: seeds", bool(np.allclose(own, each, rtol=1e-4, atol=2e-5)), True)
        wrong.expect(f"{where}: mean", float(row["mean"]), float(np.mean(own)), 2e-5)
    for who, parts in found.items():
        *three, whole = (parts[name] for name in places)
        wrong.expect(f"decomposition {' '.join(filter(None, who))}: sum", bool(np.allclose(np.sum(three, 0), whole, rtol=1e-4, atol=2e-5)), True)  # fmt: skip


def check_headline(results: Path, wrong: Wrong) -> None:
    """Everything that the first sentences of report and results.md rest on."""
    base: Any = Base(results)
    check_limit(results, base, wrong)
    check_rivals(results, BestOf(read(results / "completions/base.csv")), wrong)
    check_equal_kl(results, wrong)
    check_decomposition(results, wrong)
    check_intervals(results, wrong)
