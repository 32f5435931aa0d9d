"""Methods on a toy with few completions: expected gradients are those that docs/methods.md states.

The oracle (:mod:`plain_methods`) is compared here with exact enumeration; tests/test_rollout.py
compares the library with the oracle.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import ladder_steps
import plain_methods
import pytest
import torch
from plain_methods import Measured
from torch import Tensor

from tinycats.policies import objective

PROMPT, NEW_TOKENS, NUM_TOKENS, C = [3, 1, 4], 2, 5, 0.6
#: a coefficient for which the optimal policy is far from the base
FAR = 0.1


class Toy(NamedTuple):
    """Every completion: its measurements, with their graph, and its reward."""

    parameters: list[Tensor]
    measured: Measured
    rewards: Tensor

    @property
    def p(self) -> Tensor:
        return self.measured.log_prob.sum(1).exp()

    @property
    def log_ratio(self) -> Tensor:
        return (self.measured.log_prob - self.measured.log_prob_base).sum(1)

    def gradient(self, value: Tensor) -> Tensor:
        """∂value/∂θ as one vector."""
        found = torch.autograd.grad(value, self.parameters, retain_graph=True)
        return torch.cat([g.flatten() for g in found])


@pytest.fixture(scope="module")
def toy() -> Toy:
    """A GPT-Neo with a vocabulary of 5 and 2 new tokens: 21 completions."""
    model = ladder_steps.gpt_neo(vocabulary=5).double()
    base = ladder_steps.moved(model, by=0.2)
    completions = ladder_steps.all_completions(5, NEW_TOKENS)
    generator = torch.Generator().manual_seed(2)
    rewards = torch.rand(len(completions), generator=generator, dtype=torch.float64)
    measured = plain_methods.measured(model, base, PROMPT, completions, NEW_TOKENS)
    toy = Toy([p for p in model.parameters() if p.requires_grad], measured, rewards)
    assert toy.p.sum().item() == pytest.approx(1, abs=1e-12)
    return toy


def table_of(
    p: Tensor, completions: list[list[int]], vocabulary: int
) -> dict[tuple[int, ...], Tensor]:
    """log-probabilities of the next token after each prefix, from those of whole completions."""
    mass: dict[tuple[int, ...], Tensor] = {}
    for tokens, probability in zip(completions, p, strict=True):
        for t, token in enumerate(tokens):
            row = mass.setdefault(tuple(tokens[:t]), torch.zeros(vocabulary, dtype=torch.float64))
            row[token] += probability
    return {prefix: (row / row.sum()).log() for prefix, row in mass.items()}


def tabular(policy: Tensor | None, vocabulary: int = 4, new_tokens: int = 2) -> Toy:
    """A policy that is a table of logits, so that it can be any distribution.

    Args:
        policy: probability of each completion; None: some other than the base's.
    """
    completions = ladder_steps.all_completions(vocabulary, new_tokens)
    generator = torch.Generator().manual_seed(4)

    def some() -> Tensor:
        return torch.randn(len(completions), generator=generator, dtype=torch.float64).softmax(0)

    base = table_of(some(), completions, vocabulary)
    rewards = torch.rand(len(completions), generator=generator, dtype=torch.float64)
    table = table_of(some() if policy is None else policy, completions, vocabulary)
    logits = {prefix: row.clone().requires_grad_() for prefix, row in table.items()}
    each = []
    for tokens in completions:
        prefixes = [tuple(tokens[:t]) for t in range(len(tokens))]
        log_p = torch.stack([logits[prefix].log_softmax(0) for prefix in prefixes])
        log_p_base = torch.stack([base[prefix] for prefix in prefixes])
        each.append(plain_methods.at_tokens(log_p, log_p_base, torch.tensor(tokens)))
    return Toy(list(logits.values()), plain_methods.stacked(each, new_tokens), rewards)


def expected_gradient(
    toy: Toy, advantage: str, kl: str, batch: int = 2, coefficient: float = C
) -> Tensor:
    """The exact mean of a method's gradient over all batches of this size."""
    p = toy.p.detach()
    batches = torch.cartesian_prod(*(torch.arange(len(p)),) * batch)
    value = torch.vmap(
        lambda members: plain_methods.loss(
            toy.measured.rows(members), toy.rewards[members], advantage, kl, NUM_TOKENS, coefficient
        )
    )(batches)
    return toy.gradient((p[batches].prod(1) * value).sum())


