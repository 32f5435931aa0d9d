"""The split of what training changed, against exact enumeration of a toy model's completions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import ladder_steps
import numpy as np
import pytest
import torch
from word_model import VOCABULARY, tied_model, word_tokenizer

from tinycats.frontier.limit import KnownBase, limit
from tinycats.frontier.openings import Support, at_kl
from tinycats.language_model.network import Network
from tinycats.layout import BASE, OPTIMAL_PROMPTED, PROMPTED, ModelId
from tinycats.stories.openings import Openings, continue_openings, opening_of
from tinycats.stories.storytelling import requests, tell_stories
from tinycats.tables.decomposition import PARTS, decomposition

PROMPT, REWARDED, STORY = "once there was", 2, 3
V = len(VOCABULARY)
CAT = VOCABULARY.index("cat")


@torch.no_grad()
def probabilities(model: Any, length: int) -> dict[tuple[int, ...], float]:
    """Every completion of at most ``length`` tokens (0 ends one) → its probability."""
    prompt = word_tokenizer()(PROMPT).input_ids
    found: dict[tuple[int, ...], float] = {}
    alive: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(length):
        ids = torch.tensor([[*prompt, *prefix] for prefix in alive])
        p = model(ids).logits[:, -1].double().softmax(-1).numpy()
        longer = {
            (*prefix, token): mass * float(row[token])
            for (prefix, mass), row in zip(alive.items(), p, strict=True)
            for token in range(V)
        }
        done = step + 1 == length
        found.update({k: v for k, v in longer.items() if done or k[-1] == 0})
        alive = {k: v for k, v in longer.items() if k[-1] != 0}
    return found


@pytest.fixture(scope="module")
def base() -> Any:
    return tied_model(end=1.5)


@pytest.fixture(scope="module")
def policy(base: Any) -> Any:
    return ladder_steps.moved(base, by=0.1)


@pytest.fixture(scope="module")
def pool(base: Any) -> tuple[list[tuple[int, ...]], KnownBase]:
    """All completions, each with its own probability as weight: the base model exactly."""
    p = probabilities(base, REWARDED)
    ids = sorted(p)
    reward = np.array([0.1 * (CAT in y) + 0.05 * (sum(y) % 3) for y in ids])  # with ties
    none = np.zeros(0, dtype=np.int64)
    mass = np.array([p[y] for y in ids])
    return ids, KnownBase(mass, reward, 0.0, none, np.zeros(0), 0.0, none, np.zeros(0))


def as_openings(ids: list[tuple[int, ...]], log_mass: Any, log_base: Any) -> Openings:
    rows = np.array([[*y, *[-1] * (REWARDED - len(y))] for y in ids])
    return Openings(rows, log_mass, log_base)


def test_both_distributions_are_the_exact_ones(pool: tuple[list[Any], KnownBase]) -> None:
    _, own = pool
    p, r = own.mass, own.reward
    support = Support.of(own)
    optimal = np.exp(support.optimal(7.0))
    expected = p * np.exp(7 * r) / (p @ np.exp(7 * r))
    assert optimal == pytest.approx(expected, rel=1e-9)
    found = at_kl(0.2, 1e-3, 1e4, lambda s: support.kl(support.optimal(s)))
    assert limit(own, 1 / found).kl[0] == pytest.approx(0.2, abs=1e-6)
    # best of 3 by going through every triple of reward levels
    levels = np.unique(r)
    mass = np.array([p[r == a].sum() for a in levels])
    best = np.zeros(len(levels))
    for triple in itertools.product(range(len(levels)), repeat=3):
        best[max(triple)] += math.prod(mass[i] for i in triple)
    expected = np.array(
        [best[levels == a][0] * q / p[r == a].sum() for a, q in zip(r, p, strict=True)]
    )
    assert np.exp(support.best_of_n(3.0)) == pytest.approx(expected, rel=1e-9)
    assert np.exp(support.best_of_n(1.0)) == pytest.approx(p, rel=1e-9)
    # far above the pool's size nothing is nan, and all mass is on the best level
    assert np.exp(support.best_of_n(1e12))[r == r.max()].sum() == pytest.approx(1)
    assert math.isfinite(support.kl(support.best_of_n(1e12)))


def test_openings_are_drawn_and_measured_as_the_distribution_says(
    pool: tuple[list[Any], KnownBase],
) -> None:
    ids, own = pool
    support = Support.of(own)
    log_mass = support.optimal(20.0)
    openings = as_openings(ids, log_mass, support.log_base)
    rng = np.random.default_rng(0)
    drawn = [openings.draw(u) for u in rng.random((4000, REWARDED))]
    place = {y: i for i, y in enumerate(ids)}
    counts = np.bincount([place[o.token_ids] for o in drawn], minlength=len(ids)) / len(drawn)
    assert np.abs(counts - np.exp(log_mass)).max() < 0.03
    for opening in drawn[:50]:
        i = place[opening.token_ids]
        assert opening.log_ratio.sum() == pytest.approx(log_mass[i] - support.log_base[i])
    # the chain rule: the KLs at the states add up to the KL of the whole
    average = np.mean([o.kl_policy_to_base.sum() for o in drawn])
    assert average == pytest.approx(support.kl(log_mass), rel=0.05)


def asked(count: int, seed: int = 0) -> list[Any]:
    return requests(word_tokenizer(), {"training": [PROMPT]}, {"training": count}, "", seed)


def test_a_story_s_own_opening_gives_the_base_s_story_back(base: Any, policy: Any) -> None:
    network, tokenizer, wanted = Network(base), word_tokenizer(), asked(40)
    plain = tell_stories(network, network, tokenizer, wanted, 6)
    again = continue_openings(
        network, tokenizer, wanted, [opening_of(row, REWARDED) for row in plain], 6
    )
    assert [row["token_ids"] for row in again] == [row["token_ids"] for row in plain]
    told = tell_stories(Network(policy), network, tokenizer, wanted, 6)
    openings = [opening_of(row, REWARDED) for row in told]
    for row, own in zip(
        continue_openings(network, tokenizer, wanted, openings, 6), told, strict=True
    ):
        first = row["token_ids"][:REWARDED]
        assert first == own["token_ids"][:REWARDED]
        assert row["log_prob_policy"][: len(first)] == pytest.approx(
            own["log_prob_policy"][: len(first)], abs=3e-4
        )
        assert row["log_prob_policy"][len(first) :] == row["log_prob_base"][len(first) :]
        assert not any(row["kl_policy_to_base_nats"][len(first) :])


def test_the_parts_are_those_of_exact_enumeration(
    base: Any, policy: Any, pool: tuple[list[Any], KnownBase]
) -> None:
    """Score: how often the story says cat. Means of 3000 stories against sums over all stories."""
    ids, own = pool
    support = Support.of(own)
    log_mass = support.optimal(25.0)
    whole = {
        name: probabilities(model, STORY) for name, model in (("base", base), ("policy", policy))
    }
    first = {"base": dict(zip(ids, own.mass, strict=True))}
    first["policy"] = probabilities(policy, REWARDED)
    first["optimal"] = dict(zip(ids, np.exp(log_mass), strict=True))

    def exact(opening: str, then: str) -> float:
        """Σ over stories of P(opening) · P(rest | opening) · score."""
        total = 0.0
        for story, p in whole[then].items():
            start = story[:REWARDED]
            total += first[opening][start] * p / first[then][start] * story.count(CAT)
        return total

    tokenizer, count = word_tokenizer(), 3000
    network, wanted = Network(base), asked(count)
    told = tell_stories(Network(policy), network, tokenizer, wanted, STORY)
    uniforms = [np.random.default_rng(r.sample_seed).random(REWARDED) for r in wanted]
    optimal = as_openings(ids, log_mass, support.log_base)
    stories = {
        BASE: tell_stories(network, network, tokenizer, wanted, STORY),
        ModelId("policy", "blog", "0"): told,
        ModelId("opening_only", "blog", "0"): continue_openings(
            network, tokenizer, wanted, [opening_of(row, REWARDED) for row in told], STORY
        ),
        ModelId("optimal", "blog", "0"): continue_openings(
            network, tokenizer, wanted, [optimal.draw(u) for u in uniforms], STORY
        ),
    }
    half = count // 2

    def values_of(stories: dict[ModelId, list[Any]]) -> Any:
        return {
            (who, "line_breaks"): {
                seed: float(np.mean([row["token_ids"].count(CAT) for row in part]))
                for seed, part in enumerate((rows[:half], rows[half:]))
            }
            for who, rows in stories.items()
        }

    kls = {ModelId("optimal", "blog", "0"): [1.0, 3.0]}
    rows = decomposition(values_of(stories), kls)
    found = {row["part"]: row["mean"] for row in rows}
    expected = {
        "necessary": exact("optimal", "base") - exact("base", "base"),
        "off_frontier": exact("policy", "base") - exact("optimal", "base"),
        "spillover": exact("policy", "policy") - exact("policy", "base"),
        "whole": exact("policy", "policy") - exact("base", "base"),
    }
    assert max(map(abs, expected.values())) > 0.1, "nothing happens: the case is not tested"
    assert found == pytest.approx(expected, abs=0.03)
    assert rows[0]["kl_policy_to_base_nats"] == 2

    # the optimal policy as the policy, at random numbers of its own: it writes what it is, so the last two are 0
    mine = np.random.default_rng(5).random((count, REWARDED))
    as_policy = continue_openings(
        network, tokenizer, asked(count, 1), [optimal.draw(u) for u in mine], STORY
    )
    stories[ModelId("policy", "blog", "0")] = as_policy
    stories[ModelId("opening_only", "blog", "0")] = continue_openings(
        network, tokenizer, asked(count, 2), [opening_of(row, REWARDED) for row in as_policy], STORY
    )
    parts = {row["part"]: row["mean"] for row in decomposition(values_of(stories), kls)}
    assert parts["necessary"] == pytest.approx(expected["necessary"], abs=0.03)
    assert abs(parts["necessary"]) > 0.1
    assert parts["off_frontier"] == pytest.approx(0, abs=0.03)
    assert parts["spillover"] == pytest.approx(0, abs=0.03)


def test_what_is_zero_by_construction() -> None:
    policy = ModelId("policy", "blog", "0")
    best, optimal = replace(policy, kind="best_of_n"), replace(policy, kind="optimal")
    opening = replace(policy, kind="opening_only")
    of = {BASE: 1.0, PROMPTED: 5.0, OPTIMAL_PROMPTED: 2.0, best: 4.0, optimal: 3.0}
    of |= {opening: 3.0, policy: 3.0}  # the policy is the optimal one
    values = {(who, "distinct_2"): {0: v, 1: v + 0.5} for who, v in of.items()}
    rows = decomposition(values, {optimal: [1.0], OPTIMAL_PROMPTED: [2.0]})
    parts = {(row["model"], row["part"]): row["mean"] for row in rows}
    assert [parts["policy", name] for name in PARTS] == [2, 0, 0, 2]
    assert [parts["best_of_n", name] for name in PARTS] == [2, 1, 0, 3]
    assert [parts["prompted", name] for name in PARTS] == [1, 3, 0, 4]