def reward_term(toy: Toy, rewards: Tensor, advantage: str) -> Tensor:
    """What the reward's part of the gradient descends in expectation, batches of two, times N."""
    p, held = toy.p, toy.p.detach()
    if advantage == "standardised":  # of two completions: ±1, but for the 1e-6
        half = (rewards[:, None] - rewards[None]) / 2
        return -(p[:, None] * held[None] * half / (half.abs() + 1e-6)).sum()
    if advantage == "best_of_n":  # of two: P(s wins) = P(R ≤ R(s))² − P(R < R(s))²
        below = torch.stack([held[rewards < own].sum() for own in rewards])
        return -(((below + held) ** 2 - below**2) * p.log()).sum()
    share = 1 / 2 if advantage == "mean" else 1  # (B − 1) / B
    return -share * (p * rewards).sum()


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to rounding; transformers' GPT-Neo computes its attention in float32 in any case."""
    assert (found - expected).norm() < 1e-6 * expected.norm()


ADVANTAGES = [name for name in objective.ADVANTAGES if name != "tilt"]


@pytest.mark.parametrize("kl", [name for name in objective.KLS if name != "none"])
@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_expected_gradient_is_that_of_the_enumerated_objective(
    toy: Toy, advantage: str, kl: str
) -> None:
    """Or its documented bias: `mean`, `base_to_policy` and `k3` hold something fixed or scale it."""
    p, rewards = toy.p, toy.rewards
    penalty = {
        "base_to_policy": p.detach() * toy.measured.base_to_policy.sum(1),
        "policy_to_base": p * toy.measured.policy_to_base.sum(1),
        "in_reward": 0 * p,
        "k3": p.detach() * toy.measured.base_to_policy.sum(1),
    }[kl].sum()
    if kl == "in_reward":
        rewards = rewards - C * toy.log_ratio.detach()
    expected = toy.gradient((reward_term(toy, rewards, advantage) + C * penalty) / NUM_TOKENS)
    assert_same(expected_gradient(toy, advantage, kl), expected)


@pytest.mark.parametrize("advantage", ["reward", "leave_one_out"])
def test_in_reward_has_the_expected_gradient_of_policy_to_base(toy: Toy, advantage: str) -> None:
    whole = (-toy.p * toy.rewards + C * toy.p * toy.log_ratio).sum() / NUM_TOKENS
    for kl in ("in_reward", "policy_to_base"):
        assert_same(expected_gradient(toy, advantage, kl), toy.gradient(whole))


def optimal() -> Toy:
    """The table that is π* ∝ p_base · exp(R/c)."""
    other = tabular(None)
    log_base = other.measured.log_prob_base.sum(1)
    return tabular((log_base + other.rewards / FAR).softmax(0))


@pytest.mark.parametrize(
    ("advantage", "kl", "fixed"),
    [
        *itertools.product(["reward", "leave_one_out"], ["policy_to_base", "in_reward"], [True]),
        *itertools.product(["reward", "leave_one_out"], ["base_to_policy", "k3"], [False]),
        ("standardised", "policy_to_base", False),
        ("best_of_n", "policy_to_base", False),
        ("tilt", "none", True),
    ],
)
def test_the_optimal_policy_is_the_fixed_point_of_some(
    advantage: str, kl: str, fixed: bool
) -> None:
    elsewhere, there = (
        expected_gradient(toy, advantage, kl, coefficient=FAR).norm()
        for toy in (tabular(None), optimal())
    )
    assert (there < 1e-12 * elsewhere) if fixed else (there > 1e-2 * elsewhere)


def test_tilt_descends_the_divergence_from_the_optimal_policy_with_a_bias_of_order_one_over_batch() -> (
    None
):
    toy = tabular(None)
    target = (toy.measured.log_prob_base.sum(1) + toy.rewards / C).softmax(0)
    whole = toy.gradient((target * (target.log() - toy.p.log())).sum() / NUM_TOKENS)
    bias = {
        batch: (expected_gradient(toy, "tilt", "none", batch) - whole).norm() / whole.norm()
        for batch in (2, 4)
    }
    assert bias[4] < 0.65 * bias[2]
    assert bias[4] < 0.5


def test_groups_of_best_of_n_follow_the_order_of_drawing() -> None:
    rewards = torch.tensor([0.1, 0.3, 0.3, 0.9, -0.2, -0.1])
    drawn = objective.Drawn(rewards, torch.zeros(6, dtype=torch.float64), 0.1, n=3)
    assert objective.best_of_n(drawn).tolist() == [0, 3, 0, 3, 0, 0]
